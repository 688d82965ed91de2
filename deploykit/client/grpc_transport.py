"""Triton over gRPC, for threads and for event loops."""

import asyncio
from collections.abc import Mapping
from typing import Any

import grpc

from deploykit.client.address import TLS, Address
from deploykit.client.channel import Lane, Pool, channel_options, credentials
from deploykit.client.errors import CancelledError, ClientError
from deploykit.client.exchange import Request
from deploykit.client.faults import fault_of_status
from deploykit.client.triton import TritonDialect

_CLOSED = (ValueError, grpc.aio.UsageError)
"""How gRPC says that a channel is closed."""


class GrpcTransport:
    """How a server's gRPC endpoint is reached."""

    dialect = TritonDialect()

    def __init__(self, address: Address, *, keepalive: float, tls: TLS | None, headers: Mapping[str, str]) -> None:
        self.url = address.url
        self._target = address.target
        self._headers = tuple(headers.items())
        tls = tls or (TLS() if address.secure else None)
        self._credentials = credentials(tls) if tls else None
        server_name = tls.server_name if tls else None
        self._options = channel_options(address, keepalive=keepalive, server_name=server_name)

    def connect(self) -> "GrpcConnection":
        """Return a connection for threads."""
        return GrpcConnection(Pool(lambda: self._channel(grpc), url=self.url), url=self.url, headers=self._headers)

    def connect_async(self) -> "AsyncGrpcConnection":
        """Return a connection for the event loop that first uses it."""
        pool = Pool(lambda: self._channel(grpc.aio), url=self.url)
        return AsyncGrpcConnection(pool, url=self.url, headers=self._headers)

    def _channel(self, kind: Any) -> Any:
        if self._credentials:
            return kind.secure_channel(self._target, self._credentials, options=self._options)
        return kind.insecure_channel(self._target, options=self._options)


class _Calls:
    """What connections of both kinds know."""

    def __init__(self, pool: Pool, *, url: str, headers: tuple[tuple[str, str], ...]) -> None:
        self._pool = pool
        self._url = url
        self._headers = headers

    def _metadata(self, request: Request) -> tuple[tuple[str, str], ...]:
        return (*self._headers, *request.headers.items())

    def _start(self, request: Request, timeout: float) -> tuple[Lane, Any]:
        lane = self._pool.take()
        try:
            return lane, lane.stream(request.body, timeout=timeout, metadata=self._metadata(request))
        except _CLOSED:
            self._pool.give_back(lane)
            raise self._pool.closed() from None


class GrpcConnection(_Calls):
    """Connections for threads."""

    def ask(self, request: Request, timeout: float) -> Any:
        """Return the one reply to a request, or raise a ClientError."""
        lane = self._pool.take()
        try:
            return lane.method(request.method)(request.body, timeout=timeout, metadata=self._metadata(request))
        except grpc.RpcError as error:
            raise _fault(error, self._url) from None
        except ValueError:
            raise self._pool.closed() from None
        finally:
            self._pool.give_back(lane)

    def open(self, request: Request, timeout: float) -> "GrpcCall":
        """Return the call that the request has begun, or raise a ClientError."""
        lane, call = self._start(request, timeout)
        if not call.add_callback(lambda: self._pool.give_back(lane)):
            # It has ended already.
            self._pool.give_back(lane)
        return GrpcCall(call, url=self._url)

    def close(self) -> None:
        """Cancel what runs and close."""
        for channel in self._pool.close():
            channel.close()


class GrpcCall:
    """An answer that arrives, for threads."""

    def __init__(self, call: Any, *, url: str) -> None:
        self._call = call
        self._url = url

    def receive(self) -> Any:
        """Return the next message; None at the end. A ClientError says what ended it instead."""
        try:
            return next(self._call, None)
        except grpc.RpcError as error:
            raise _fault(error, self._url) from None

    def cancel(self) -> None:
        """Give the answer up; whoever waits for it gets a CancelledError."""
        self._call.cancel()


class AsyncGrpcConnection(_Calls):
    """Connections for an event loop."""

    async def ask(self, request: Request, timeout: float) -> Any:
        """Return the one reply to a request, or raise a ClientError."""
        lane = self._pool.take()
        try:
            call = lane.method(request.method)(request.body, timeout=timeout, metadata=self._metadata(request))
            return await call
        except grpc.RpcError as error:
            raise _fault(error, self._url) from None
        except asyncio.CancelledError:
            raise await _cancelled(call, self._url) from None
        except _CLOSED:
            raise self._pool.closed() from None
        finally:
            self._pool.give_back(lane)

    def open(self, request: Request, timeout: float) -> "AsyncGrpcCall":
        """Return the call that the request has begun, or raise a ClientError."""
        lane, call = self._start(request, timeout)
        call.add_done_callback(lambda _: self._pool.give_back(lane))
        return AsyncGrpcCall(call, url=self._url)

    async def close(self) -> None:
        """Cancel what runs and close."""
        for channel in self._pool.close():
            await channel.close()


class AsyncGrpcCall:
    """An answer that arrives, in an event loop."""

    def __init__(self, call: Any, *, url: str) -> None:
        self._call = call
        self._url = url

    async def receive(self) -> Any:
        """Return the next message; None at the end. A ClientError says what ended it instead."""
        try:
            message = await self._call.read()
        except grpc.RpcError as error:
            raise _fault(error, self._url) from None
        except asyncio.CancelledError:
            raise await _cancelled(self._call, self._url) from None
        return None if message is grpc.aio.EOF else message

    def cancel(self) -> None:
        """Give the answer up; whoever waits for it gets a CancelledError."""
        self._call.cancel()


async def _cancelled(call: Any, url: str) -> BaseException:
    """Return what a CancelledError of the event loop means: gRPC raises it for a call that was cancelled, too."""
    task = asyncio.current_task()
    if task is not None and task.cancelling():
        return asyncio.CancelledError()
    return CancelledError(f"{url}: {await call.details() or 'the request was cancelled'}")


def _fault(error: Any, url: str) -> ClientError:
    return fault_of_status(error.code().name, error.details() or "", url=url)
