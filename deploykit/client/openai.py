"""OpenAI's HTTP, as the gateway speaks it: requests and answers as JSON. No I/O: every kind of client shares it.

What a client of the gateway leaves to the server is what a client of Triton leaves to it: where OpenAI's API has other
defaults than the engine (`max_tokens`, `temperature`), the engine's are sent.
"""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from deploykit.client.answer import Answer
from deploykit.client.dialect import Facts, Text, is_chat
from deploykit.client.errors import InvalidRequestError, ServerError, UnavailableError
from deploykit.client.exchange import Ask, Asking, Attempts, Request
from deploykit.client.faults import fault_of_response
from deploykit.client.values import Chunk, Health, Model, TokenLogprob

MAX_TOKENS: Final = 64
"""The engine's own default."""
_SAMPLED: Final = ("top_k", "top_p", "min_p", "seed")
"""With one of these the engine samples where no temperature is given; else it takes the likeliest token."""
_DONE: Final = "[DONE]"
"""What the last event of a stream holds."""
_BYTES: Final = re.compile(r"bytes:((?:\\x[0-9a-f]{2})+)")
"""How a completion's log probabilities spell a part of a character."""


@dataclass(frozen=True, slots=True)
class Response:
    """A whole HTTP response; a stream's events come as `str` instead."""

    status: int
    text: str
    retry_after: float | None = None
    """Seconds in which the server wants no further try, where it says so."""


class OpenAIDialect:
    """Requests and answers of the gateway's `/v1` routes."""

    def __init__(self, url: str) -> None:
        self._url = url

    def text(self, text: Text) -> Request:
        """Return the request for a text.

        Raises:
            InvalidRequestError: messages or tools that are no JSON.
        """
        body = {"stream": text.stream, **_sampling(text.sampling)}
        if text.stream:
            body["stream_options"] = {"include_usage": True}
        chat = is_chat(text.prompt)
        body["messages" if chat else "prompt"] = text.prompt
        if chat and "logprobs" in body:
            body |= {"logprobs": True, "top_logprobs": body["logprobs"]}
        if text.tools is not None:
            body["tools"] = text.tools
        _check(body)
        headers = {**text.headers, "x-request-id": text.request_id}
        return Request("/v1/chat/completions" if chat else "/v1/completions", body, headers)

    def facts(self, _facts: Facts) -> Request:
        """Refuse: OpenAI's API has no such question.

        Raises:
            InvalidRequestError: always.
        """
        raise InvalidRequestError(f"{self._url}: the gateway tells nothing of engines; ask Triton's gRPC endpoint")

    def name_model(self, request: Request, model: str) -> None:
        """Address a request to a model."""
        request.body["model"] = model

    def text_reader(self, request: Request) -> "OpenAIReader":
        """Return what reads the answer to a request."""
        return OpenAIReader(self._url, request.body)

    def models(self, attempts: Attempts, headers: Mapping[str, str]) -> Asking[list[Model]]:
        """Return the steps to the models that are served."""
        content = yield from self._get("/v1/models", attempts, headers)
        try:
            names = sorted(str(entry["id"]) for entry in content["data"])
        except (LookupError, TypeError) as error:
            raise _strange(self._url, error) from None
        return [Model(name=name, version="", ready=True, reason="") for name in names]

    def health(self, attempts: Attempts, headers: Mapping[str, str]) -> Asking[Health]:
        """Return the steps to how the server is."""
        response = yield Ask(Request("/health", headers=dict(headers)), attempts.left)
        if response.status == 503:
            return Health(live=True, ready=False)
        _content(self._url, response)
        return Health(live=True, ready=True)

    def _get(self, path: str, attempts: Attempts, headers: Mapping[str, str]) -> Asking[Any]:
        while True:
            try:
                response = yield Ask(Request(path, headers=dict(headers)), attempts.left)
                return _content(self._url, response)
            except UnavailableError as fault:
                pause = attempts.wait_after(fault)
            yield pause


class OpenAIReader:
    """Reads events and whole responses."""

    def __init__(self, url: str, request: Mapping[str, Any]) -> None:
        self._url = url
        self._single = request.get("n", 1) == 1
        self._top = request.get("top_logprobs", request.get("logprobs"))
        self._held: list[dict[str, Any]] = []

    def read(self, message: Response | str, answer: Answer) -> Sequence[Chunk]:
        """Return the pieces of an event or of a response.

        A choice's last piece waits for the event that counts the tokens, which follows at once.

        Raises:
            ClientError: it says so itself, or can't be read.
        """
        if message == _DONE:
            return self._release(answer)
        content = _content(self._url, message)
        try:
            usage = content.get("usage")
            if usage:
                answer.count(num_input_tokens=usage["prompt_tokens"], num_output_tokens=usage["completion_tokens"])
            pieces = []
            for choice in content["choices"]:
                index = choice["index"]
                if choice.get("finish_reason"):
                    self._held.append(choice)
                elif _text(choice) or choice.get("logprobs"):
                    # What has neither only names the role.
                    pieces.append(self._piece(index, choice, answer))
            return [*pieces, *self._release(answer)] if usage else pieces
        except (AttributeError, LookupError, TypeError, ValueError) as error:
            raise _strange(self._url, error) from None

    def _release(self, answer: Answer) -> list[Chunk]:
        held, self._held = self._held, []
        return [self._piece(choice["index"], choice, answer) for choice in held]

    def _piece(self, index: int, choice: Mapping[str, Any], answer: Answer) -> Chunk:
        text = _text(choice)
        logprobs = _logprobs(choice.get("logprobs"), self._top)
        reason = choice.get("finish_reason")
        if reason and self._single and answer.total_tokens:
            tokens = answer.total_tokens - answer.tokens_of(index)
        else:
            # Nobody says how many tokens a piece has; the gateway sends each as it comes.
            tokens = len(logprobs) or int(bool(text))
        return answer.add(index, text, tokens=tokens, finish_reason=reason, logprobs=logprobs)


def _text(choice: Mapping[str, Any]) -> str:
    """Return the text of a choice: a piece of a chat, a whole message, or of a completion."""
    told = choice.get("delta", choice.get("message", choice))
    return told.get("content", told.get("text")) or ""


def _sampling(given: Mapping[str, Any]) -> dict[str, Any]:
    """Return the parameters under OpenAI's names, the engine's defaults among them."""
    parameters = {"max_tokens": MAX_TOKENS, **given}
    if "temperature" not in given and given.get("n", 1) == 1 and not any(name in given for name in _SAMPLED):
        parameters["temperature"] = 0
    if "client" in parameters:
        parameters["user"] = parameters.pop("client")
    return parameters


def _check(body: Mapping[str, Any]) -> None:
    try:
        json.dumps(body)
    except (TypeError, ValueError, RecursionError) as error:
        raise InvalidRequestError(f"the request can't be written as JSON: {error}") from None


def _content(url: str, message: Response | str) -> Any:
    """Return what a response or an event holds.

    Raises:
        ClientError: an error, or no JSON.
    """
    response = message if isinstance(message, Response) else Response(200, message)
    status, text = response.status, response.text
    try:
        content = json.loads(text)
    except (ValueError, RecursionError):
        content = None
    error = content.get("error") if isinstance(content, dict) else None
    if status != 200 or error is not None:
        raise fault_of_response(status, error, url=url, retry_after=response.retry_after)
    if not isinstance(content, dict):
        raise _strange(url, ValueError("no JSON object"))
    return content


def _strange(url: str, error: Exception) -> ServerError:
    return ServerError(f"{url}: the server doesn't answer as OpenAI's API does: {error!r}")


def _logprobs(told: Mapping[str, Any] | None, top: int | None) -> tuple[TokenLogprob, ...]:
    """Return the tokens of a piece: a chat's and a completion's log probabilities differ in shape."""
    if not told:
        return ()
    if "content" in told:
        return tuple(
            TokenLogprob(
                token=entry["token"],
                logprob=entry["logprob"],
                token_id=None,
                top=tuple(_likely(other["token"], other["logprob"]) for other in entry["top_logprobs"]),
            )
            for entry in told["content"] or ()
        )
    # The token itself is named, too, where it isn't among the likeliest; they come first.
    return tuple(
        TokenLogprob(
            token=_spelt(token),
            logprob=logprob,
            token_id=None,
            top=tuple(_likely(other, value) for other, value in list(likeliest.items())[:top]),
        )
        for token, logprob, likeliest in zip(told["tokens"], told["token_logprobs"], told["top_logprobs"], strict=True)
    )


def _likely(token: str, logprob: float) -> TokenLogprob:
    return TokenLogprob(token=_spelt(token), logprob=logprob, token_id=None)


def _spelt(token: str) -> str:
    found = _BYTES.fullmatch(token)
    return bytes.fromhex(found[1].replace("\\x", "")).decode(errors="replace") if found else token
