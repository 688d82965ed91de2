"""The gateway over HTTP, in an event loop; `http_thread.py` has the way for threads."""

import asyncio
import json
import re
import socket
import ssl
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any, Final

import httpx2

from deploykit.client.address import TLS, Address
from deploykit.client.errors import (
    CancelledError,
    ClientError,
    DeadlineExceededError,
    InvalidRequestError,
    UnavailableError,
)
from deploykit.client.exchange import Request
from deploykit.client.http_thread import HttpConnection
from deploykit.client.openai import OpenAIDialect, Response

CONNECTIONS: Final = httpx2.Limits(max_connections=None, max_keepalive_connections=100, keepalive_expiry=60)
"""A connection for each call at a time, kept for later ones."""
_PROBES: Final = 4
"""Probes of a silent connection that must go unanswered: 2 s apart, they end it 28 s after the last byte."""
_PROBE_INTERVAL: Final = 0.1
"""Of the keepalive time, between two of them."""
_EVENTS: Final = "text/event-stream"


class HttpTransport:
    """How a gateway is reached."""

    def __init__(self, address: Address, *, keepalive: float, tls: TLS | None, headers: Mapping[str, str]) -> None:
        self.url = address.url
        if not _host(address.target):
            raise InvalidRequestError(f"{address.url}: no host in it; give http://HOST:PORT of the gateway")
        self.dialect = OpenAIDialect(address.url)
        self._base = address.target
        self._headers = dict(headers)
        self._keepalive = keepalive
        self._context = _context(tls or TLS()) if address.secure else None
        self._server_name = tls.server_name if tls else None

    def connect(self) -> HttpConnection:
        """Return connections for threads."""
        return HttpConnection(self.connect_async(), url=self.url)

    def connect_async(self) -> "AsyncHttpConnection":
        """Return connections for the event loop that first uses them."""
        return AsyncHttpConnection(self._client, url=self.url, server_name=self._server_name)

    def _client(self) -> httpx2.AsyncClient:
        transport = httpx2.AsyncHTTPTransport(
            verify=self._context or False,
            limits=CONNECTIONS,
            socket_options=socket_options(self._keepalive),
        )
        # Deadlines are kept here, where they count for the whole call.
        return httpx2.AsyncClient(base_url=self._base, headers=self._headers, transport=transport, timeout=None)


class AsyncHttpConnection:
    """Connections for an event loop."""

    def __init__(self, make: Callable[[], httpx2.AsyncClient], *, url: str, server_name: str | None) -> None:
        self._make = make
        self._url = url
        self._extensions = {"sni_hostname": server_name} if server_name else {}
        self._client: httpx2.AsyncClient | None = None
        self._calls: set[AsyncHttpCall] = set()
        self._closed = False

    async def ask(self, request: Request, timeout: float) -> Any:
        """Return the one response to a request, or raise a ClientError."""
        call = self.open(request, timeout)
        try:
            return await call.receive()
        finally:
            await call.end()

    def open(self, request: Request, timeout: float) -> "AsyncHttpCall":
        """Return a call; the request is sent when its answer is first waited for."""
        if self._closed:
            raise InvalidRequestError(f"{self._url}: this client is closed; make a new one")
        if self._client is None:
            self._client = self._make()
        built = self._client.build_request(
            "GET" if request.body is None else "POST",
            request.method,
            content=None if request.body is None else json.dumps(request.body).encode(),
            headers={"content-type": "application/json", **request.headers},
            extensions=self._extensions,
        )
        call = AsyncHttpCall(self._client, built, timeout=timeout, url=self._url, ended=self._calls.discard)
        self._calls.add(call)
        return call

    async def close(self) -> None:
        """Cancel what runs and close."""
        self._closed = True
        calls = tuple(self._calls)
        for call in calls:
            call.cancel()
        for call in calls:
            await call.ended.wait()
        if self._client is not None:
            await self._client.aclose()


class AsyncHttpCall:
    """An answer that arrives: events, or one response."""

    def __init__(
        self,
        client: httpx2.AsyncClient,
        request: httpx2.Request,
        *,
        timeout: float,
        url: str,
        ended: Callable[["AsyncHttpCall"], None],
    ) -> None:
        self._client = client
        self._request = request
        self._url = url
        self._on_end = ended
        self.ended = asyncio.Event()
        """Set when nothing is open any more."""
        self._loop = asyncio.get_running_loop()
        self._deadline = self._loop.time() + timeout
        self._response: httpx2.Response | None = None
        self._events: Any = None
        self._over = self._cancelled = False
        self._waiting: asyncio.Timeout | None = None
        self._ending: asyncio.Task[None] | None = None

    async def receive(self) -> Response | str | None:
        """Return the next event or the response; None at the end. A ClientError says what ended it instead."""
        if self._over and not self._cancelled:
            return None
        try:
            self._check()
            async with asyncio.timeout_at(self._deadline) as self._waiting:
                message = await self._next()
            # Something may have come in the very moment in which it was given up: nobody else would end it.
            self._check()
            return message
        except (httpx2.RequestError, httpx2.StreamError, OSError) as error:
            # An OSError is a TimeoutError, or one of TLS that httpx2 passes on as it is.
            await self.end()
            raise self._fault(error) from None
        except BaseException:
            await self.end()
            raise
        finally:
            self._waiting = None

    def cancel(self) -> None:
        """Give the answer up; whoever waits for it gets a CancelledError."""
        self._cancelled = True
        if self._waiting is not None:
            # Whoever waits is woken, and ends it; where the deadline has passed just now, it does so already.
            with suppress(RuntimeError):
                self._waiting.reschedule(self._loop.time())
        elif not self._over and self._loop.is_running():
            self._ending = self._loop.create_task(self.end())

    async def end(self) -> None:
        """Close the connection if the response isn't complete; the server hears of it so."""
        self._over = True
        events, self._events = self._events, None
        try:
            if events is not None:
                await events.aclose()
            if self._response is not None:
                await self._response.aclose()
        finally:
            self._on_end(self)
            self.ended.set()

    def _check(self) -> None:
        if self._cancelled:
            raise TimeoutError

    async def _next(self) -> Response | str | None:
        if self._response is None:
            self._response = await self._client.send(self._request, stream=True)
            if not self._response.headers.get("content-type", "").startswith(_EVENTS):
                return await self._whole(self._response)
            self._events = aiter(httpx2.EventSource(self._response))
        event = await anext(self._events, None)
        if event is None:
            await self.end()
            return None
        return str(event.data)

    async def _whole(self, response: httpx2.Response) -> Response:
        await response.aread()
        await self.end()
        return Response(response.status_code, response.text, _seconds(response.headers.get("retry-after", "")))

    def _fault(self, error: Exception) -> ClientError:
        if self._cancelled:
            return CancelledError(f"{self._url}: the request was cancelled")
        if isinstance(error, TimeoutError):
            return DeadlineExceededError(
                f"{self._url}: no complete answer within the timeout; allow more with timeout="
            )
        said = " ".join(str(error).split()) or type(error).__name__
        return UnavailableError(f"{self._url}: unavailable: {said}; check that the gateway runs there")


def _seconds(retry_after: str) -> float | None:
    """Return what the header says in seconds; in its other form, a date, it isn't read: clocks differ."""
    return float(retry_after) if re.fullmatch(r"\d{1,6}", retry_after.strip(), re.ASCII) else None


def _host(url: str) -> str:
    try:
        return httpx2.URL(url).host
    except httpx2.InvalidURL:
        return ""


def socket_options(keepalive: float) -> list[tuple[int, int, int]]:
    """Return options that end a connection whose other side is gone after 1.4 times `keepalive` seconds."""
    options = [(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1), (socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)]
    named = {
        "TCP_KEEPIDLE": max(1, round(keepalive)),
        "TCP_KEEPINTVL": max(1, round(keepalive * _PROBE_INTERVAL)),
        "TCP_KEEPCNT": _PROBES,
        # The same for what was sent and isn't acknowledged.
        "TCP_USER_TIMEOUT": round(keepalive * 1400),
    }
    # Not every system has them all.
    options += [
        (socket.IPPROTO_TCP, getattr(socket, name), value) for name, value in named.items() if hasattr(socket, name)
    ]
    return options


def _context(tls: TLS) -> ssl.SSLContext:
    """Return what TLS is spoken with.

    Raises:
        InvalidRequestError: a file can't be read, or holds no certificate or key.
    """
    try:
        authorities = tls.read("ca")
        context = ssl.create_default_context(cadata=authorities.decode("ascii") if authorities else None)
        if tls.certificate is not None and tls.key is not None:
            context.load_cert_chain(tls.certificate, tls.key)
    except (OSError, ValueError) as error:
        # ssl's own errors are OSErrors.
        raise InvalidRequestError(f"TLS: {error}") from None
    return context
