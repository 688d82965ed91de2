"""Bodies that are too large, too slow or unsafe, callers who come too many, and callers who don't read."""

import asyncio
import time
from typing import Any

import pytest
from asgi_calls import Echo, ask, ask_async

from deploykit.gateway.limits import MAX_HEAD, MAX_HEADERS, Bodies, OpenRequests, SlowReaders


def bodies(app: Any, *, most: int = 100, timeout: float = 5) -> Bodies:
    return Bodies(app, most=most, timeout=timeout)


@pytest.mark.parametrize("size", [1, 99, 100])
@pytest.mark.parametrize("piece", [1, 7, 1000])
def test_hands_on_a_body_whole(size: int, piece: int) -> None:
    text = b"x" * size
    answer = ask(bodies(Echo()), body=[text[i : i + piece] for i in range(0, size, piece)])
    assert (answer.status, answer.body) == (200, text)


def test_leaves_a_request_without_a_body_alone() -> None:
    assert ask(bodies(Echo()), method="GET", headers={"content-length": "0"}).status == 200


@pytest.mark.parametrize(
    "headers", [{"content-length": "101"}, {"content-length": "9" * 30}, {"content-length": "x"}, None]
)
def test_refuses_what_is_too_large_declared_or_not(headers: dict[str, str] | None) -> None:
    echo = Echo()
    answer = ask(bodies(echo), headers=headers, body=[b"x" * 60, b"x" * 41])
    assert answer.status == 413
    assert answer.error["code"] == "body_too_large"
    assert "100 bytes" in answer.error["message"]
    assert answer.headers["connection"] == "close"
    assert not echo.seen


def test_reads_on_for_a_moment_so_that_the_caller_hears_the_reason() -> None:
    async def run() -> tuple[list[str], int]:
        events, left = [], 50

        async def receive() -> dict[str, Any]:
            nonlocal left
            left -= 1
            return {"type": "http.request", "body": b"x" * 101, "more_body": left > 0}

        async def send(message: Any) -> None:
            events.append(f"{message['type']} {message.get('more_body')} with {left} left")

        scope = {"type": "http", "path": "/", "method": "POST", "headers": [(b"transfer-encoding", b"chunked")]}
        await bodies(Echo())(scope, receive, send)
        return events, left

    events, left = asyncio.run(run())
    assert events[1].startswith("http.response.body True with 49")
    assert events[2].endswith("with 0 left")
    assert left == 0


def test_waits_for_a_body_only_so_long() -> None:
    began = time.monotonic()
    answer = ask(bodies(Echo(), timeout=0.1), body=[b"{"], ends=False)
    assert (answer.status, answer.error["code"]) == (408, "body_too_slow")
    assert time.monotonic() - began < 1


def test_answers_nobody_when_the_caller_has_gone() -> None:
    async def run() -> list[Any]:
        sent: list[Any] = []

        async def receive() -> dict[str, Any]:
            return {"type": "http.disconnect"}

        async def send(message: Any) -> None:
            sent.append(message)

        scope = {"type": "http", "path": "/", "method": "POST", "headers": [(b"content-length", b"5")]}
        await bodies(Echo())(scope, receive, send)
        return sent

    assert asyncio.run(run()) == []


@pytest.mark.parametrize("body", [b"[" * 100, b'{"a": "\xff"}', b"1" * 401])
def test_refuses_what_is_unsafe_to_parse(body: bytes) -> None:
    echo = Echo()
    answer = ask(bodies(echo, most=1000), body=[body])
    assert answer.status == 400
    assert answer.error["type"] == "invalid_request_error"
    assert not echo.seen


def test_refuses_compressed_bodies() -> None:
    answer = ask(bodies(Echo()), headers={"content-length": "5", "content-encoding": "gzip"}, body=[b"12345"])
    assert answer.status == 415


@pytest.mark.parametrize(
    "headers", [{"x": "y" * MAX_HEAD}, {f"x{i}": "" for i in range(MAX_HEADERS + 1)}], ids=["bytes", "headers"]
)
def test_refuses_heads_that_are_too_large(headers: dict[str, str]) -> None:
    assert ask(bodies(Echo()), headers=headers).status == 431


def test_takes_only_so_many_requests_at_once_and_probes_always() -> None:
    async def run() -> tuple[int, int, dict[str, str], int]:
        gate = asyncio.Event()

        async def app(scope: Any, receive: Any, send: Any) -> None:
            await gate.wait()
            await Echo()(scope, receive, send)

        limited = OpenRequests(app, most=2, open_paths=frozenset({"/health"}))
        open_ones = [asyncio.create_task(ask_async(limited)) for _ in range(2)]
        probe = asyncio.create_task(ask_async(limited, path="/health"))
        await asyncio.sleep(0)
        refused = await ask_async(limited)
        gate.set()
        await asyncio.gather(*open_ones)
        later = await ask_async(limited)
        return refused.status, later.status, refused.headers, (await probe).status

    refused, later, headers, probe = asyncio.run(run())
    assert (refused, later, probe) == (503, 200, 200)
    assert headers["retry-after"] == "1"


def test_ends_the_connection_of_a_caller_who_does_not_read() -> None:
    async def run() -> tuple[bool, float]:
        aborted = asyncio.Event()
        began = time.monotonic()

        async def send(message: Any) -> None:
            # As uvicorn's: it waits while the buffer is full, until the connection is gone.
            await aborted.wait()

        async def receive() -> Any:
            return {"type": "http.request", "body": b"", "more_body": False}

        state = {"abort": aborted.set}
        scope = {"type": "http", "path": "/", "method": "GET", "headers": [], "state": state}
        await SlowReaders(Echo(), timeout=0.1)(scope, receive, send)
        return aborted.is_set(), time.monotonic() - began

    aborted, seconds = asyncio.run(run())
    assert aborted
    assert seconds < 1
