"""Closed loops over gRPC: a bare client that parses nothing, and `deploykit.client`.

Both wait in an event loop, as the gateway does: gRPC's calls for threads took half as much again of the processor (70
against 49 µs a response at 16 streams).
"""

import asyncio
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Self

import grpc
import uvloop
from http_load import Load

from deploykit.client import AsyncClient
from deploykit.client.dialect import Text
from deploykit.client.protocol import SERVICE
from deploykit.client.triton import STREAM, TritonDialect


class OnLoop:
    """Streams of one event loop, uvloop's, each a task; a context manager."""

    def __init__(self) -> None:
        self._runner = asyncio.Runner(loop_factory=uvloop.new_event_loop)

    def __enter__(self) -> Self:
        self._runner.run(self.open())
        return self

    def __exit__(self, *_: object) -> None:
        self._runner.run(self.close())
        self._runner.close()

    async def open(self) -> None:
        """Make the client, in its loop."""
        raise NotImplementedError

    async def close(self) -> None:
        """Close the client."""
        raise NotImplementedError

    async def answer(self, prompt: Any, on_first: Callable[[], None], parameters: dict[str, Any]) -> int:
        """Read one answer to its end and return how many responses it has."""
        raise NotImplementedError

    def prepare(self, prompt: str, parameters: dict[str, Any]) -> Any:
        """Return what `answer` is given for a prompt, made before the clock runs."""
        raise NotImplementedError

    def run(self, prompts: Sequence[str], streams: int, **parameters: Any) -> Load:
        """Answer all prompts, `streams` at a time, and return what it took."""
        waiting = [self.prepare(prompt, parameters) for prompt in reversed(prompts)]
        return self._runner.run(self._loops(waiting, streams, parameters))

    async def _loops(self, waiting: list[Any], streams: int, parameters: dict[str, Any]) -> Load:
        first: list[float] = []
        responses: list[int] = []

        async def loop() -> None:
            while waiting:
                prompt, sent = waiting.pop(), time.perf_counter()
                began = partial(_note, first, sent)
                responses.append(await self.answer(prompt, began, parameters))

        began, used = time.perf_counter(), time.process_time()
        await asyncio.gather(*(loop() for _ in range(streams)))
        seconds, used = time.perf_counter() - began, time.process_time() - used
        return Load(seconds=seconds, client_seconds=used, responses=sum(responses), first=first)


class Bare(OnLoop):
    """gRPC's own calls in an event loop, each message left as the bytes that it came as."""

    def __init__(self, target: str, model: str) -> None:
        super().__init__()
        self._target, self._model = target, model

    async def open(self) -> None:
        """Make the channel."""
        self._channel = grpc.aio.insecure_channel(self._target, options=[("grpc.use_local_subchannel_pool", 1)])
        self._method = self._channel.unary_stream(f"{SERVICE}{STREAM}")

    async def close(self) -> None:
        """Close the channel."""
        await self._channel.close()

    def prepare(self, prompt: str, parameters: dict[str, Any]) -> bytes:
        """Return the request's bytes."""
        return request_of(prompt, self._model, parameters)

    async def answer(self, prompt: bytes, on_first: Callable[[], None], parameters: dict[str, Any]) -> int:  # noqa: ARG002
        """Read one answer to its end and return how many responses it has."""
        call = self._method(prompt)
        assert await call.read() is not grpc.aio.EOF, await call.details()
        on_first()
        responses = 1
        while await call.read() is not grpc.aio.EOF:
            responses += 1
        return responses


class Ours(OnLoop):
    """`deploykit.client.AsyncClient`, which reads and counts what comes."""

    def __init__(self, target: str, model: str) -> None:
        super().__init__()
        self._target, self._model = target, model

    async def open(self) -> None:
        """Make the client."""
        self._client = AsyncClient(self._target, model=self._model)

    async def close(self) -> None:
        """Close it."""
        await self._client.close()

    def prepare(self, prompt: str, parameters: dict[str, Any]) -> str:  # noqa: ARG002
        """Return the prompt: making the request is the client's work."""
        return prompt

    async def answer(self, prompt: str, on_first: Callable[[], None], parameters: dict[str, Any]) -> int:
        """Read one answer to its end and return how many responses it has."""
        responses = 0
        async with self._client.open_stream(prompt, **parameters) as stream:
            async for _ in stream:
                if not responses:
                    on_first()
                responses += 1
        return responses


def _note(first: list[float], sent: float) -> None:
    first.append(time.perf_counter() - sent)


def request_of(prompt: str, model: str, parameters: dict[str, Any]) -> bytes:
    """Return the request that our client would send, as bytes."""
    dialect = TritonDialect()
    text = Text(prompt=prompt, sampling=parameters, stream=True, tools=None, request_id="", headers={})
    request = dialect.text(text)
    dialect.name_model(request, model)
    return bytes(request.body.SerializeToString())
