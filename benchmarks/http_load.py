"""Closed loops over HTTP, as cheap as a client can be, so that the server has the cores.

One thread, one plain socket a stream, kept open; what comes is not parsed but looked through for an event's beginning
and for the end of a response (HTTP's last chunk). How much processor time that took is returned with the figures.
"""

import json
import select
import selectors
import socket
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Self

END = b"\r\n0\r\n\r\n"
EVENT = b"data: "
DONE = b"data: [DONE]"
"""The event that ends a stream of OpenAI's."""


@dataclass(frozen=True, kw_only=True)
class Load:
    """What a run of closed loops took."""

    seconds: float
    client_seconds: float
    """Processor time of the client."""
    responses: int
    """Events of all streams; a token each, or several where the server puts them together."""
    first: list[float]
    """Seconds from each request to its first event, in the order in which those came."""


@dataclass(frozen=True, kw_only=True)
class Endpoint:
    """Where streams are asked for, and how."""

    port: int
    path: str
    body: Callable[[str, Mapping[str, Any]], dict[str, Any]]
    """(prompt, parameters) → the JSON of a request."""

    def request(self, prompt: str, parameters: Mapping[str, Any]) -> bytes:
        """Return the bytes of a request."""
        body = json.dumps(self.body(prompt, parameters)).encode()
        head = f"POST {self.path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        return f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body


def triton(port: int, model: str) -> Endpoint:
    """Return Triton's own `generate_stream`."""

    def body(prompt: str, parameters: Mapping[str, Any]) -> dict[str, Any]:
        return {"text_input": prompt, "stream": True, **parameters}

    return Endpoint(port=port, path=f"/v2/models/{model}/generate_stream", body=body)


def completions(port: int, model: str) -> Endpoint:
    """Return the gateway's completions."""

    def body(prompt: str, parameters: Mapping[str, Any]) -> dict[str, Any]:
        return {"model": model, "prompt": prompt, "stream": True, **parameters}

    return Endpoint(port=port, path="/v1/completions", body=body)


def chat(port: int, model: str) -> Endpoint:
    """Return the gateway's chat, the prompt being what the user says."""

    def body(prompt: str, parameters: Mapping[str, Any]) -> dict[str, Any]:
        return {"model": model, "messages": [{"role": "user", "content": prompt}], "stream": True, **parameters}

    return Endpoint(port=port, path="/v1/chat/completions", body=body)


@dataclass(kw_only=True)
class _Stream:
    """A connection, and the request that it waits for."""

    socket: socket.socket
    tail: bytearray = field(default_factory=bytearray)
    """The last bytes of the response so far."""
    sent: float = 0.0
    begun: bool = False


class Streams:
    """Connections to one endpoint, kept from run to run; a context manager."""

    def __init__(self, endpoint: Endpoint) -> None:
        self.endpoint = endpoint
        self._idle: list[socket.socket] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for connection in self._idle:
            connection.close()

    def run(self, prompts: Sequence[str], streams: int, **parameters: Any) -> Load:
        """Answer all prompts, `streams` at a time, and return what it took."""
        waiting = [self.endpoint.request(prompt, parameters) for prompt in reversed(prompts)]
        selector, responses, first = selectors.DefaultSelector(), 0, list[float]()
        for _ in range(min(streams, len(prompts))):
            stream = _Stream(socket=self._connection())
            selector.register(stream.socket, selectors.EVENT_READ, stream)
        began, used = time.perf_counter(), time.thread_time()
        for key in list(selector.get_map().values()):
            _send(key.data, waiting.pop())
        while selector.get_map():
            for key, _ in selector.select():
                stream = key.data
                got = stream.socket.recv(1 << 16)
                events = got.count(EVENT)
                if events and not stream.begun:
                    stream.begun = True
                    first.append(time.perf_counter() - stream.sent)
                responses += events - got.count(DONE)
                stream.tail += got
                del stream.tail[: -len(END)]
                if stream.tail != END and got:
                    continue
                assert stream.begun, "a response without an event: the server refused the request"
                if waiting:
                    _send(stream, waiting.pop())
                else:
                    selector.unregister(stream.socket)
                    self._idle.append(stream.socket)
        seconds, used = time.perf_counter() - began, time.thread_time() - used
        return Load(seconds=seconds, client_seconds=used, responses=responses, first=first)

    def events(self, prompt: str, **parameters: Any) -> list[Any]:
        """Return the events of one answer."""
        with socket.create_connection(("127.0.0.1", self.endpoint.port)) as connection:
            connection.sendall(self.endpoint.request(prompt, parameters))
            got = b""
            while not got.endswith(END):
                got += connection.recv(1 << 16)
        lines = [line.removeprefix(EVENT) for line in got.split(b"\n") if line.startswith(EVENT)]
        return [json.loads(line) for line in lines if line.strip() != b"[DONE]"]

    def _connection(self) -> socket.socket:
        while self._idle:
            connection = self._idle.pop()
            if not select.select([connection], [], [], 0)[0]:
                return connection
            # The server has closed it: it was idle for too long.
            connection.close()
        connection = socket.create_connection(("127.0.0.1", self.endpoint.port))
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return connection


def _send(stream: _Stream, request: bytes) -> None:
    stream.tail.clear()
    stream.begun, stream.sent = False, time.perf_counter()
    stream.socket.sendall(request)
