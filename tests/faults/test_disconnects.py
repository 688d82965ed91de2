"""Callers who go, however they came: what they had asked for ends within two steps of the engine."""

import asyncio
import http.client
import json
import socket
import struct
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any, Final

import pytest
from stacks import KEY, PROMPT, ROWS, Stack, until

pytestmark = pytest.mark.triton

LONG: Final = 800
ASKED: Final[dict[str, Any]] = {"model": "slow", "max_tokens": LONG, "ignore_eos": True}
HEADERS: Final = {"content-type": "application/json", "authorization": f"Bearer {KEY}"}


class Line(http.client.HTTPConnection):
    """A connection with a request on it, which is read to the first event if it has any."""

    def __init__(self, stack: Stack, path: str, **fields: Any) -> None:
        super().__init__("127.0.0.1", stack.port, timeout=20)
        self.request("POST", path, json.dumps({**ASKED, **fields}), HEADERS)
        self.response = self.getresponse() if fields.get("stream") else None
        if self.response:
            assert self.response.readline().startswith(b"data: ")


def close(line: Line) -> None:
    if line.response:
        line.response.close()
    line.close()


def reset(line: Line) -> None:
    """End a connection as a process that crashes does."""
    line.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    close(line)


def held(stack: Stack, since: float) -> int:
    """Return how many steps began after a time in which somebody still ran; returns when nobody does."""
    until(lambda: stack.load() == (0, 0), 20)
    return len([step for step in stack.steps() if step.time > since and step.running])


CHAT: Final = ("/v1/chat/completions", {"messages": [{"role": "user", "content": "hi"}]}, 1)
KINDS: Final[dict[str, tuple[str, dict[str, Any], int]]] = {
    "stream": ("/v1/completions", {"prompt": PROMPT, "stream": True}, 1),
    "whole": ("/v1/completions", {"prompt": PROMPT}, 1),
    "stream of four": ("/v1/completions", {"prompt": PROMPT, "n": 4, "stream": True}, 4),
    "stream of three prompts": ("/v1/completions", {"prompt": [PROMPT] * 3, "stream": True}, 3),
    "three prompts": ("/v1/completions", {"prompt": [PROMPT] * 3}, 3),
    "chat": CHAT,
    "chat stream": (CHAT[0], {**CHAT[1], "stream": True}, 1),
}
"""Requests over HTTP, and how many answers each runs."""


@pytest.mark.parametrize(
    ("path", "fields", "answers"),
    [
        pytest.param(
            *asked, id=kind, marks=[] if kind in ("stream", "three prompts", "chat stream") else pytest.mark.slow
        )
        for kind, asked in KINDS.items()
    ],
)
def test_a_request_over_http(whole: Stack, path: str, fields: dict[str, Any], answers: int) -> None:
    line = Line(whole, path, **fields)
    until(lambda: whole.load() == (answers, 0), 10)
    close(line)
    assert held(whole, time.monotonic()) <= 2


def test_a_connection_that_is_reset(whole: Stack) -> None:
    line = Line(whole, "/v1/completions", prompt=PROMPT, stream=True)
    until(lambda: whole.load() == (1, 0), 10)
    reset(line)
    assert held(whole, time.monotonic()) <= 2


def test_who_goes_while_waiting_never_runs(whole: Stack) -> None:
    """Those with a row go on undisturbed."""
    running = Line(whole, "/v1/completions", prompt=PROMPT, n=ROWS, stream=True)
    until(lambda: whole.load() == (ROWS, 0), 10)
    waiting = [Line(whole, *KINDS[kind][:1], **KINDS[kind][1]) for kind in ("whole", "three prompts", "chat")]
    until(lambda: whole.load() == (ROWS, 5), 10)
    for line in waiting:
        close(line)
    until(lambda: whole.load() == (ROWS, 0), 5)
    close(running)
    assert held(whole, time.monotonic()) <= 2


@asynccontextmanager
async def by_openai(stack: Stack) -> AsyncIterator[None]:
    async with stack.async_openai() as openai:
        asked: dict[str, Any] = {"model": "slow", "prompt": PROMPT, "max_tokens": LONG}
        async with await openai.completions.create(**asked, stream=True, extra_body={"ignore_eos": True}) as stream:
            await anext(stream)
            yield


@asynccontextmanager
async def by_a_cancelled_task(stack: Stack) -> AsyncIterator[None]:
    async with stack.async_openai() as openai:
        asked: dict[str, Any] = {"model": "slow", "prompt": PROMPT, "max_tokens": LONG}
        task = asyncio.ensure_future(openai.completions.create(**asked, extra_body={"ignore_eos": True}))
        await asyncio.to_thread(until, lambda: stack.load() == (1, 0), 10)
        try:
            yield
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)


@asynccontextmanager
async def by_grpc(stack: Stack) -> AsyncIterator[None]:
    async with (
        stack.async_grpc("slow") as client,
        client.generate(PROMPT, stream=True, max_tokens=LONG, ignore_eos=True) as stream,
    ):
        await anext(stream)
        yield


@pytest.mark.parametrize("way", [by_openai, by_a_cancelled_task, by_grpc])
def test_a_caller_in_an_event_loop(whole: Stack, way: Callable[[Stack], Any]) -> None:
    async def leave() -> float:
        async with way(whole):
            await asyncio.to_thread(until, lambda: whole.load() == (1, 0), 10)
        return time.monotonic()

    assert held(whole, asyncio.run(leave())) <= 2


@pytest.mark.parametrize("over", ["grpc", "http"])
def test_a_client_that_leaves_early(whole: Stack, over: str) -> None:
    with getattr(whole, over)("slow") as client:
        with client.generate(PROMPT, stream=True, max_tokens=LONG, ignore_eos=True) as stream:
            next(stream)
            until(lambda: whole.load() == (1, 0), 10)
        # With the client still open: the end of its connection alone would cancel, too.
        assert held(whole, time.monotonic()) <= 2


def test_tokens_of_a_caller_who_goes_are_counted_and_nothing_runs_on(whole: Stack) -> None:
    """The gateway's figures: the request has ended as cancelled, and none runs."""
    before = figures(whole)
    line = Line(whole, "/v1/completions", prompt=PROMPT, stream=True)
    assert figures(whole)["num_requests_running"] == before.get("num_requests_running", 0) + 1
    close(line)
    held(whole, time.monotonic())
    until(lambda: figures(whole)["num_requests_running"] == before.get("num_requests_running", 0), 5)
    ended = 'request_success_total{finished_reason="cancelled"}'
    assert figures(whole)[ended] == before.get(ended, 0) + 1
    assert figures(whole)["generation_tokens_total"] > before.get("generation_tokens_total", 0)


def figures(stack: Stack) -> dict[str, float]:
    """Return the gateway's metrics of the slow model, without its name."""
    lines = stack.ask("/metrics").body.decode().splitlines()
    mine = [line.rsplit(" ", 1) for line in lines if 'model_name="slow"' in line and "_bucket" not in line]
    bare = [
        (name.replace('model_name="slow"', "").replace(",}", "}").replace("{,", "{"), value) for name, value in mine
    ]
    return {name.replace("{}", ""): float(value) for name, value in bare}
