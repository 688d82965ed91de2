"""What callers send: tensors to a query. Pure functions, no Triton in them; `answer.py` has the way back."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from deploykit.errors import RequestError
from deploykit.serve.prompt import Prompt, no_prompt, read_prompt
from deploykit.serve.tensors import Tensors, decode, flag, one, read_object, shown, text
from deploykit.serve.terms import take_terms

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
    **dict.fromkeys(("text_input", "messages", "tools", "sampling_parameters", "stop", "client"), "O"),
    **dict.fromkeys(("stream", "exclude_input_in_output", "ignore_eos", *_OUTPUT_OF), "b"),
    **dict.fromkeys(("input_ids", *_INTEGERS), "i"),
    **dict.fromkeys(_FLOATS, "f"),
}
"""Each input's kind of numpy dtype."""
_KIND_NAMES: Final = {"O": "strings", "b": "booleans", "i": "integers", "f": "floats"}
_TEXTS: Final = ("stop", "bad_words", "client", "id", "traceparent", "tracestate")
"""Parameters that stay text where they spell a number."""

MAX_PARAMETERS_BYTES: Final = 65536
"""Largest `sampling_parameters`: sixteen stop texts fit in easily, and nothing that is slow to parse."""


@dataclass(frozen=True, kw_only=True)
class Query:
    """A request for text, its form checked; whether the model can run it is for the engine to say."""

    prompt: Prompt
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
    traceparent: str = ""
    """The caller's place in a trace, as W3C writes it; empty where there is none."""
    tracestate: str = ""
    """What tracing systems have added to it."""
    request_id: str = ""
    """What the caller calls it, for logs and traces."""
    describe: bool = False
    """Whether it asks what the engine is, and for no text; the prompt is empty then."""

    @property
    def prefix(self) -> str:
        """What the text of each choice begins with."""
        return self.prompt if self.prepend and isinstance(self.prompt, str) else ""


def read_query(
    tensors: Tensors,
    parameters: str = "{}",
    *,
    timeout: float | None = None,
    request_id: str = "",
    continues: bool = True,
) -> Query:
    """Return what a caller asks for.

    Args:
        tensors: the inputs by name; string tensors hold bytes.
        parameters: the request's own parameters, a JSON object.
        timeout: Triton's own time limit of the request in seconds, if it has one.
        request_id: Triton's own name of the request, if it has one.
        continues: whether the model goes on where the prompt ends; an encoder-decoder begins a text of its own, and
            the prompt is never a part of it.

    Raises:
        RequestError: an input of the wrong type, length or encoding, an unknown one, or two that contradict each other.
    """
    for name, tensor in tensors.items():
        if name not in _KINDS:
            raise RequestError(f"unknown input {name!r}")
        if tensor.dtype.kind != _KINDS[name]:
            raise RequestError(f"{name} must hold {_KIND_NAMES[_KINDS[name]]}, got {tensor.dtype}")
    given = _parameters(tensors, parameters)
    if timeout is not None:
        _merge(given, {"timeout": timeout})
    terms = take_terms(given)
    describe = terms.get("describe", False)
    prompt = no_prompt(tensors) if describe else read_prompt(tensors)
    stream = flag(tensors, "stream", default=False)
    alone = stream or not isinstance(prompt, str) or not continues
    prepend = not flag(tensors, "exclude_input_in_output", default=alone)
    if prepend and not continues:
        raise RequestError(
            "exclude_input_in_output can't be false: this model's answer doesn't continue its input; leave it out"
        )
    if prepend and stream:
        raise RequestError("exclude_input_in_output can't be false when stream is true")
    if prepend and not isinstance(prompt, str):
        raise RequestError("exclude_input_in_output can be false for text_input only; leave it out")
    wanted = frozenset(output for name, output in _OUTPUT_OF.items() if flag(tensors, name, default=False))
    logprobs = given.get("logprobs") is not None
    if "cumulative_logprob" in wanted and not logprobs:
        # The engine adds them up only where it makes them.
        given["logprobs"] = 0
    return Query(
        prompt=prompt,
        stream=stream,
        prepend=prepend,
        sampling=given,
        wanted=wanted,
        logprobs=logprobs,
        client=terms.get("client", ""),
        priority=terms.get("priority", 0),
        timeout=terms.get("timeout"),
        interval=terms.get("stream_interval", 1),
        traceparent=terms.get("traceparent", ""),
        tracestate=terms.get("tracestate", ""),
        # Over gRPC and `/infer` it is Triton's own; `/generate` hands on its field as a parameter.
        request_id=request_id or terms.get("id", ""),
        describe=describe,
    )


def _parameters(tensors: Tensors, parameters: str) -> dict[str, Any]:
    """Return the parameters from the three places they may stand in."""
    found: dict[str, Any] = {}
    if "sampling_parameters" in tensors:
        given = text(tensors, "sampling_parameters")
        _merge(found, _numbers(read_object("sampling_parameters", given, limit=MAX_PARAMETERS_BYTES)))
    _merge(found, {name: _scalar(tensors, name) for name in (*_INTEGERS, *_FLOATS, "ignore_eos") if name in tensors})
    if "client" in tensors:
        _merge(found, {"client": text(tensors, "client")})
    if "stop" in tensors:
        _merge(found, {"stop": [decode("stop", item) for item in tensors["stop"].reshape(-1)]})
    # Triton's own request parameters have this prefix; the others are what its vLLM backend reads as sampling.
    own = read_object("parameters", parameters or "{}", limit=MAX_PARAMETERS_BYTES)
    _merge(found, _numbers({name: value for name, value in own.items() if not name.startswith("triton_")}))
    return found


def _merge(into: dict[str, Any], more: Mapping[str, Any]) -> None:
    for name, value in more.items():
        if name in into and into[name] != value:
            raise RequestError(f"{name} is given twice, as {shown(into[name])} and as {shown(value)}")
        into[name] = value


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


def _scalar(tensors: Tensors, name: str) -> Any:
    value = one(tensors, name)
    # By way of the shortest decimal: a caller's 0.7 is 0.7 again, not the nearest 32-bit float.
    return float(str(value)) if _KINDS[name] == "f" else value.item()
