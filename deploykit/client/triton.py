"""Triton's gRPC: requests and answers as protobuf messages. No I/O, so that every kind of client shares it.

The tensors are those of Triton's vLLM backend: one of `text_input`, `input_ids` and `messages` (with `tools`),
`stream`, `sampling_parameters` and the `return_*` switches in; `text_output`, `finish_reason`, `num_input_tokens`,
`num_output_tokens` and `logprobs` out, each with an element for every choice.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any, Final, cast

from deploykit.client.answer import Answer
from deploykit.client.dialect import Facts, Text, is_chat
from deploykit.client.errors import InvalidRequestError, PermissionDeniedError, ServerError
from deploykit.client.exchange import Ask, Asking, Attempts, Request, ask
from deploykit.client.faults import fault_of_message
from deploykit.client.protocol import MESSAGES, ModelInferRequest
from deploykit.client.tensors import counts, elements, integer_tensor, text_tensor
from deploykit.client.values import Chunk, FinishReason, Health, Model, TokenLogprob

STREAM: Final = "ModelStreamInfer"
"""The method that answers in parts."""
_SWITCHES: Final = ("return_finish_reason", "return_num_input_tokens", "return_num_output_tokens")
_REASONS: Final[Mapping[bytes, FinishReason | None]] = {
    # The vLLM backend writes Python's None where an answer goes on.
    b"": None,
    b"None": None,
    b"stop": "stop",
    b"length": "length",
    b"cancelled": "cancelled",
}
_TRACE: Final = ("traceparent", "tracestate")
"""Headers that are parameters of the request, too: Triton shows a model those, and no headers."""


class TritonDialect:
    """Requests and answers of Triton's gRPC service."""

    def text(self, text: Text) -> Request:
        """Return the request for a text.

        Raises:
            InvalidRequestError: messages or tools that are no JSON.
        """
        request = ModelInferRequest(id=text.request_id)
        _add_prompt(request, text)
        _add_flag(request, "stream", text.stream)
        for name in _SWITCHES:
            _add_flag(request, name, True)
        if "logprobs" in text.sampling:
            _add_flag(request, "return_logprobs", True)
        if text.sampling:
            _add_text(request, "sampling_parameters", json.dumps(text.sampling).encode())
        for name in _TRACE:
            if name in text.headers:
                request.parameters[name].string_param = text.headers[name]
        return Request(STREAM, request, dict(text.headers))

    def facts(self, facts: Facts) -> Request:
        """Return the request for an engine's facts; it has no prompt, and no engine runs it."""
        request = ModelInferRequest(id=facts.request_id)
        request.parameters["describe"].bool_param = True
        _add_flag(request, "return_finish_reason", True)
        return Request(STREAM, request)

    def name_model(self, request: Request, model: str) -> None:
        """Address a request to a model."""
        request.body.model_name = model

    def text_reader(self, _request: Request) -> "TritonReader":
        """Return what reads the answer to a request."""
        return TritonReader()

    def models(self, attempts: Attempts, headers: Mapping[str, str]) -> Asking[list[Model]]:
        """Return the steps to the models in the repository, or to those that are ready where it is closed."""
        try:
            index = yield from ask(_request("RepositoryIndex", headers), attempts)
        except PermissionDeniedError:
            statistics = yield from ask(_request("ModelStatistics", headers), attempts)
            found = [Model(name=at.name, version=at.version, ready=True, reason="") for at in statistics.model_stats]
        else:
            found = [
                Model(name=at.name, version=at.version, ready=at.state == "READY", reason=at.reason)
                for at in index.models
            ]
        return sorted(found, key=lambda model: (model.name, model.version))

    def health(self, attempts: Attempts, headers: Mapping[str, str]) -> Asking[Health]:
        """Return the steps to how the server is."""
        live = yield Ask(_request("ServerLive", headers), attempts.left)
        ready = yield Ask(_request("ServerReady", headers), attempts.left)
        return Health(live=live.live, ready=ready.ready)


class TritonReader:
    """Reads ModelStreamInferResponses."""

    def read(self, message: Any, answer: Answer) -> Sequence[Chunk]:
        """Return the pieces of a response; none for the empty one that may end a stream.

        Raises:
            ClientError: the response is an error, holds no text, or tensors that can't be read.
        """
        if message.error_message:
            raise fault_of_message(message.error_message)
        response = message.infer_response
        raw = response.raw_output_contents
        if not raw:
            return ()
        try:
            names = [tensor.name for tensor in response.outputs]
            return _pieces(dict(zip(names, raw, strict=True)), answer)
        except (AttributeError, LookupError, TypeError, ValueError) as error:
            raise ServerError(
                f"the model {response.model_name!r} doesn't answer as a text generator does: {error!r}"
            ) from None


def _pieces(outputs: Mapping[str, bytes], answer: Answer) -> list[Chunk]:
    texts = elements(outputs["text_output"])
    reasons = elements(outputs["finish_reason"]) if "finish_reason" in outputs else None
    tokens = counts(outputs["num_output_tokens"]) if "num_output_tokens" in outputs else None
    logprobs = elements(outputs["logprobs"]) if "logprobs" in outputs else None
    if not answer.num_input_tokens and "num_input_tokens" in outputs:
        answer.num_input_tokens = counts(outputs["num_input_tokens"])[0]
    pieces = []
    for index, text in enumerate(texts):
        if answer.ended(index):
            # Told again with each piece of another choice.
            continue
        pieces.append(
            answer.add(
                index,
                text.decode("utf-8"),
                tokens=tokens[index] if tokens else 0,
                finish_reason=_reason(reasons[index]) if reasons else None,
                logprobs=_logprobs(logprobs[index]) if logprobs else (),
            )
        )
    return pieces


def _reason(raw: bytes) -> FinishReason | None:
    return _REASONS[raw] if raw in _REASONS else cast("FinishReason", raw.decode("ascii"))


def _logprobs(raw: bytes) -> tuple[TokenLogprob, ...]:
    """Return the tokens of a piece, from JSON with each token's candidates by id, itself first."""
    return tuple(_token(candidates) for candidates in json.loads(raw) or ())


def _token(candidates: Mapping[str, Mapping[str, Any]]) -> TokenLogprob:
    ranked = sorted(
        (entry["rank"], number, entry) for number, entry in candidates.items() if entry.get("rank") is not None
    )
    own, entry = next(iter(candidates.items()))
    top = tuple(_candidate(number, entry) for _, number, entry in ranked)
    return TokenLogprob(token=entry["decoded_token"], logprob=entry["logprob"], token_id=int(own), top=top)


def _candidate(number: str, entry: Mapping[str, Any]) -> TokenLogprob:
    return TokenLogprob(token=entry["decoded_token"], logprob=entry["logprob"], token_id=int(number))


def _request(method: str, headers: Mapping[str, str]) -> Request:
    return Request(method, MESSAGES[f"{method}Request"](), dict(headers))


def _add_prompt(request: Any, text: Text) -> None:
    if isinstance(text.prompt, str):
        _add_text(request, "text_input", text.prompt.encode())
        # Triton's other text generators put the prompt before an answer that isn't streamed, unless told not to.
        _add_flag(request, "exclude_input_in_output", True)
    elif is_chat(text.prompt):
        _add_text(request, "messages", _json("messages", text.prompt))
        if text.tools is not None:
            _add_text(request, "tools", _json("tools", text.tools))
    else:
        ids = cast("tuple[int, ...]", text.prompt)
        request.inputs.add(name="input_ids", datatype="INT64", shape=[len(ids)])
        request.raw_input_contents.append(integer_tensor(ids))


def _json(name: str, value: object) -> bytes:
    try:
        return json.dumps(value, allow_nan=False).encode()
    except (TypeError, ValueError, RecursionError) as error:
        raise InvalidRequestError(f"{name} can't be written as JSON: {error}") from None


def _add_text(request: Any, name: str, encoded: bytes) -> None:
    request.inputs.add(name=name, datatype="BYTES", shape=[1])
    request.raw_input_contents.append(text_tensor(encoded))


def _add_flag(request: Any, name: str, value: bool) -> None:
    request.inputs.add(name=name, datatype="BOOL", shape=[1])
    request.raw_input_contents.append(b"\1" if value else b"\0")
