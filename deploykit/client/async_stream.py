"""An answer that is still arriving, for event loops; and the performing of steps that wait in one."""

import asyncio
from collections.abc import Callable
from contextlib import suppress
from types import TracebackType
from typing import Any, Self, TypeVar, cast

from deploykit.client.batch import Batch
from deploykit.client.core import Exchange
from deploykit.client.errors import CancelledError, ClientError
from deploykit.client.exchange import RECEIVE, Ask, Asking, Open, Step, Wait
from deploykit.client.transport import AsyncCall, AsyncConnection
from deploykit.client.values import Chunk, Completion

Result = TypeVar("Result")


async def perform(steps: Asking[Result], connection: AsyncConnection) -> Result:
    """Return what steps without an answer in parts lead to.

    Raises:
        ClientError: they lead to none.
    """
    try:
        step = next(steps)
        while True:
            reply = None
            try:
                if isinstance(step, Ask):
                    reply = await connection.ask(step.request, step.timeout)
                else:
                    await asyncio.sleep(step.seconds)
            except ClientError as fault:
                step = steps.throw(fault)
            else:
                step = steps.send(reply)
    except StopIteration as end:
        return cast("Result", end.value)


async def run_batch(batch: Batch, ask: Callable[[object, int], "AsyncTextStream"]) -> None:
    """Ask the prompts of a batch, in tasks."""

    async def work() -> None:
        while (taken := batch.take()) is not None:
            place, prompt = taken
            stream: AsyncTextStream | None = None
            outcome: Completion | ClientError
            try:
                stream = ask(prompt, place)
                batch.begin(stream)
                outcome = await stream.completion()
            except ClientError as fault:
                outcome = fault
            batch.end(place, outcome, stream)

    tasks = [asyncio.create_task(work()) for _ in range(batch.workers)]
    try:
        await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


class AsyncTextStream:
    """The pieces of an answer in the order in which they arrive; made by `AsyncClient.generate(..., stream=True)`.

    The request is sent when the stream is entered or first read. Leaving `async with`, `aclose()`, `cancel()`,
    cancelling the task that reads, and forgetting the stream all cancel the request on the server. Leaving a bare
    `async for` early does so when the stream is forgotten; `async with` does it at once.

    Example:
        ```python
        import asyncio
        from deploykit.client import AsyncClient

        async def main() -> None:
            async with AsyncClient("localhost:8001") as client:
                async with client.generate("def ", stream=True) as stream:
                    async for chunk in stream:
                        print(chunk.text, end="", flush=True)

        asyncio.run(main())
        ```
    """

    def __init__(self, exchange: Exchange, connection: AsyncConnection) -> None:
        self._exchange = exchange
        self._steps = exchange.steps
        self._connection = connection
        self._closed = False
        self._cancelled = asyncio.Event()
        self._call: AsyncCall | None = None
        self._step: Step | Chunk | None = None

    @property
    def text(self) -> str:
        """What has arrived so far, of the first choice."""
        return self._exchange.answer.text

    @property
    def request_id(self) -> str:
        """What the request is called in the server's logs."""
        return self._exchange.request_id

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Chunk:
        """Return the next piece.

        Raises:
            StopAsyncIteration: the answer is complete, or the stream was closed.
            ClientError: the call failed; see `deploykit.client.errors`.
        """
        if self._closed:
            raise StopAsyncIteration
        return cast("Chunk", await self._advance())

    async def completion(self) -> Completion:
        """Read to the end and return the whole answer, what was read before included.

        Raises:
            ClientError: the call failed.
        """
        async for _ in self:
            pass
        return self._exchange.answer.completion()

    def cancel(self) -> None:
        """Cancel the request on the server; whoever waits for the next piece gets a CancelledError."""
        self._cancelled.set()
        if self._call is not None:
            self._call.cancel()

    async def aclose(self) -> None:
        """Cancel the request if it still runs, and end the iteration."""
        self._close()

    async def __aenter__(self) -> Self:
        """Send the request.

        Raises:
            ClientError: the model isn't known, or the client is closed; what fails later is raised on reading.
        """
        self._step = await self._advance(stop=RECEIVE)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._close()

    def __del__(self) -> None:
        # Absent where the constructor failed.
        if getattr(self, "_call", None) is not None:
            # The loop may have ended before, and all its calls with it.
            with suppress(RuntimeError):
                self._close()

    def _close(self) -> None:
        self._closed = True
        if self._call is not None:
            self._call.cancel()

    async def _advance(self, stop: Step | None = None) -> Step | Chunk:
        """Return the next piece, or the step `stop`, having performed what comes before it."""
        try:
            step = self._step or next(self._steps)
            self._step = None
            while isinstance(step, Step) and step is not stop:
                try:
                    outcome = await self._outcome(step)
                except ClientError as fault:
                    step = self._steps.throw(fault)
                else:
                    step = self._steps.send(outcome)
        except StopIteration:
            self._close()
            raise StopAsyncIteration from None
        except BaseException:
            # A failure, a cancelled task, or a bug of ours: nobody will read on.
            self._close()
            raise
        return step

    async def _outcome(self, step: Step) -> Any:
        """Return what performing a step has brought."""
        if self._cancelled.is_set():
            raise CancelledError(f"{self._exchange.url}: the request was cancelled")
        if step is RECEIVE:
            return await cast("AsyncCall", self._call).receive()
        if isinstance(step, Open):
            if self._call is not None:
                # Of an earlier try, which may have been refused without being ended.
                self._call.cancel()
            self._call = self._connection.open(step.request, step.timeout)
        elif isinstance(step, Ask):
            return await self._connection.ask(step.request, step.timeout)
        elif isinstance(step, Wait):
            await self._wait(step.seconds)
        return None

    async def _wait(self, seconds: float) -> None:
        # A cancelled stream isn't asked for again: the next step says so.
        with suppress(TimeoutError):
            await asyncio.wait_for(self._cancelled.wait(), seconds)
