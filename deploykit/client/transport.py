"""What a client needs of a transport, and which one an address has.

A transport says how a server is reached; it opens a connection that waits in the calling thread, or one for an event
loop. A connection turns replies and failures of its library into messages and `ClientError`s; all else is decided in
`exchange.py`. The libraries are loaded with the first client that needs them.
"""

from typing import Any, Final, Protocol

from deploykit.client.address import TLS, parse_url
from deploykit.client.dialect import Dialect
from deploykit.client.errors import InvalidRequestError
from deploykit.client.exchange import Request

KEEPALIVE: Final = 20.0
"""Seconds of silence after which a ping asks whether the other side is there. With the wait for its answer a half-open
connection is found within 28 s. A Triton with its own defaults takes the fourth such ping for an attack (80 s without
a token); `deploykit serve` starts it with `--grpc-http2-max-ping-strikes=0`."""


class Call(Protocol):
    """A request whose answer comes in parts, from a thread's point of view."""

    def receive(self) -> Any:
        """Return the next message; None at the end. A ClientError says what ended it instead."""

    def cancel(self) -> None:
        """Give the answer up, from any thread; whoever waits for it gets a CancelledError. Later calls do nothing."""


class Connection(Protocol):
    """A connection, or several, to a server, from a thread's point of view."""

    def ask(self, request: Request, timeout: float) -> Any:
        """Return the one reply to a request, or raise a ClientError."""

    def open(self, request: Request, timeout: float) -> Call:
        """Return the call that the request has begun, or raise a ClientError."""

    def close(self) -> None:
        """Cancel what runs and close."""


class AsyncCall(Protocol):
    """A request whose answer comes in parts, in an event loop."""

    async def receive(self) -> Any:
        """Return the next message; None at the end. A ClientError says what ended it instead."""

    def cancel(self) -> None:
        """Give the answer up; whoever waits for it gets a CancelledError. Later calls do nothing."""


class AsyncConnection(Protocol):
    """A connection, or several, to a server, in an event loop."""

    async def ask(self, request: Request, timeout: float) -> Any:
        """Return the one reply to a request, or raise a ClientError."""

    def open(self, request: Request, timeout: float) -> AsyncCall:
        """Return the call that the request has begun, or raise a ClientError."""

    async def close(self) -> None:
        """Cancel what runs and close."""


class Transport(Protocol):
    """How a server is reached, and in which words it is asked."""

    @property
    def url(self) -> str:
        """The server, as error messages name it."""

    @property
    def dialect(self) -> Dialect:
        """Requests and answers in this server's words."""

    def connect(self) -> Connection:
        """Return a connection for threads; it connects when it is first used."""

    def connect_async(self) -> AsyncConnection:
        """Return a connection for an event loop; it connects when it is first used."""


def transport_to(url: str, *, keepalive: float, tls: TLS | None, api_key: str | None) -> Transport:
    """Return the way to a server.

    Raises:
        InvalidRequestError: the address can't be read, or certificates or the key don't go with it.
    """
    address = parse_url(url)
    if api_key is not None and not (api_key.isascii() and api_key.isprintable() and api_key and " " not in api_key):
        raise InvalidRequestError("api_key must be printable ASCII without spaces")
    if tls and url.startswith(("http://", "grpc://")):
        raise InvalidRequestError(
            f"{url}: TLS doesn't go with an address that says it has none; write https:// or grpcs://"
        )
    headers = {"authorization": f"Bearer {api_key}"} if api_key else {}
    if address.protocol == "http":
        from deploykit.client.http_transport import HttpTransport

        return HttpTransport(address, keepalive=keepalive, tls=tls, headers=headers)
    from deploykit.client.grpc_transport import GrpcTransport

    return GrpcTransport(address, keepalive=keepalive, tls=tls, headers=headers)
