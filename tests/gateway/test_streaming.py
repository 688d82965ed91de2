"""Events to callers who take them, who don't, and who go; without a server around."""

import asyncio
import json
from collections.abc import AsyncGenerator
from typing import Any

import pytest

from deploykit.gateway.streaming import CallerGoneError, EventStream, unless_gone


class Caller:
    """Takes messages when it is let, and stays until it goes."""

    def __init__(self) -> None:
        self.bodies: list[bytes] = []
        self.ended = self.aborted = False
        self.reads = asyncio.Event()
        self.reads.set()
        self.gone = asyncio.Event()

    async def send(self, message: Any) -> None:
        await self.reads.wait()
        if message["type"] == "http.response.body":
            self.bodies.append(message["body"])
            self.ended = not message["more_body"]

    async def receive(self) -> Any:
        await self.gone.wait()
        return {"type": "http.disconnect"}

    def abort(self) -> None:
        self.aborted = True


class Source:
    """Events, and whether somebody still wants them."""

    def __init__(self, *events: bytes, then: Exception | None = None, endless: bool = False) -> None:
        self.events, self.then, self.endless = events, then, endless
        self.closed = False

    async def __call__(self) -> AsyncGenerator[bytes, None]:
        try:
            for event in self.events:
                yield event
                await asyncio.sleep(0)
            while self.endless:
                await asyncio.sleep(0.001)
                yield b"x" * 100
            if self.then:
                raise self.then
        finally:
            self.closed = True


async def serve(caller: Caller, source: Source, *, max_waiting: int = 1000) -> None:
    stream = EventStream(b"first ", source(), max_waiting=max_waiting)
    scope = {"type": "http", "state": {"abort": caller.abort}}
    async with asyncio.timeout(10):
        await stream(scope, caller.receive, caller.send)


def test_events_come_in_order_and_the_first_at_once() -> None:
    async def run() -> Caller:
        caller = Caller()
        await serve(caller, Source(b"a ", b"b ", b"c "))
        return caller

    caller = asyncio.run(run())
    assert caller.bodies[0] == b"first "
    assert b"".join(caller.bodies) == b"first a b c "
    assert caller.ended


def test_what_waits_for_a_slow_caller_goes_out_together() -> None:
    async def run() -> Caller:
        caller = Caller()
        caller.reads.clear()
        serving = asyncio.create_task(serve(caller, Source(b"a ", b"b ", b"c ")))
        await asyncio.sleep(0.05)
        caller.reads.set()
        await serving
        return caller

    assert asyncio.run(run()).bodies == [b"first a b c "]


@pytest.mark.parametrize("before", [0, 0.05])
def test_a_caller_who_takes_nothing_is_cut_off_without_an_end(before: float) -> None:
    async def run() -> tuple[Caller, Source]:
        caller, source = Caller(), Source(endless=True)
        serving = asyncio.create_task(serve(caller, source))
        await asyncio.sleep(before)
        caller.reads.clear()
        await serving
        return caller, source

    caller, source = asyncio.run(run())
    assert caller.aborted
    assert source.closed
    assert not caller.ended


def test_a_caller_who_goes_ends_the_events() -> None:
    async def run() -> tuple[Caller, Source]:
        caller, source = Caller(), Source(endless=True)
        serving = asyncio.create_task(serve(caller, source))
        await asyncio.sleep(0.02)
        caller.gone.set()
        await serving
        return caller, source

    caller, source = asyncio.run(run())
    assert source.closed
    assert not caller.ended
    assert not caller.aborted


def test_a_failure_that_nobody_foresaw_is_an_event_without_its_message() -> None:
    async def run() -> Caller:
        caller = Caller()
        await serve(caller, Source(b"a ", then=RuntimeError("secret")))
        return caller

    caller = asyncio.run(run())
    *_, event, done, rest = b"".join(caller.bodies).split(b"\n\n")
    assert (done, rest) == (b"data: [DONE]", b"")
    assert json.loads(event.partition(b"data: ")[2])["error"]["type"] == "server_error"
    assert b"secret" not in event
    assert caller.ended


def test_work_for_a_caller_who_goes_is_cancelled() -> None:
    cancelled = False

    async def work() -> None:
        nonlocal cancelled
        try:
            await asyncio.sleep(10)
        except asyncio.CancelledError:
            cancelled = True
            raise

    async def run() -> None:
        caller = Caller()
        asyncio.get_running_loop().call_later(0.02, caller.gone.set)
        await unless_gone(caller.receive, work())

    with pytest.raises(CallerGoneError):
        asyncio.run(run())
    assert cancelled


def test_work_s_result_and_failure_pass_through() -> None:
    async def works() -> int:
        return 5

    async def fails() -> int:
        raise ValueError("no")

    async def run(work: Any) -> Any:
        return await unless_gone(Caller().receive, work)

    assert asyncio.run(run(works())) == 5
    with pytest.raises(ValueError, match="no"):
        asyncio.run(run(fails()))
