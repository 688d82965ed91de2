"""From a question to its response, whole or streamed; chat and completions differ in their shapes alone."""

import asyncio
import json
import secrets
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any, Final, TypeVar

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
Result = TypeVar("Result")


@dataclass(frozen=True, kw_only=True)
class Service:
    """What every endpoint works with."""

    catalogue: Catalogue
    upstream: Upstream
    timeout: float
    """Seconds until a whole answer must be there, once the request is."""


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


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What a request is answered by, once its prompt's tokens are known."""

    question: Question
    """What Triton is asked."""
    frames: Frames
    """Writes a stream's events."""
    head: Head
    """Begins a whole response."""
    write: Written
    """Writes a whole response's choices."""


async def respond(
    service: Service, request: Request, wanted: Generation, prepare: Callable[[], Awaitable[Plan]]
) -> Response:
    """Return the response to a request: all that it takes is given up when the caller goes, or when time is over.

    Args:
        service: where answers come from.
        request: the HTTP request.
        wanted: what it asks for.
        prepare: makes the plan, which may take long: a chat template, a long text, an engine that starts.

    Raises:
        Refusal: the request can't be.
        ClientError: there is no answer, not even a beginning.
    """
    return await unless_left(request, _answer(service, wanted, prepare, watch_of(request.scope)))


async def unless_left(request: Request, work: Coroutine[Any, Any, Result]) -> Result | Response:
    """Return what comes of `work`, which is cancelled if the caller goes: a response to nobody then."""
    try:
        return await unless_gone(request.receive, work)
    except CallerGoneError:
        return Response(status_code=_NOBODY)


async def in_time(work: Callable[[], Awaitable[Result]], seconds: float) -> Result:
    """Return what comes of `work`, as long as it comes in time.

    Raises:
        DeadlineExceededError: it doesn't.
    """
    try:
        async with asyncio.timeout(seconds):
            return await work()
    except TimeoutError:
        raise _too_late() from None


async def _answer(
    service: Service, wanted: Generation, prepare: Callable[[], Awaitable[Plan]], watch: RequestWatch
) -> Response:
    end = time.monotonic() + service.timeout
    plan = await in_time(prepare, service.timeout)
    question = plan.question
    watch.begin(
        question.model.name,
        prompt_tokens=question.prompt_tokens,
        choices=len(question.prompts) * question.choices,
    )
    if (left := end - time.monotonic()) <= 0:
        raise _too_late()
    if wanted.stream:
        events = _events(service.upstream, plan, watch, usage=wanted.include_usage, timeout=left)
        return EventStream(await anext(events), events)
    return await _whole(service.upstream, plan, watch, timeout=left)


async def _whole(upstream: Upstream, plan: Plan, watch: RequestWatch, *, timeout: float) -> Response:
    choices: list[dict[str, Any]] = []
    tokens = 0
    for completion in await upstream.completions(plan.question, timeout=timeout):
        for choice in completion.choices:
            if choice.finish_reason == "cancelled":
                raise _cancelled()
            tokens += choice.num_output_tokens
            choices.append(plan.write(len(choices), choice))
            watch.whole(choice.num_output_tokens)
            watch.end(str(choice.finish_reason))
    body = {**plan.head.to_json(), "choices": choices, "usage": usage_of(plan.question.prompt_tokens, tokens)}
    return Response(json.dumps(body), media_type="application/json")


async def _events(
    upstream: Upstream, plan: Plan, watch: RequestWatch, *, usage: bool, timeout: float
) -> AsyncGenerator[bytes, None]:
    """Yield the events of a stream; a failure before the first is raised, a later one is an event."""
    frames, question = plan.frames, plan.question
    opening, begun, tally = frames.opening(), False, _Tally(watch)
    try:
        async with aclosing(upstream.pieces(question, timeout=timeout)) as pieces:
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


def _too_late() -> DeadlineExceededError:
    return DeadlineExceededError("the time for the answer was over before the engine was asked")


def _cancelled() -> CancelledError:
    return CancelledError("the server has cancelled the request")
