"""What callers send: tensors to a query. Pure functions, no Triton in them; `answer.py` has the way back."""

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from numpy.typing import NDArray

from deploykit.errors import RequestError

Tensors = Mapping[str, NDArray[Any]]

_INTEGERS: Final = ("max_tokens", "min_tokens", "top_k", "seed", "n", "priority", "stream_interval")
_FLOATS: Final = (
    "temperature",
    "top_p",
    "min_p",
    "repetition_penalty",
    "presence_penalty",
    "frequency_penalty",
    "timeout",
)
_OUTPUT_OF: Final = {
    f"return_{name}": name
    for name in ("finish_reason", "cumulative_logprob", "logprobs", "num_input_tokens", "num_output_tokens")
}
_KINDS: Final = {
    **dict.fromkeys(("text_input", "sampling_parameters", "stop", "client"), "O"),
    **dict.fromkeys(("stream", "exclude_input_in_output", "ignore_eos", *_OUTPUT_OF), "b"),
    **dict.fromkeys(_INTEGERS, "i"),
    **dict.fromkeys(_FLOATS, "f"),
}
"""Each input's kind of numpy dtype."""
_KIND_NAMES: Final = {"O": "strings", "b": "booleans", "i": "integers", "f": "floats"}
_TEXTS: Final = ("stop", "bad_words", "client")
"""Parameters that stay text where they spell a number."""

MAX_PARAMETERS_BYTES: Final = 65536
"""Largest `sampling_parameters`: sixteen stop texts fit in easily, and nothing that is slow to parse."""
MAX_CLIENT: Final = 256
"""Characters of a client's name: those of a key or a UUID, and no prompt by mistake."""
MAX_INTERVAL: Final = 1024
"""Tokens of one response at most."""
_INT32: Final = 2**31


@dataclass(frozen=True, kw_only=True)
class Query:
    """A request for text, its form checked; whether the model can run it is for the engine to say."""

    prompt: str
    stream: bool
    """Whether the text comes in pieces, as it is generated."""
    prepend: bool
    """Whether the text begins with the prompt."""
    sampling: Mapping[str, Any]
    """Parameters by name, as given."""
    wanted: frozenset[str]
    """Outputs asked for beside the text."""
    logprobs: bool = False
    """Whether the caller said of how many tokens log probabilities are wanted."""
    client: str = ""
    """Whose request it is; clients share the model evenly."""
    priority: int = 0
    """Lower goes first."""
    timeout: float | None = None
    """Seconds it may wait before it begins."""
    interval: int = 1
    """Tokens that a response of a stream waits for, but for the first and the last."""


def read_query(tensors: Tensors, parameters: str = "{}", *, timeout: float | None = None) -> Query:
    """Return what a caller asks for.

    Args:
        tensors: the inputs by name; string tensors hold bytes.
        parameters: the request's own parameters, a JSON object.
        timeout: Triton's own time limit of the request in seconds, if it has one.

    Raises:
        RequestError: an input of the wrong type, length or encoding, an unknown one, or two that contradict each other.
    """
    for name, tensor in tensors.items():
        if name not in _KINDS:
            raise RequestError(f"unknown input {name!r}")
        if tensor.dtype.kind != _KINDS[name]:
            raise RequestError(f"{name} must hold {_KIND_NAMES[_KINDS[name]]}, got {tensor.dtype}")
    if "text_input" not in tensors:
        raise RequestError("text_input is missing")
    stream = _flag(tensors, "stream", default=False)
    excluded = _flag(tensors, "exclude_input_in_output", default=stream)
    if stream and not excluded:
        raise RequestError("exclude_input_in_output can't be false when stream is true")
    given = _parameters(tensors, parameters)
    if timeout is not None:
        _merge(given, {"timeout": timeout})
    terms = {name: read(name, given.pop(name)) for name, read in _TERMS.items() if given.get(name) is not None}
    wanted = frozenset(output for name, output in _OUTPUT_OF.items() if _flag(tensors, name, default=False))
    logprobs = given.get("logprobs") is not None
    if "cumulative_logprob" in wanted and not logprobs:
        # The engine adds them up only where it makes them.
        given["logprobs"] = 0
    return Query(
        prompt=_text(tensors, "text_input"),
        stream=stream,
        prepend=not excluded,
        sampling=given,
        wanted=wanted,
        logprobs=logprobs,
        client=terms.get("client", ""),
        priority=terms.get("priority", 0),
        timeout=terms.get("timeout"),
        interval=terms.get("stream_interval", 1),
    )


def _parameters(tensors: Tensors, parameters: str) -> dict[str, Any]:
    """Return the parameters from the three places they may stand in."""
    found: dict[str, Any] = {}
    if "sampling_parameters" in tensors:
        text = _text(tensors, "sampling_parameters")
        _merge(found, _numbers(_json_object("sampling_parameters", text)))
    _merge(found, {name: _scalar(tensors, name) for name in (*_INTEGERS, *_FLOATS, "ignore_eos") if name in tensors})
    if "client" in tensors:
        _merge(found, {"client": _text(tensors, "client")})
    if "stop" in tensors:
        _merge(found, {"stop": [_decode("stop", item) for item in tensors["stop"].reshape(-1)]})
    # Triton's own request parameters have this prefix; the others are what its vLLM backend reads as sampling.
    given = _json_object("parameters", parameters or "{}")
    _merge(found, _numbers({name: value for name, value in given.items() if not name.startswith("triton_")}))
    return found


def _merge(into: dict[str, Any], more: Mapping[str, Any]) -> None:
    for name, value in more.items():
        if name in into and into[name] != value:
            raise RequestError(f"{name} is given twice, as {_shown(into[name])} and as {_shown(value)}")
        into[name] = value


def _json_object(name: str, text: str) -> dict[str, Any]:
    if len(text) > MAX_PARAMETERS_BYTES:
        raise RequestError(f"{name} has {len(text)} characters, at most {MAX_PARAMETERS_BYTES} are allowed")
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        raise RequestError(f"{name} is not valid JSON") from None
    if not isinstance(value, dict):
        raise RequestError(f"{name} must be a JSON object, got {type(value).__name__}")
    return value


def _numbers(given: Mapping[str, Any]) -> dict[str, Any]:
    """Return the parameters, numbers spelled as strings made numbers: so clients of Triton's vLLM backend send them."""
    return {name: value if name in _TEXTS else _number(value) for name, value in given.items()}


def _number(value: Any) -> Any:
    if isinstance(value, str):
        try:
            parsed = json.loads(value)
        except (ValueError, RecursionError):
            return value
        if isinstance(parsed, int | float):
            return parsed
    return value


def _one(tensors: Tensors, name: str) -> Any:
    values = tensors[name].reshape(-1)
    if values.size != 1:
        raise RequestError(f"{name} must hold exactly one element, got {values.size}")
    return values[0]


def _flag(tensors: Tensors, name: str, *, default: bool) -> bool:
    return bool(_one(tensors, name)) if name in tensors else default


def _scalar(tensors: Tensors, name: str) -> Any:
    value = _one(tensors, name)
    # By way of the shortest decimal: a caller's 0.7 is 0.7 again, not the nearest 32-bit float.
    return float(str(value)) if _KINDS[name] == "f" else value.item()


def _text(tensors: Tensors, name: str) -> str:
    return _decode(name, _one(tensors, name))


def _decode(name: str, value: Any) -> str:
    if isinstance(value, str):
        return value
    try:
        return bytes(value).decode("utf-8")
    except UnicodeDecodeError as error:
        raise RequestError(f"{name} is not UTF-8: byte 0x{error.object[error.start]:02x} at {error.start}") from None
    except (TypeError, ValueError):
        raise RequestError(f"{name} must hold strings, got {type(value).__name__}") from None


def _client(name: str, value: Any) -> str:
    if not isinstance(value, str) or len(value) > MAX_CLIENT:
        raise RequestError(f"{name} must be a text of at most {MAX_CLIENT} characters, got {_shown(value)}")
    return value


def _integer(name: str, value: Any, low: int, high: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        raise RequestError(f"{name} must be an integer from {low} to {high}, got {_shown(value)}")
    return value


def _priority(name: str, value: Any) -> int:
    return _integer(name, value, -_INT32, _INT32 - 1)


def _interval(name: str, value: Any) -> int:
    return _integer(name, value, 1, MAX_INTERVAL)


def _seconds(name: str, value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < math.inf:
        raise RequestError(f"{name} must be a number of seconds above 0, got {_shown(value)}")
    # No machine waits longer, and every clock can hold it.
    return float(min(value, _INT32))


_TERMS: Final[Mapping[str, Callable[[str, Any], Any]]] = {
    "client": _client,
    "priority": _priority,
    "timeout": _seconds,
    "stream_interval": _interval,
}
"""Parameters that say how a request is run, not how tokens are chosen, and the reading of each."""


def _shown(value: object) -> str:
    """Return a value short enough for a one-line message, and safe to encode."""
    try:
        text = ascii(value)
    except (ValueError, RecursionError):
        # Python writes out no integer of more than 4,300 digits, and nothing nested too deep.
        return f"a value of type {type(value).__name__} too long to show"
    return text if len(text) <= 40 else f"{text[:37]}…"
