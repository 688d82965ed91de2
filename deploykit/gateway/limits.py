"""What callers may ask of the gateway's memory and patience, each a layer in front of the endpoints."""

import asyncio
import math
from collections.abc import Callable
from typing import Final

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from deploykit.gateway.errors import Refusal
from deploykit.gateway.json_text import complaint

MAX_HEAD: Final = 32 * 2**10
"""Bytes of a request's line and headers; Node's and nginx's limits are 16 and 32 KiB."""
MAX_HEADERS: Final = 100
"""Headers of a request, as many as Apache takes."""
LINGER: Final = 2.0
"""Seconds in which what a refused caller still sends is read and dropped: if the connection ended before it had sent
all, it would hear of a broken connection and not of the reason."""
RETRY_AFTER: Final = 1
"""Seconds after which one that came too many may try again."""


class OpenRequests:
    """ASGI: answers 503 while as many requests are open as may be; `open_paths` are always answered."""

    def __init__(self, app: ASGIApp, *, most: int, open_paths: frozenset[str]) -> None:
        self._app, self._most, self._open_paths = app, most, open_paths
        self._open = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, or answer 503."""
        if scope["type"] != "http" or scope["path"] in self._open_paths:
            await self._app(scope, receive, send)
            return
        if self._open >= self._most:
            await self._full().response()(scope, receive, send)
            return
        self._open += 1
        try:
            await self._app(scope, receive, send)
        finally:
            self._open -= 1

    def _full(self) -> Refusal:
        return Refusal(
            f"{self._most} requests are open already, as many as may be; try again later",
            status=503,
            kind="server_error",
            code="overloaded",
            retry_after=RETRY_AFTER,
        )


class Bodies:
    """ASGI: has a whole body before anything reads it, and refuses what is too large, too slow or unsafe to parse."""

    def __init__(self, app: ASGIApp, *, most: int, timeout: float) -> None:
        self._app, self._most, self._timeout = app, most, timeout

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on with its body, or answer 400, 408, 413, 415 or 431."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        if sum(len(name) + len(value) for name, value in headers.raw) > MAX_HEAD or len(headers.raw) > MAX_HEADERS:
            await _end(_head_too_large(), receive, send)
        elif not _has_body(headers):
            await self._app(scope, receive, send)
        elif headers.get("content-encoding", "identity").lower() != "identity":
            await _end(Refusal("compressed bodies are not taken; send the JSON as it is", status=415), receive, send)
        elif _declared(headers) > self._most:
            await _end(self._too_large(), receive, send)
        else:
            await self._pass_on(scope, receive, send)

    async def _pass_on(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            async with asyncio.timeout(self._timeout):
                body = await self._read(receive)
        except TimeoutError:
            await _end(self._too_slow(), receive, send, linger=0)
            return
        except Refusal as refusal:
            await _end(refusal, receive, send)
            return
        if body is None:
            # The caller has gone.
            return
        if trouble := complaint(body):
            await Refusal(trouble).response()(scope, receive, send)
            return
        await self._app(scope, _replaying(body, receive), send)

    async def _read(self, receive: Receive) -> bytes | None:
        body = bytearray()
        while True:
            message = await receive()
            if message["type"] == "http.disconnect":
                return None
            body += message.get("body", b"")
            if len(body) > self._most:
                raise self._too_large()
            if not message.get("more_body", False):
                return bytes(body)

    def _too_large(self) -> Refusal:
        return Refusal(
            f"the body has more than {self._most} bytes; shorten the request", status=413, code="body_too_large"
        )

    def _too_slow(self) -> Refusal:
        return Refusal(
            f"the body has not come within {self._timeout:g} s; send it faster", status=408, code="body_too_slow"
        )


class SlowReaders:
    """ASGI: ends the connection of a caller who doesn't take in what waits for it; others' answers are unharmed.

    Only so much waits: the server's buffer of 64 KiB, and what the kernel holds of a connection.
    """

    def __init__(self, app: ASGIApp, *, timeout: float) -> None:
        self._app, self._timeout = app, timeout

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, and look now and then whether its caller takes the answer in."""
        abort: Callable[[], None] | None = scope.get("state", {}).get("abort")
        if scope["type"] != "http" or abort is None:
            await self._app(scope, receive, send)
            return
        pieces = _Pieces(send, abort, timeout=self._timeout)
        try:
            await self._app(scope, receive, pieces.send)
        finally:
            pieces.close()


class _Pieces:
    """Sends a response, and ends the connection if a piece of it waits too long; a timer for each would cost more."""

    def __init__(self, send: Send, abort: Callable[[], None], *, timeout: float) -> None:
        self._send, self._abort, self._timeout = send, abort, timeout
        self._loop = asyncio.get_running_loop()
        self._waits_since = math.inf
        self._watch = self._loop.call_later(timeout, self._look)

    async def send(self, message: Message) -> None:
        self._waits_since = self._loop.time()
        await self._send(message)
        self._waits_since = math.inf

    def _look(self) -> None:
        waited = self._loop.time() - self._waits_since
        if waited >= self._timeout:
            # At once, with what waits to be sent; the endpoint then hears that the caller has gone.
            self._abort()
            return
        self._watch = self._loop.call_later(self._timeout - max(0.0, waited), self._look)

    def close(self) -> None:
        self._watch.cancel()


async def _end(refusal: Refusal, receive: Receive, send: Send, *, linger: float = LINGER) -> None:
    """Refuse a request that has not come to its end, and close the connection a little later."""
    response = refusal.response()
    response.headers["connection"] = "close"
    await send({"type": "http.response.start", "status": response.status_code, "headers": response.raw_headers})
    await send({"type": "http.response.body", "body": response.body, "more_body": True})
    try:
        async with asyncio.timeout(linger):
            while (await receive()).get("more_body", False):
                pass
    except TimeoutError:
        pass
    await send({"type": "http.response.body", "body": b""})


def _replaying(body: bytes, receive: Receive) -> Receive:
    """Return a `receive` that gives the body first, and then what there is of the connection."""
    waiting: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def replay() -> Message:
        return waiting.pop() if waiting else await receive()

    return replay


def _has_body(headers: Headers) -> bool:
    return "transfer-encoding" in headers or headers.get("content-length", "0") != "0"


def _declared(headers: Headers) -> float:
    """Return how long a body says it is; 0 where it doesn't."""
    length = headers.get("content-length", "0")
    return int(length) if length.isascii() and length.isdigit() and len(length) < 20 else float("inf")


def _head_too_large() -> Refusal:
    return Refusal(
        f"the request has more than {MAX_HEADERS} headers, or more than {MAX_HEAD} bytes of them",
        status=431,
        code="headers_too_large",
    )
