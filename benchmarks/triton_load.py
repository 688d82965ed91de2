"""Closed loops against Triton's `generate_stream`, as cheap as a client can be, so that the server has the cores.

One thread, one plain socket a stream, kept open; what comes is not parsed but looked through for the end of a response
(HTTP's last chunk). How much processor time that took is returned with the figures.
"""

import json
import selectors
import socket
import time
from dataclasses import dataclass
from typing import Any

END = b"\r\n0\r\n\r\n"


@dataclass(frozen=True, kw_only=True)
class Load:
    """What a run of closed loops took."""

    seconds: float
    client_seconds: float
    """Processor time of the client."""
    responses: int
    """Events of all streams; a token each, or several where the server puts them together."""


class Streams:
    """Connections to one model; a context manager."""

    def __init__(self, port: int, model: str) -> None:
        self.address = ("127.0.0.1", port)
        self.path = f"/v2/models/{model}/generate_stream"

    def run(self, prompts: list[str], streams: int, **parameters: Any) -> Load:
        """Answer all prompts, `streams` at a time, and return what it took."""
        waiting = [self._request(prompt, parameters) for prompt in reversed(prompts)]
        selector, responses, open_streams = selectors.DefaultSelector(), 0, 0
        for _ in range(min(streams, len(prompts))):
            connection = socket.create_connection(self.address)
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            selector.register(connection, selectors.EVENT_READ, bytearray())
            open_streams += 1
        began, used = time.perf_counter(), time.thread_time()
        for key in list(selector.get_map().values()):
            self._socket(key).sendall(waiting.pop())
        while open_streams:
            for key, _ in selector.select():
                got = self._socket(key).recv(1 << 16)
                responses += got.count(b"data: ")
                tail = key.data
                tail += got
                del tail[: -len(END)]
                if tail == END and waiting:
                    tail.clear()
                    self._socket(key).sendall(waiting.pop())
                elif tail == END or not got:
                    selector.unregister(key.fileobj)
                    self._socket(key).close()
                    open_streams -= 1
        return Load(seconds=time.perf_counter() - began, client_seconds=time.thread_time() - used, responses=responses)

    def tokens(self, prompt: str, **parameters: Any) -> int:
        """Return how many tokens one answer has, as the server counts them."""
        with socket.create_connection(self.address) as connection:
            connection.sendall(self._request(prompt, {**parameters, "return_num_output_tokens": True}))
            got = b""
            while not got.endswith(END):
                got += connection.recv(1 << 16)
        events = [json.loads(line.removeprefix(b"data: ")) for line in got.split(b"\n") if line.startswith(b"data: ")]
        return sum(int(event["num_output_tokens"]) for event in events)

    def _request(self, prompt: str, parameters: dict[str, Any]) -> bytes:
        body = json.dumps({"text_input": prompt, "stream": True, **parameters}).encode()
        head = f"POST {self.path} HTTP/1.1\r\nHost: triton\r\nContent-Type: application/json\r\n"
        return f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body

    @staticmethod
    def _socket(key: selectors.SelectorKey) -> socket.socket:
        assert isinstance(key.fileobj, socket.socket)
        return key.fileobj
