"""Requests and responses as protobuf messages. Pure: no I/O, so that every kind of client can share it.

The tensors are those of Triton's vLLM backend: `text_input`, `stream`, `sampling_parameters` and the `return_*`
switches in; `text_output`, `finish_reason`, `num_input_tokens` and `num_output_tokens` out. Strings are BYTES tensors:
each element is its length, 4 bytes little-endian, and its UTF-8 bytes.
"""

import json
import struct
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal, TypedDict, cast

from tritonclient.grpc import service_pb2

from deploykit.client.errors import InvalidRequestError, ServerError

FinishReason = Literal["stop", "length", "cancelled"]

_SWITCHES: Final = (
    "exclude_input_in_output",
    "return_finish_reason",
    "return_num_input_tokens",
    "return_num_output_tokens",
)
_NOT_READ: Final = frozenset({"n", "logprobs"})
"""Parameters whose answers a `Completion` has no room for."""
_UNFINISHED: Final = ("", "None")
"""`finish_reason` of a response that isn't the last; the vLLM backend writes Python's None."""


class Sampling(TypedDict, total=False):
    """How the next token is chosen and when the text ends; the server's defaults where not given."""

    max_tokens: int | None
    """Tokens to generate at most."""
    temperature: float | None
    """0 is greedy; higher is more random."""
    top_k: int | None
    """Choose among the k likeliest tokens only."""
    top_p: float | None
    """Choose among the likeliest tokens that together have this probability only."""
    seed: int | None
    """Makes a sampled answer repeatable."""
    stop: str | Sequence[str] | None
    """Texts that end the answer; they are not part of it."""
    ignore_eos: bool
    """Whether to go on past the model's end-of-text token."""
    min_tokens: int | None
    """Tokens to generate at least."""
    min_p: float | None
    """Choose among tokens at least this share as likely as the likeliest only."""
    repetition_penalty: float | None
    """Above 1, tokens of prompt and answer are less likely."""
    presence_penalty: float | None
    """Taken from the logits of the answer's tokens."""
    frequency_penalty: float | None
    """The same, times how often they are in it."""
    logit_bias: Mapping[int, float] | None
    """Added to the logits, by token id."""
    bad_words: Sequence[str] | None
    """Texts that the answer must not hold."""
    stop_token_ids: Sequence[int] | None
    """Tokens that end the answer; they are not part of it."""
    client: str | None
    """Whose request it is: those who ask share the model evenly."""
    priority: int | None
    """Lower goes first."""


@dataclass(frozen=True, kw_only=True)
class Chunk:
    """A piece of an answer, as it arrives.

    Example:
        ```python
        from deploykit.client import Client

        with Client("localhost:8001") as client:
            for chunk in client.generate("def ", stream=True):
                print(chunk.text, end="", flush=True)
            print(f"({chunk.num_output_tokens} tokens, ended by {chunk.finish_reason})")
        ```
    """

    text: str
    """What this piece adds; may be empty while a character is incomplete."""
    finish_reason: FinishReason | None
    """Why the answer ends with this piece; None where it goes on."""
    num_input_tokens: int
    """Tokens of the prompt."""
    num_output_tokens: int
    """Tokens generated so far."""


@dataclass(frozen=True, kw_only=True)
class Completion:
    """A whole answer.

    Example:
        ```python
        from deploykit.client import Client

        with Client("localhost:8001") as client:
            answer = client.generate("def ", max_tokens=16)
            print(answer.text, answer.finish_reason, answer.num_output_tokens)
        ```
    """

    text: str
    finish_reason: FinishReason | None
    """`stop`: the model or a stop text ended it; `length`: `max_tokens` or the model's context did."""
    num_input_tokens: int
    """Tokens of the prompt."""
    num_output_tokens: int
    """Tokens of the answer."""


@dataclass(frozen=True, kw_only=True)
class Model:
    """A model of the server, in one version.

    Example:
        ```python
        from deploykit.client import Client

        with Client("localhost:8001") as client:
            print([model.name for model in client.models() if model.ready])
        ```
    """

    name: str
    version: str
    ready: bool
    reason: str
    """Why it isn't ready; empty where unknown."""


def generation_request(model: str, prompt: str, sampling: Mapping[str, Any], *, stream: bool) -> Any:
    """Return the ModelInferRequest that asks `model` to continue `prompt`.

    Args:
        model: the model's name.
        prompt: the text to continue.
        sampling: fields of `Sampling`; None and what is absent is left to the server.
        stream: whether the answer comes token by token.

    Raises:
        InvalidRequestError: a value that can't be sent at all; any other mistake is for the server to name.
    """
    request = service_pb2.ModelInferRequest(model_name=model)
    _add_text(request, "text_input", _utf8("prompt", prompt))
    _add_flag(request, "stream", stream)
    for name in _SWITCHES:
        _add_flag(request, name, True)
    parameters = {name: _plain(name, value) for name, value in sampling.items() if value is not None}
    for name in sorted(_NOT_READ & parameters.keys()):
        raise InvalidRequestError(f"{name} asks for more than this client reads; leave it out, or ask Triton over HTTP")
    if parameters:
        _add_text(request, "sampling_parameters", json.dumps(parameters).encode())
    return request


def read_models(response: Any) -> list[Model]:
    """Return the models of a RepositoryIndexResponse, in alphabetical order."""
    models = [
        Model(name=entry.name, version=entry.version, ready=entry.state == "READY", reason=entry.reason)
        for entry in response.models
    ]
    return sorted(models, key=lambda model: (model.name, model.version))


def read_statistics(response: Any) -> list[Model]:
    """Return the models of a ModelStatisticsResponse, which has those that are ready, in alphabetical order."""
    models = [Model(name=entry.name, version=entry.version, ready=True, reason="") for entry in response.model_stats]
    return sorted(models, key=lambda model: (model.name, model.version))


class Answer:
    """An answer as far as it has arrived."""

    def __init__(self) -> None:
        self._texts: list[str] = []
        self.num_input_tokens = 0
        self.num_output_tokens = 0
        self.finish_reason: FinishReason | None = None

    @property
    def begun(self) -> bool:
        """Whether anything has arrived."""
        return bool(self._texts)

    @property
    def text(self) -> str:
        """The text so far."""
        return "".join(self._texts)

    def add(self, response: Any) -> Chunk | None:
        """Return the next piece, from a ModelInferResponse; None for the empty response that may end a stream.

        Raises:
            ServerError: the response holds no text, or tensors that can't be read.
        """
        if not response.outputs:
            return None
        outputs = {tensor.name: raw for tensor, raw in zip(response.outputs, response.raw_output_contents, strict=True)}
        try:
            text = "".join(element.decode("utf-8") for element in elements(outputs["text_output"]))
            reason = "".join(element.decode("ascii") for element in elements(outputs.get("finish_reason", b"")))
            prompt, new = (_integer(outputs.get(name)) for name in ("num_input_tokens", "num_output_tokens"))
        except (KeyError, ValueError, struct.error) as error:
            raise ServerError(
                f"the model {response.model_name!r} doesn't answer as a text generator does: {error!r}"
            ) from None
        self._texts.append(text)
        self.num_input_tokens = prompt or self.num_input_tokens
        # Each response counts its own tokens only, as in the vLLM backend.
        self.num_output_tokens += new
        self.finish_reason = None if reason in _UNFINISHED else cast("FinishReason", reason)
        return Chunk(
            text=text,
            finish_reason=self.finish_reason,
            num_input_tokens=self.num_input_tokens,
            num_output_tokens=self.num_output_tokens,
        )

    def completion(self) -> Completion:
        """Return the answer as a whole."""
        return Completion(
            text=self.text,
            finish_reason=self.finish_reason,
            num_input_tokens=self.num_input_tokens,
            num_output_tokens=self.num_output_tokens,
        )


def elements(raw: bytes) -> Iterator[bytes]:
    """Yield the elements of a BYTES tensor.

    Raises:
        ValueError: the tensor ends inside an element.
    """
    start = 0
    while start < len(raw):
        end = start + 4 + int.from_bytes(raw[start : start + 4], "little")
        if end > len(raw) or start + 4 > len(raw):
            raise ValueError(f"a BYTES tensor of {len(raw)} bytes ends inside an element")
        yield raw[start + 4 : end]
        start = end


def _integer(raw: bytes | None) -> int:
    return struct.unpack("<I", raw)[0] if raw else 0


def _add_text(request: Any, name: str, encoded: bytes) -> None:
    request.inputs.add(name=name, datatype="BYTES", shape=[1])
    request.raw_input_contents.append(len(encoded).to_bytes(4, "little") + encoded)


def _add_flag(request: Any, name: str, value: bool) -> None:
    request.inputs.add(name=name, datatype="BOOL", shape=[1])
    request.raw_input_contents.append(b"\1" if value else b"\0")


def _utf8(name: str, text: object) -> bytes:
    if not isinstance(text, str):
        raise InvalidRequestError(f"{name} must be a str, got {type(text).__name__}")
    try:
        return text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise InvalidRequestError(
            f"{name} holds half a character (the surrogate U+{ord(text[error.start]):04X}) at {error.start}; "
            "decode it with the encoding it has"
        ) from None


def _plain(name: str, value: object) -> object:
    if name in ("stop", "bad_words") and not isinstance(value, str | bytes) and isinstance(value, Sequence):
        return [_utf8(name, text).decode() for text in value]
    if name == "stop_token_ids" and isinstance(value, list | tuple):
        return [_plain(name, token) for token in value]
    if name == "logit_bias" and isinstance(value, Mapping):
        return {str(token): _plain(name, bias) for token, bias in value.items()}
    if not isinstance(value, str | int | float):
        raise InvalidRequestError(f"{name} must be a plain number, bool or str, got {type(value).__name__}")
    return value
