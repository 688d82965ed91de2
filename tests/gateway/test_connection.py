"""Connections that are too many, and callers who don't read, on real sockets."""

import functools
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import pytest
import uvicorn

from deploykit.gateway.connection import Bounds, Connection
from deploykit.gateway.limits import SlowReaders
from deploykit.gateway.server import _watch_peers

REQUEST = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"


class Talker:
    """An application that says a lot to whoever asks, and knows when it has said it."""

    def __init__(self, *, pieces: int) -> None:
        self.pieces = pieces
        self.over = threading.Event()

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            return
        await send({"type": "http.response.start", "status": 200, "headers": []})
        for number in range(1, self.pieces + 1):
            await send({"type": "http.response.body", "body": b"x" * 2**16, "more_body": number < self.pieces})
        self.over.set()


@contextmanager
def listening(app: Any, *, connections: int = 100, timeout: float = 30.0, age: float | None = None) -> Iterator[int]:
    """Run an application on a free port."""
    bounds = Bounds(connections=connections, head_timeout=timeout, age=age)
    config = uvicorn.Config(
        app,
        http=functools.partial(Connection, bounds=bounds),  # type: ignore[arg-type]
        loop="uvloop",
        lifespan="off",
        ws="none",
        log_level="critical",
        timeout_graceful_shutdown=1,
    )
    server = uvicorn.Server(config)
    sock = socket.create_server(("127.0.0.1", 0))
    _watch_peers(sock, timeout)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [sock]}, daemon=True)
    thread.start()
    try:
        yield sock.getsockname()[1]
    finally:
        server.should_exit = True
        thread.join(10)


@pytest.fixture
def talker() -> Talker:
    return Talker(pieces=1)


def ask(connection: socket.socket, *, request: bytes = REQUEST) -> bytes:
    connection.sendall(request)
    return connection.recv(2**20)


def test_one_connection_too_many_is_told_to_come_back(talker: Talker) -> None:
    with listening(talker, connections=2) as port:
        address = ("127.0.0.1", port)
        first, second = socket.create_connection(address, 5), socket.create_connection(address, 5)
        assert ask(first).startswith(b"HTTP/1.1 200")
        assert ask(second).startswith(b"HTTP/1.1 200")
        with socket.create_connection(address, 5) as third:
            refused = b"".join(iter(lambda: third.recv(2**16), b""))
            assert refused.startswith(b"HTTP/1.1 503")
            assert b"too many connections" in refused
        first.close()
        end = time.monotonic() + 5
        while True:
            with socket.create_connection(address, 5) as fourth:
                if ask(fourth).startswith(b"HTTP/1.1 200"):
                    break
            assert time.monotonic() < end
        second.close()


def test_a_caller_who_does_not_read_is_cut_off_and_no_other_one() -> None:
    # More than the kernel and the server keep of a connection together.
    talker = Talker(pieces=400)
    with listening(SlowReaders(talker, timeout=0.5)) as port:
        with socket.create_connection(("127.0.0.1", port), 10) as lazy:
            lazy.sendall(REQUEST)
            assert talker.over.wait(10)
            got = 0
            with suppress(ConnectionError):
                while piece := lazy.recv(2**20):
                    got += len(piece)
            assert got < 400 * 2**16
        talker.pieces = 1
        with socket.create_connection(("127.0.0.1", port), 10) as eager:
            assert ask(eager).startswith(b"HTTP/1.1 200")


def test_an_old_connection_ends_with_the_next_answer_which_says_so(talker: Talker) -> None:
    with listening(talker, age=0.3) as port, socket.create_connection(("127.0.0.1", port), 10) as connection:
        young = ask(connection)
        assert b"connection: close" not in young.lower()
        while not young.endswith(b"0\r\n\r\n"):
            young += connection.recv(2**20)
        time.sleep(0.4)
        connection.sendall(REQUEST)
        old = b"".join(iter(lambda: connection.recv(2**20), b""))
    assert old.startswith(b"HTTP/1.1 200")
    assert b"connection: close" in old.lower()
    assert old.endswith(b"0\r\n\r\n")


def test_a_slow_head_of_the_next_request_does_not_end_the_answer_before_it() -> None:
    talker = Talker(pieces=40)
    with listening(talker, timeout=0.3) as port, socket.create_connection(("127.0.0.1", port), 10) as connection:
        connection.sendall(REQUEST + b"GET / HT")
        got = 0
        while got < 40 * 2**16:
            got += len(connection.recv(2**18))
            time.sleep(0.02)
        assert got >= 40 * 2**16


def test_requests_one_behind_the_other_are_answered_in_turn(talker: Talker) -> None:
    with listening(talker) as port, socket.create_connection(("127.0.0.1", port), 10) as connection:
        connection.sendall(REQUEST * 20)
        got = b""
        while got.count(b"HTTP/1.1 200") < 20 or not got.endswith(b"0\r\n\r\n"):
            piece = connection.recv(2**20)
            assert piece
            got += piece
        assert got.count(b"HTTP/1.1 200") == 20
