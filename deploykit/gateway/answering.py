"""From a question to its response, whole or streamed; chat and completions differ in their shapes alone."""

import json
import secrets
import time
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any, Final

from starlette.requests import Request
from starlette.responses import Response

from deploykit.client import CancelledError, Choice, Chunk, ClientError, DeadlineExceededError
from deploykit.client.tracing import trace_headers
from deploykit.gateway.catalogue import Catalogue, ServedModel
from deploykit.gateway.errors import refusal_of
from deploykit.gateway.frames import DONE, Frames, Head, usage_of
from deploykit.gateway.request_id import request_id
from deploykit.gateway.schema import Generation
from deploykit.gateway.streaming import CallerGoneError, EventStream, unless_gone
from deploykit.gateway.upstream import Question, Upstream
from deploykit.gateway.watch import RequestWatch, watch_of

_NOBODY: Final = 499
"""Status of a response that nobody gets, as nginx counts it."""
_TRACE: Final = ("traceparent", "tracestate")
_LONGEST_TRACE: Final = 8192
"""Characters of either that go on to the engine, which refuses more: a header that is none of the request's matter."""

Written = Callable[[int, Choice], dict[str, Any]]
"""Returns a choice as a whole response has it."""


@dataclass(frozen=True, kw_only=True)
class Service:
    """What every endpoint works with."""

    catalogue: Catalogue
    upstream: Upstream


def head_of(model: ServedModel, *, prefix: str, kind: str) -> Head:
    """Return what the response to one request begins with."""
    return Head(
        id=f"{prefix}-{secrets.token_hex(16)}",
        object=kind,
        created=int(time.time()),
        model=model.name,
        system_fingerprint=model.fingerprint,
    )


def trace_of(request: Request) -> dict[str, str]:
    """Return where the request stands in a trace: under the gateway's own span, or else under its caller's."""
    return trace_headers() or {
        name: value
        for name in _TRACE
        if (value := request.headers.get(name))
        and len(value) <= _LONGEST_TRACE
        and value.isascii()
        and value.isprintable()
    }


def name_of(request: Request) -> str | None:
    """Return the request's id, if something in front of the endpoints gave it one."""
    return request_id(request.scope) or None


async def respond(
    service: Service,
    request: Request,
    wanted: Generation,
    question: Question,
    *,
    frames: Frames,
    head: Head,
    write: Written,
) -> Response:
    """Return the response to a question.

    Args:
        service: where answers come from.
        request: the HTTP request.
        wanted: what it asked for.
        question: the same, as Triton is asked.
        frames: writes a stream's events.
        head: begins a whole response.
        write: writes a whole response's choices.

    Raises:
        ClientError: there is no answer, not even a beginning.
    """
    watch = watch_of(request.scope)
    watch.begin(
        question.model.name,
        prompt_tokens=question.prompt_tokens,
        choices=len(question.prompts) * question.choices,
    )
    try:
        if wanted.stream:
            events = _events(service.upstream, question, frames, watch, usage=wanted.include_usage)
            return EventStream(await unless_gone(request.receive, anext(events)), events)
        return await unless_gone(request.receive, _whole(service.upstream, question, head, write, watch))
    except CallerGoneError:
        return Response(status_code=_NOBODY)


async def _whole(upstream: Upstream, question: Question, head: Head, write: Written, watch: RequestWatch) -> Response:
    choices: list[dict[str, Any]] = []
    tokens = 0
    for completion in await upstream.completions(question):
        for choice in completion.choices:
            if choice.finish_reason == "cancelled":
                raise _cancelled()
            tokens += choice.num_output_tokens
            choices.append(write(len(choices), choice))
            watch.whole(choice.num_output_tokens)
            watch.end(str(choice.finish_reason))
    body = {**head.to_json(), "choices": choices, "usage": usage_of(question.prompt_tokens, tokens)}
    return Response(json.dumps(body), media_type="application/json")


async def _events(
    upstream: Upstream, question: Question, frames: Frames, watch: RequestWatch, *, usage: bool
) -> AsyncGenerator[bytes, None]:
    """Yield the events of a stream; a failure before the first is raised, a later one is an event."""
    opening, begun, tally = frames.opening(), False, _Tally(watch)
    try:
        async with aclosing(upstream.pieces(question)) as pieces:
            async for index, chunk in pieces:
                tally.add(index, chunk)
                if event := opening + frames.of(index, chunk):
                    opening, begun = b"", True
                    yield event
        yield (frames.usage(usage_of(question.prompt_tokens, tally.tokens)) if usage else b"") + DONE
    except ClientError as error:
        if not begun:
            raise
        watch.close("timeout" if isinstance(error, DeadlineExceededError) else "error")
        # Then the end, as vLLM has it: readers that wait for it don't wait in vain.
        yield refusal_of(error).event() + DONE


class _Tally:
    """Counts the tokens of a stream's choices."""

    def __init__(self, watch: RequestWatch) -> None:
        self._watch = watch
        self._counts: dict[int, int] = {}

    @property
    def tokens(self) -> int:
        """Tokens of all choices."""
        return sum(self._counts.values())

    def add(self, index: int, chunk: Chunk) -> None:
        if chunk.finish_reason == "cancelled":
            raise _cancelled()
        self._watch.token(chunk.num_output_tokens - self._counts.get(index, 0), choice=index)
        self._counts[index] = chunk.num_output_tokens
        if chunk.finish_reason:
            self._watch.end(chunk.finish_reason)


def _cancelled() -> CancelledError:
    return CancelledError("the server has cancelled the request")
