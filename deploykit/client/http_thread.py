"""The gateway over HTTP, for threads: an event loop in a thread of its own does the waiting.

A thread that waits for a socket can't be told to stop by another one, and its timeout starts anew with every byte. In
an event loop both are exact, so cancelling and deadlines are the same as of the other client, and written once.
"""

import asyncio
import concurrent.futures
import threading
from collections.abc import Callable, Coroutine
from concurrent.futures import Future
from contextlib import suppress
from typing import Any, TypeVar

from deploykit.client.errors import CancelledError, InvalidRequestError
from deploykit.client.exchange import Request
from deploykit.client.transport import AsyncCall, AsyncConnection

Result = TypeVar("Result")


class HttpConnection:
    """Connections for threads."""

    def __init__(self, connection: AsyncConnection, *, url: str) -> None:
        self._connection = connection
        self._url = url
        # One that the same thread may take again: a stream that is forgotten while it is held is cancelled through it.
        self._lock = threading.RLock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._closed = False

    def ask(self, request: Request, timeout: float) -> Any:
        """Return the one response to a request, or raise a ClientError."""
        return result_of(self._begin(self._connection.ask(request, timeout)))

    def open(self, request: Request, timeout: float) -> "HttpCall":
        """Return a call that is being answered, or raise a ClientError."""
        call = result_of(self._begin(self._opened(request, timeout)))
        return HttpCall(call, self._begin, url=self._url)

    def close(self) -> None:
        """Cancel what runs and close."""
        with self._lock:
            loop, thread = self._loop, self._thread
            self._loop = self._thread = None
            self._closed = True
        if loop is not None and thread is not None:
            loop.call_soon_threadsafe(loop.stop)
            thread.join()

    def __del__(self) -> None:
        # The thread doesn't know this object, so that a forgotten client ends here.
        loop = getattr(self, "_loop", None)
        if loop is not None and loop.is_running():
            loop.call_soon_threadsafe(loop.stop)

    async def _opened(self, request: Request, timeout: float) -> AsyncCall:
        return self._connection.open(request, timeout)

    def _begin(self, work: Coroutine[Any, Any, Result]) -> "Future[Result]":
        """Return what will come of `work`, which the loop does."""
        with self._lock:
            if self._closed:
                work.close()
                raise InvalidRequestError(f"{self._url}: this client is closed; make a new one")
            if self._loop is None:
                self._loop = asyncio.new_event_loop()
                self._thread = threading.Thread(
                    target=_serve, args=(self._loop, self._connection), name="deploykit-http", daemon=True
                )
                self._thread.start()
            # Inside the lock: what is begun before the loop is told to stop is also ended by it.
            return asyncio.run_coroutine_threadsafe(work, self._loop)


class HttpCall:
    """An answer that arrives, for threads."""

    def __init__(
        self, call: AsyncCall, begin: Callable[[Coroutine[Any, Any, Any]], "Future[Any]"], *, url: str
    ) -> None:
        self._call = call
        self._begin = begin
        self._url = url
        # Sent at once, as over gRPC: calls that are opened in a row are answered side by side.
        self._next: Future[Any] | None = begin(call.receive())

    def receive(self) -> Any:
        """Return the next message; None at the end. A ClientError says what ended it instead."""
        try:
            future, self._next = self._next or self._begin(self._call.receive()), None
            return result_of(future)
        except (InvalidRequestError, concurrent.futures.CancelledError):
            # Before or while it waited.
            raise CancelledError(f"{self._url}: the client was closed") from None

    def cancel(self) -> None:
        """Give the answer up; whoever waits for it gets a CancelledError."""
        with suppress(InvalidRequestError):
            self._begin(self._cancelled())

    async def _cancelled(self) -> None:
        self._call.cancel()


def result_of(future: "Future[Result]") -> Result:
    """Return what came of a future; whoever is interrupted meanwhile, as by Ctrl-C, gives it up."""
    try:
        return future.result()
    except BaseException:
        future.cancel()
        raise


def _serve(loop: asyncio.AbstractEventLoop, connection: AsyncConnection) -> None:
    """Run a loop until it is stopped, and end what is left in it."""
    asyncio.set_event_loop(loop)
    try:
        loop.run_forever()
        loop.run_until_complete(connection.close())
        left = asyncio.all_tasks(loop)
        for task in left:
            task.cancel()
        loop.run_until_complete(asyncio.gather(*left, return_exceptions=True))
        loop.run_until_complete(loop.shutdown_asyncgens())
    finally:
        loop.close()
