"""What callers send and get: tensors to a query, events to tensors. Pure functions, no Triton in them."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Protocol

import numpy as np
from numpy.typing import NDArray

from deploykit.errors import RequestError

Tensors = Mapping[str, NDArray[Any]]

_SCALARS: Final = ("max_tokens", "temperature", "top_k", "top_p", "seed", "ignore_eos")
_OUTPUT_OF: Final = {
    f"return_{name}": name for name in ("finish_reason", "cumulative_logprob", "num_input_tokens", "num_output_tokens")
}
_KINDS: Final = {
    **dict.fromkeys(("text_input", "sampling_parameters", "stop"), "O"),
    **dict.fromkeys(("stream", "exclude_input_in_output", "ignore_eos", *_OUTPUT_OF), "b"),
    **dict.fromkeys(("max_tokens", "top_k", "seed"), "i"),
    **dict.fromkeys(("temperature", "top_p"), "f"),
}
"""Each input's kind of numpy dtype."""
_KIND_NAMES: Final = {"O": "strings", "b": "booleans", "i": "integers", "f": "floats"}

MAX_PARAMETERS_BYTES: Final = 65536
"""Largest `sampling_parameters`: sixteen stop texts fit in easily, and nothing that is slow to parse."""

NO_REASON: Final = "None"
"""`finish_reason` of a response that isn't the last, as Triton's vLLM backend gives it."""


class Step(Protocol):
    """What an answer needs of an engine's event."""

    @property
    def text(self) -> str: ...  # noqa: D102  # the engine's own documentation says what each is
    @property
    def finish_reason(self) -> str | None: ...  # noqa: D102
    @property
    def num_input_tokens(self) -> int: ...  # noqa: D102
    @property
    def num_output_tokens(self) -> int: ...  # noqa: D102
    @property
    def cumulative_logprob(self) -> float: ...  # noqa: D102


@dataclass(frozen=True, kw_only=True)
class Query:
    """A request for text, its form checked; whether the model can run it is for the engine to say."""

    prompt: str
    stream: bool
    """Whether each token gets a response of its own."""
    prepend: bool
    """Whether the text begins with the prompt."""
    sampling: Mapping[str, Any]
    """Parameters by name, as given."""
    wanted: frozenset[str]
    """Outputs asked for beside the text."""


def read_query(tensors: Tensors, parameters: str = "{}") -> Query:
    """Return what a caller asks for.

    Args:
        tensors: the inputs by name; string tensors hold bytes.
        parameters: the request's own parameters, a JSON object.

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
    return Query(
        prompt=_text(tensors, "text_input"),
        stream=stream,
        prepend=not excluded,
        sampling=_sampling(tensors, parameters),
        wanted=frozenset(output for name, output in _OUTPUT_OF.items() if _flag(tensors, name, default=False)),
    )


class Answer:
    """The responses to one query, from the events of its generation."""

    def __init__(self, query: Query) -> None:
        self._query = query
        self._texts = [query.prompt] if query.prepend else []
        self._told = 0

    def add(self, step: Step) -> dict[str, NDArray[Any]] | None:
        """Return the tensors to send for an event: for each when streaming, else for the last only."""
        self._texts.append(step.text)
        if not self._query.stream and step.finish_reason is None:
            return None
        text = "".join(self._texts)
        self._texts.clear()
        tensors: dict[str, NDArray[Any]] = {"text_output": _strings(text)}
        more = {
            "finish_reason": _strings(step.finish_reason or NO_REASON),
            "cumulative_logprob": np.array([step.cumulative_logprob], np.float32),
            "num_input_tokens": np.array([step.num_input_tokens], np.uint32),
            # As in Triton's vLLM backend: the tokens of this response, not of all so far.
            "num_output_tokens": np.array([step.num_output_tokens - self._told], np.uint32),
        }
        self._told = step.num_output_tokens
        return tensors | {name: tensor for name, tensor in more.items() if name in self._query.wanted}


def _sampling(tensors: Tensors, parameters: str) -> dict[str, Any]:
    """Return the sampling parameters from the three places they may stand in."""
    found: dict[str, Any] = {}
    if "sampling_parameters" in tensors:
        text = _text(tensors, "sampling_parameters")
        _merge(found, _numbers(_json_object("sampling_parameters", text)))
    scalars: dict[str, Any] = {name: _scalar(tensors, name) for name in _SCALARS if name in tensors}
    if "stop" in tensors:
        scalars["stop"] = [_decode("stop", item) for item in tensors["stop"].reshape(-1)]
    _merge(found, scalars)
    # Triton's own request parameters have this prefix; the others are what its vLLM backend reads as sampling.
    given = _json_object("parameters", parameters or "{}")
    _merge(found, _numbers({name: value for name, value in given.items() if not name.startswith("triton_")}))
    return found


def _merge(into: dict[str, Any], more: Mapping[str, Any]) -> None:
    for name, value in more.items():
        if name in into and into[name] != value:
            raise RequestError(f"{name} is given twice, as {into[name]!r} and as {value!r}")
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
    return {name: value if name == "stop" else _number(value) for name, value in given.items()}


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


def _strings(text: str) -> NDArray[Any]:
    return np.array([text.encode("utf-8", errors="replace")], np.object_)
