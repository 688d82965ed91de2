"""gRPC channels, and as many of them as the calls at one time need."""

import json
import threading
from collections.abc import Callable
from typing import Any, Final

import grpc

from deploykit.client.address import TLS, Address
from deploykit.client.errors import InvalidRequestError
from deploykit.client.protocol import MESSAGES, SERVICE, ModelInferRequest, ModelStreamInferResponse
from deploykit.client.triton import STREAM

STREAMS: Final = 100
"""Calls at a time over one connection: no HTTP/2 server should allow fewer (RFC 9113, 6.5.2), and what a server or a
proxy doesn't allow waits without a word."""
_PING_ANSWER: Final = 0.4
"""Part of the keepalive time that a ping's answer may take."""
_ROUND_ROBIN: Final = json.dumps({"loadBalancingConfig": [{"round_robin": {}}]})


def channel_options(address: Address, *, keepalive: float, server_name: str | None) -> list[tuple[str, Any]]:
    """Return the options of a gRPC channel; it connects when it is first used, and again when it lost its server."""
    answer = round(keepalive * _PING_ANSWER * 1e3)
    options: list[tuple[str, Any]] = [
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
        # One layer asks again, and this one knows the budget.
        ("grpc.enable_retries", 0),
    ]
    if address.target.startswith("dns:"):
        options.append(("grpc.service_config", _ROUND_ROBIN))
    if server_name:
        options.append(("grpc.ssl_target_name_override", server_name))
    return options


def credentials(tls: TLS) -> Any:
    """Return gRPC's credentials.

    Raises:
        InvalidRequestError: a file can't be read.
    """
    return grpc.ssl_channel_credentials(tls.read("ca"), tls.read("key"), tls.read("certificate"))


class Lane:
    """One connection, and the methods that are called over it."""

    def __init__(self, channel: Any) -> None:
        self.channel = channel
        self.busy = 0
        # One request, many responses: on the wire the same as the service's own stream of requests that ends after
        # the first, and no thread to feed it.
        self.stream = channel.unary_stream(
            f"{SERVICE}{STREAM}",
            request_serializer=ModelInferRequest.SerializeToString,
            response_deserializer=ModelStreamInferResponse.FromString,
        )

    def method(self, name: str) -> Any:
        """Return a method with one reply."""
        return self.channel.unary_unary(
            f"{SERVICE}{name}",
            request_serializer=MESSAGES[f"{name}Request"].SerializeToString,
            response_deserializer=MESSAGES[f"{name}Response"].FromString,
        )


class Pool:
    """The connections of one client: a further one wherever those at hand have as many calls as they may have."""

    def __init__(self, make: Callable[[], Any], *, url: str) -> None:
        self._make = make
        self._url = url
        self._lanes: list[Lane] = []
        # One that the same thread may take again: a stream may be forgotten, and so ended, while it is held.
        self._lock = threading.RLock()
        self._closed = False

    def take(self) -> Lane:
        """Return the least busy connection; `give_back` must follow when the call has ended.

        Raises:
            InvalidRequestError: the client is closed.
        """
        with self._lock:
            if self._closed:
                raise self.closed()
            lane = min(self._lanes, key=lambda lane: lane.busy, default=None)
            if lane is None or lane.busy >= STREAMS:
                lane = Lane(self._make())
                self._lanes.append(lane)
            lane.busy += 1
            return lane

    def give_back(self, lane: Lane) -> None:
        """Count a call as ended."""
        with self._lock:
            lane.busy -= 1

    def close(self) -> list[Any]:
        """Return the channels, which the caller must close; there will be no others."""
        with self._lock:
            self._closed = True
            lanes, self._lanes = self._lanes, []
            return [lane.channel for lane in lanes]

    def closed(self) -> InvalidRequestError:
        """Return the error of who asks a closed client."""
        return InvalidRequestError(f"{self._url}: this client is closed; make a new one")
