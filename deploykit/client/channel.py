"""The connection to a server."""

from dataclasses import dataclass
from typing import Any, Final

import grpc

from deploykit.client.errors import InvalidRequestError

KEEPALIVE: Final = 20.0
"""Seconds of silence after which a ping asks whether the other side is there. With the wait for its answer a half-open
connection is found within 28 s. A Triton with its own defaults takes the fourth such ping for an attack (80 s without
a token); `deploykit serve` starts it with `--grpc-http2-max-ping-strikes=0`."""
_PING_ANSWER: Final = 0.4
"""Part of the keepalive time that a ping's answer may take."""


@dataclass(frozen=True)
class Address:
    """Where a server is."""

    target: str
    """Host and port."""
    secure: bool
    """Whether to speak TLS."""


def parse_url(url: str) -> Address:
    """Return the address that `url` names: `HOST:PORT`, `grpc://HOST:PORT`, or `grpcs://HOST:PORT` for TLS.

    Raises:
        InvalidRequestError: another scheme, or no port.
    """
    scheme, separator, rest = url.rpartition("://")
    if separator and scheme not in ("grpc", "grpcs"):
        raise InvalidRequestError(
            f"{url}: the client speaks gRPC, not {scheme}; give HOST:PORT of Triton's gRPC endpoint (usually port 8001)"
        )
    target = rest.rstrip("/")
    if not target.rpartition(":")[2].isdecimal():
        raise InvalidRequestError(f"{url}: no port in it; give HOST:PORT, such as localhost:8001")
    return Address(target, secure=scheme == "grpcs")


def open_channel(address: Address, *, keepalive: float) -> Any:
    """Return a gRPC channel to `address`; it connects when it is first used, and again when the connection is lost."""
    answer = round(keepalive * _PING_ANSWER * 1e3)
    options = [
        ("grpc.keepalive_time_ms", round(keepalive * 1e3)),
        ("grpc.keepalive_timeout_ms", answer),
        # Its own probes of the bandwidth are pings, too; while one is in flight, no other is sent.
        ("grpc.http2.ping_timeout_ms", answer),
        # Without it the third ping of a silent stream would wait for minutes.
        ("grpc.http2.max_pings_without_data", 0),
        # A client of its own connection: one that is closed or slow doesn't hold up another.
        ("grpc.use_local_subchannel_pool", 1),
        # An answer of any length; the server decides what it takes.
        ("grpc.max_receive_message_length", -1),
        ("grpc.max_send_message_length", -1),
        # Soon enough that a retry meets a new attempt to connect, not the memory of the last one.
        ("grpc.initial_reconnect_backoff_ms", 100),
        ("grpc.min_reconnect_backoff_ms", 1000),
        ("grpc.max_reconnect_backoff_ms", 2000),
    ]
    if address.secure:
        return grpc.secure_channel(address.target, grpc.ssl_channel_credentials(), options=options)
    return grpc.insecure_channel(address.target, options=options)
