"""What comes before the engine is asked: in time, given up when the caller goes, and never much of it at once."""

import asyncio
import json
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import httpx2
import pytest
from fastapi import FastAPI
from gateways import open_gateway
from inference_server import Running, Service, error, piece, run

from deploykit.client import AsyncClient
from deploykit.config import GatewayConfig
from deploykit.gateway.app import create_app
from deploykit.gateway.catalogue import Catalogue
from deploykit.gateway.errors import Refusal
from deploykit.gateway.turns import Turns

CHAT: Any = ("/v1/chat/completions", {"model": "chatty", "messages": [{"role": "user", "content": "Hello"}]})
TEXT: Any = ("/v1/completions", {"model": "chatty", "prompt": "def "})
STREAM: Any = (CHAT[0], {**CHAT[1], "stream": True})
TOKENIZE: Any = ("/tokenize", CHAT[1])


@pytest.fixture
def triton() -> Iterator[Running]:
    running = run(Service(models=[("chatty", "1", "READY")]))
    yield running
    running.server.stop(None)


def children() -> set[int]:
    """The processes that this one has started."""
    found: set[int] = set()
    for path in Path("/proc/self/task").glob("*/children"):
        with suppress(OSError):
            found.update(map(int, path.read_text().split()))
    return found


@contextmanager
def stuck_templates(before: set[int]) -> Iterator[None]:
    """Stop the processes that render, those started since `before`, as a template without end would."""
    renderers = children() - before
    assert renderers
    for pid in renderers:
        os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        for pid in renderers:
            os.kill(pid, signal.SIGCONT)


@pytest.mark.parametrize(("path", "body"), [CHAT, STREAM, TOKENIZE])
def test_a_template_that_takes_too_long_uses_up_the_time_of_the_answer(
    chatty: Path, triton: Running, path: str, body: dict[str, Any]
) -> None:
    before = children()
    with open_gateway([chatty], triton.url, timeout=0.5) as gateway, stuck_templates(before):
        asked = time.monotonic()
        reply = gateway.post(path, body)
        assert time.monotonic() - asked < 5
    assert reply.status_code == 504
    assert reply.json()["error"]["code"] == "timeout"


def test_an_engine_that_does_not_tell_its_context_uses_up_the_time_of_the_answer(chatty: Path, triton: Running) -> None:
    def silent(context: Any) -> Any:
        while context.is_active():
            time.sleep(0.01)
        return error("INTERNAL: late")

    triton.service.facts = silent
    with open_gateway([chatty], triton.url, timeout=0.5) as gateway:
        asked = time.monotonic()
        reply = gateway.post(*TEXT)
        assert time.monotonic() - asked < 5
    assert reply.status_code == 504
    assert (triton.service.descriptions, len(triton.service.requests)) == (1, 0)


@pytest.mark.parametrize("stream", [True, False])
def test_the_answer_has_the_time_that_its_preparation_has_left(chatty: Path, triton: Running, stream: bool) -> None:
    def slow(_context: Any) -> Any:
        time.sleep(0.3)
        return piece('{"context": 200}', "stop")

    triton.service.facts = slow
    with open_gateway([chatty], triton.url, timeout=5) as gateway:
        assert gateway.post(TEXT[0], {**TEXT[1], "stream": stream}).status_code == 200
    assert triton.service.deadlines[-1] < 4.75


@contextmanager
def application(chatty: Path, triton: str) -> Iterator[tuple[FastAPI, Catalogue, AsyncClient]]:
    with ExitStack() as stack:
        catalogue = Catalogue([chatty])
        stack.callback(catalogue.close)
        client = AsyncClient(triton, tries=1)
        yield create_app(catalogue, client, GatewayConfig()), catalogue, client


async def leave_early(app: FastAPI, path: str, body: dict[str, Any]) -> int:
    """Return the status for a caller who sends a request and is gone a little later."""
    statuses: list[int] = []
    messages = [{"type": "http.request", "body": json.dumps(body).encode(), "more_body": False}]

    async def receive() -> Any:
        if messages:
            return messages.pop()
        await asyncio.sleep(0.1)
        return {"type": "http.disconnect"}

    async def send(message: Any) -> None:
        statuses.append(message.get("status", 0))

    headers = [(b"content-type", b"application/json")]
    scope = {"type": "http", "method": "POST", "path": path, "query_string": b"", "headers": headers, "state": {}}
    await app(scope, receive, send)
    return statuses[0]


@pytest.mark.parametrize(("path", "body"), [CHAT, STREAM, TOKENIZE])
def test_a_caller_who_goes_while_the_template_works_is_waited_for_by_nobody(
    chatty: Path, triton: Running, path: str, body: dict[str, Any]
) -> None:
    async def main() -> None:
        before = children()
        with application(chatty, triton.url) as (app, _, client):
            async with client:
                with stuck_templates(before):
                    asked = time.monotonic()
                    assert await leave_early(app, path, body) == 499
                    assert time.monotonic() - asked < 5

    asyncio.run(main())
    assert triton.service.requests == []


def test_who_comes_when_too_many_renderings_wait_is_told_to_come_again(chatty: Path, triton: Running) -> None:
    async def main() -> None:
        go_on = threading.Event()
        with application(chatty, triton.url) as (app, catalogue, client):
            rendering = catalogue.find("chatty").rendering
            async with client, httpx2.AsyncClient(transport=httpx2.ASGITransport(app), base_url="http://a") as http:
                others = [asyncio.ensure_future(rendering.run(go_on.wait)) for _ in range(4 + 128)]
                try:
                    await asyncio.sleep(0.05)
                    reply = await http.post(CHAT[0], json=CHAT[1])
                    assert reply.status_code == 429
                    assert reply.headers["retry-after"] == "1"
                    assert reply.json()["error"]["code"] == "rate_limit_exceeded"
                    # Whoever needs no template goes on.
                    assert (await http.post(TEXT[0], json=TEXT[1])).status_code == 200
                finally:
                    go_on.set()
                await asyncio.gather(*others)
                assert (await http.post(CHAT[0], json=CHAT[1])).status_code == 200

    asyncio.run(main())


class Work:
    """Work that ends when it is told to, and counts how much of it runs at once."""

    def __init__(self) -> None:
        self.go_on = threading.Event()
        self.begun: list[str] = []
        self.most = self._running = 0
        self._lock = threading.Lock()

    def named(self, name: str) -> Callable[[], str]:
        def work() -> str:
            with self._lock:
                self.begun.append(name)
                self._running += 1
                self.most = max(self.most, self._running)
            self.go_on.wait(10)
            with self._lock:
                self._running -= 1
            return name

        return work


def test_so_much_runs_so_much_waits_and_the_rest_is_refused() -> None:
    async def main() -> None:
        turns, work = Turns(2, waiting=3), Work()
        tasks = [asyncio.ensure_future(turns.run(work.named(str(number)))) for number in range(5)]
        await asyncio.sleep(0.05)
        with pytest.raises(Refusal, match="too many requests"):
            await turns.run(work.named("refused"))
        # One who goes makes room for another, and is never begun.
        tasks.pop().cancel()
        await asyncio.sleep(0)
        tasks.append(asyncio.ensure_future(turns.run(work.named("5"))))
        await asyncio.sleep(0)
        work.go_on.set()
        assert await asyncio.gather(*tasks) == ["0", "1", "2", "3", "5"]
        assert sorted(work.begun) == ["0", "1", "2", "3", "5"]
        assert work.most == 2

    asyncio.run(main())


def test_one_whose_caller_went_in_mid_work_keeps_its_thread_to_the_end() -> None:
    async def main() -> None:
        turns, work = Turns(1, waiting=1), Work()
        first = asyncio.ensure_future(turns.run(work.named("first")))
        await asyncio.sleep(0.02)
        first.cancel()
        second = asyncio.ensure_future(turns.run(work.named("second")))
        await asyncio.sleep(0.05)
        assert first.cancelled()
        assert work.begun == ["first"]
        work.go_on.set()
        assert await second == "second"
        assert work.most == 1

    asyncio.run(main())


def test_failures_pass_through_and_free_the_thread() -> None:
    async def main() -> None:
        def fail() -> None:
            raise ValueError("no")

        turns = Turns(1, waiting=0)
        for _ in range(3):
            with pytest.raises(ValueError, match="no"):
                await turns.run(fail)
            await asyncio.sleep(0)
        assert await turns.run(lambda: 5) == 5

    asyncio.run(main())
