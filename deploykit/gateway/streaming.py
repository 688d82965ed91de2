"""Streams to callers who may be slow, and answers to callers who may be gone.

Triton keeps whatever isn't read of a stream, without bound, and tells nobody. So the gateway always reads, and keeps a
bounded part of what a caller doesn't take; beyond that, this caller's stream alone is cut.
"""

import asyncio
from collections.abc import AsyncGenerator, Coroutine
from typing import Any, Final, TypeVar

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from deploykit.gateway.errors import failure, log_failure
from deploykit.gateway.frames import DONE

MAX_WAITING: Final = 2**20
"""Bytes that wait for a caller: some thousands of tokens, beside what the sockets hold."""
_HEADERS: Final = {
    "cache-control": "no-cache",
    # Or nginx would keep the events until it has enough of them.
    "x-accel-buffering": "no",
}

Result = TypeVar("Result")


class CallerGoneError(Exception):
    """The caller has closed the connection; there is nobody to tell."""


class EventStream(Response):
    """A response of server-sent events as they come; several that wait for a slow caller go out together."""

    media_type = "text/event-stream"

    def __init__(self, first: bytes, events: AsyncGenerator[bytes, None], *, max_waiting: int = MAX_WAITING) -> None:
        """Make a response.

        Args:
            first: what has come already.
            events: the rest; it is closed when the caller is gone or too slow.
            max_waiting: bytes that may wait for the caller.
        """
        self.status_code = 200
        self.background = None
        self.init_headers(_HEADERS)
        self._waiting = [first]
        self._size = len(first)
        self._events = events
        self._max_waiting = max_waiting
        self._ended = self._cut = False
        self._changed = asyncio.Event()
        self._changed.set()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the events; where the body has no end, the server closes the connection."""
        listener = asyncio.create_task(disconnected(receive))
        # Before the reader, so that the first piece waits for no second.
        writer = asyncio.create_task(self._write(send))
        reader = asyncio.create_task(self._read(listener))
        tasks = (writer, listener, reader)
        try:
            # A caller who is gone, or cut off while a write is stuck, ends it all.
            await asyncio.wait((writer, listener), return_when=asyncio.FIRST_COMPLETED)
            if self._cut:
                _abort(scope)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _read(self, listener: asyncio.Task[None]) -> None:
        try:
            async for event in self._events:
                self._waiting.append(event)
                self._size += len(event)
                if self._size > self._max_waiting:
                    self._cut = True
                    break
                self._changed.set()
        except Exception as error:
            # The events themselves tell of every failure that is foreseen.
            log_failure(error)
            self._waiting.append(failure().event() + DONE)
        finally:
            self._ended = True
            self._changed.set()
            if self._cut:
                listener.cancel()
            await self._events.aclose()

    async def _write(self, send: Send) -> None:
        """Send what waits until there is nothing more."""
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        while True:
            await self._changed.wait()
            self._changed.clear()
            if self._cut:
                # Without the end of the body, so that nobody takes what was sent for the whole.
                return
            ended, body = self._ended, b"".join(self._waiting)
            self._waiting.clear()
            self._size = 0
            await send({"type": "http.response.body", "body": body, "more_body": not ended})
            if ended:
                return


def _abort(scope: Scope) -> None:
    """End the connection at once, with what waits to be sent, where the server has given a way to."""
    if abort := scope.get("state", {}).get("abort"):
        abort()


async def disconnected(receive: Receive) -> None:
    """Return when the caller is gone."""
    while (await receive())["type"] != "http.disconnect":
        pass


async def unless_gone(receive: Receive, work: Coroutine[Any, Any, Result]) -> Result:
    """Return what comes of `work`, which is cancelled if the caller goes.

    Raises:
        CallerGoneError: the caller is gone.
    """
    task = asyncio.create_task(work)
    listener = asyncio.create_task(disconnected(receive))
    try:
        await asyncio.wait((task, listener), return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise CallerGoneError
        return task.result()
    finally:
        for each in (task, listener):
            each.cancel()
        await asyncio.gather(task, listener, return_exceptions=True)
