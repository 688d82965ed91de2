"""A server made up by a test: an application's own tests run without any, and without patching anything.

Example:
    ```python
    from deploykit.client import Client
    from deploykit.client.testing import MockTransport

    with Client(transport=MockTransport({"def ": "fib(n):"})) as client:
        assert client.generate("def ").text == "fib(n):"
    ```
"""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, TypeVar

from deploykit.client.answer import Answer
from deploykit.client.dialect import Facts, Text, is_chat
from deploykit.client.errors import CancelledError, ClientError, InvalidRequestError
from deploykit.client.exchange import Ask, Asking, Attempts, Request, ask
from deploykit.client.values import Chunk, Completion, Health, Model

__all__ = ["MockRequest", "MockTransport", "Reply"]

_WORDS: Final = re.compile(r"\S+\s*|\s+")
_URL: Final = "mock"


@dataclass(frozen=True, kw_only=True)
class MockRequest:
    """What a client asked.

    Example:
        ```python
        from deploykit.client import Client
        from deploykit.client.testing import MockRequest, MockTransport

        def answer(request: MockRequest) -> str:
            return f"{request.last} has {request.sampling['max_tokens']} tokens at most"

        with Client(transport=MockTransport(answer)) as client:
            print(client.chat([{"role": "user", "content": "This"}], max_tokens=9).text)
        ```
    """

    prompt: str | tuple[int, ...] | None
    """The text or the token ids; None where there are messages."""
    messages: tuple[Mapping[str, Any], ...]
    """The messages of a chat; empty where there is a prompt."""
    tools: Sequence[Mapping[str, Any]] | None
    sampling: Mapping[str, Any]
    """The parameters that were given, as they are sent."""
    stream: bool
    model: str
    request_id: str
    headers: Mapping[str, str]
    """`traceparent` and the like."""
    timeout: float
    """Seconds that were left."""

    @property
    def last(self) -> Any:
        """The prompt, or what the last message says."""
        return self.messages[-1].get("content") if self.messages else self.prompt


Reply = str | ClientError | Completion | Iterable[str | Chunk | ClientError]
"""What a mock answers: a text; an error to raise; a completion; or pieces of a stream, texts or chunks, which an error
may cut off. Pieces without a chunk that says otherwise end with `stop`."""


class MockTransport:
    """A server made up by a test: pass it to `Client` or `AsyncClient` as `transport`.

    All of the client but the network is at work: deadlines, further tries, errors in mid-stream, choices.

    Example:
        ```python
        from deploykit.client import Client, StreamBrokenError, UnavailableError
        from deploykit.client.testing import MockTransport

        cut = MockTransport(["one ", "two ", UnavailableError("the connection is gone")])
        with Client(transport=cut) as client:
            try:
                client.generate("count", stream=True).completion()
            except StreamBrokenError as error:
                assert error.text == "one two "
        assert cut.requests[0].prompt == "count"
        ```
    """

    def __init__(
        self,
        answer: Callable[[MockRequest], Reply] | Mapping[Any, Reply] | Reply,
        *,
        models: Sequence[str] = ("mock",),
        health: Health | ClientError | None = None,
    ) -> None:
        """Make a server up.

        Args:
            answer: what it answers to everything; or by the prompt, or the last message's content, as a mapping; or
                what a function makes of the request, which may also raise a ClientError.
            models: the models that it has.
            health: how it says that it is; live and ready where None.
        """
        self._answer = answer
        self._models = tuple(models)
        self._health = health or Health(live=True, ready=True)
        self.url = _URL
        self.dialect = _Dialect()
        self.requests: list[MockRequest] = []
        """What was asked, each try of a request by itself."""

    def connect(self) -> "_Connection":
        """Return the server from a thread's point of view."""
        return _Connection(self)

    def connect_async(self) -> "_AsyncConnection":
        """Return the server from an event loop's point of view."""
        return _AsyncConnection(self)

    def ask(self, request: Request) -> Any:
        """Return the reply to a question about the server."""
        if request.method == "models":
            return self._models
        if isinstance(self._health, ClientError):
            raise self._health
        return self._health

    def pieces(self, request: MockRequest) -> Iterator[Chunk | ClientError]:
        """Return the pieces of the answer to a request."""
        self.requests.append(request)
        try:
            reply = self._reply(request)
        except ClientError as error:
            reply = error
        return _pieces(reply, request)

    def _reply(self, request: MockRequest) -> Reply:
        if callable(self._answer):
            return self._answer(request)
        if isinstance(self._answer, Mapping):
            if request.last not in self._answer:
                return InvalidRequestError(f"the mock has no answer to {request.last!r}")
            return self._answer[request.last]
        return self._answer


def _pieces(reply: Reply, request: MockRequest) -> Iterator[Chunk | ClientError]:
    """Yield a reply's pieces; every choice that isn't told of otherwise gets the same texts."""
    if isinstance(reply, Completion):
        for choice in reply.choices or (reply,):
            yield Chunk(
                text=choice.text,
                finish_reason=choice.finish_reason,
                num_input_tokens=reply.num_input_tokens,
                num_output_tokens=choice.num_output_tokens,
                index=getattr(choice, "index", 0),
                logprobs=choice.logprobs,
            )
        return
    if isinstance(reply, str):
        reply = _WORDS.findall(reply) if request.stream else [reply]
    elif isinstance(reply, ClientError):
        reply = [reply]
    yield from _told(reply, range(request.sampling.get("n", 1)))


def _told(pieces: Iterable[str | Chunk | ClientError], choices: Iterable[int]) -> Iterator[Chunk | ClientError]:
    ended = set()
    for piece in pieces:
        if isinstance(piece, str):
            yield from (_chunk(piece, index) for index in choices)
            continue
        if isinstance(piece, Chunk) and piece.finish_reason:
            ended.add(piece.index)
        yield piece
        if isinstance(piece, ClientError):
            return
    for index in choices:
        if index not in ended:
            yield _chunk("", index, tokens=0, reason="stop")


def _chunk(text: str, index: int, *, tokens: int = 1, reason: Any = None) -> Chunk:
    return Chunk(text=text, finish_reason=reason, num_input_tokens=0, num_output_tokens=tokens, index=index)


class _Dialect:
    """Requests and answers as they are."""

    def text(self, text: Text) -> Request:
        return Request("text", {"text": text}, dict(text.headers))

    def facts(self, _facts: Facts) -> Request:
        raise InvalidRequestError("the mock has no engine to tell of")

    def name_model(self, request: Request, model: str) -> None:
        request.body["model"] = model

    def text_reader(self, _request: Request) -> "_Reader":
        return _Reader()

    def models(self, attempts: Attempts, _headers: Mapping[str, str]) -> Asking[list[Model]]:
        names = yield from ask(Request("models"), attempts)
        return [Model(name=name, version="1", ready=True, reason="") for name in sorted(names)]

    def health(self, attempts: Attempts, _headers: Mapping[str, str]) -> Asking[Health]:
        health: Health = yield Ask(Request("health"), attempts.left)
        return health


class _Reader:
    """Adds chunks to an answer; a chunk's own count is of its choice so far, where it is more than the pieces'."""

    def read(self, message: tuple[Chunk, int], answer: Answer) -> list[Chunk]:
        chunk, prompt = message
        answer.num_input_tokens = chunk.num_input_tokens or prompt
        so_far = answer.tokens_of(chunk.index)
        return [
            answer.add(
                chunk.index,
                chunk.text,
                tokens=max(chunk.num_output_tokens - so_far, 1 if chunk.text else 0),
                finish_reason=chunk.finish_reason,
                logprobs=chunk.logprobs,
            )
        ]


Kind = TypeVar("Kind", bound="_Script")


class _Server:
    """What connections of both kinds do."""

    def __init__(self, transport: MockTransport) -> None:
        self._transport = transport
        self._closed = False

    def _check(self) -> None:
        if self._closed:
            raise InvalidRequestError(f"{_URL}: this client is closed; make a new one")

    def _begin(self, request: Request, timeout: float, kind: type[Kind]) -> Kind:
        self._check()
        text: Text = request.body["text"]
        chat = is_chat(text.prompt)
        asked = MockRequest(
            prompt=None if chat else text.prompt,  # type: ignore[arg-type] # checked by is_chat
            messages=text.prompt if chat else (),  # type: ignore[arg-type]
            tools=text.tools,
            sampling=text.sampling,
            stream=text.stream,
            model=request.body["model"],
            request_id=text.request_id,
            headers=request.headers,
            timeout=timeout,
        )
        said = str(asked.last).split() if isinstance(asked.last, str) else asked.last or ()
        return kind(self._transport.pieces(asked), prompt=len(said))


class _Script:
    """An answer that arrives."""

    def __init__(self, pieces: Iterator[Chunk | ClientError], *, prompt: int) -> None:
        self._pieces = pieces
        self._prompt = prompt
        self._cancelled = False

    def take(self) -> tuple[Chunk, int] | None:
        """Return the next piece and the prompt's tokens; None at the end."""
        if self._cancelled:
            raise CancelledError(f"{_URL}: the request was cancelled")
        piece = next(self._pieces, None)
        if isinstance(piece, ClientError):
            raise piece
        return None if piece is None else (piece, self._prompt)

    def cancel(self) -> None:
        """Give the answer up."""
        self._cancelled = True


class _Call(_Script):
    def receive(self) -> Any:
        return self.take()


class _AsyncCall(_Script):
    async def receive(self) -> Any:
        return self.take()


class _Connection(_Server):
    def ask(self, request: Request, timeout: float) -> Any:  # noqa: ARG002 # it answers at once
        self._check()
        return self._transport.ask(request)

    def open(self, request: Request, timeout: float) -> _Call:
        return self._begin(request, timeout, _Call)

    def close(self) -> None:
        self._closed = True


class _AsyncConnection(_Server):
    async def ask(self, request: Request, timeout: float) -> Any:  # noqa: ARG002 # it answers at once
        self._check()
        return self._transport.ask(request)

    def open(self, request: Request, timeout: float) -> _AsyncCall:
        return self._begin(request, timeout, _AsyncCall)

    async def close(self) -> None:
        self._closed = True
