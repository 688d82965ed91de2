"""An answer that is still arriving, for threads; and the performing of steps that wait in the calling thread."""

import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from types import TracebackType
from typing import Any, Self, TypeVar, cast

from deploykit.client.batch import Batch
from deploykit.client.core import Exchange
from deploykit.client.errors import CancelledError, ClientError
from deploykit.client.exchange import RECEIVE, Ask, Asking, Open, Step, Wait
from deploykit.client.transport import Call, Connection
from deploykit.client.values import Chunk, Completion

Result = TypeVar("Result")


def perform(steps: Asking[Result], connection: Connection) -> Result:
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
                    reply = connection.ask(step.request, step.timeout)
                else:
                    time.sleep(step.seconds)
            except ClientError as fault:
                step = steps.throw(fault)
            else:
                step = steps.send(reply)
    except StopIteration as end:
        return cast("Result", end.value)


def run_batch(batch: Batch, ask: Callable[[object, int], "TextStream"]) -> None:
    """Ask the prompts of a batch, in threads."""

    def work() -> None:
        try:
            while (taken := batch.take()) is not None:
                place, prompt = taken
                stream: TextStream | None = None
                outcome: Completion | ClientError
                try:
                    stream = ask(prompt, place)
                    batch.begin(stream)
                    outcome = stream.completion()
                except ClientError as fault:
                    outcome = fault
                batch.end(place, outcome, stream)
        except BaseException as error:
            batch.stop(error)
            raise

    with ThreadPoolExecutor(max(1, batch.workers), thread_name_prefix="deploykit-batch") as pool:
        futures = [pool.submit(work) for _ in range(batch.workers)]
        try:
            for future in futures:
                future.result()
        except BaseException as error:
            # Ctrl-C: the threads end as soon as their calls are cancelled.
            batch.stop(error)
            raise


class TextStream:
    """The pieces of an answer in the order in which they arrive; made by `Client.generate(..., stream=True)`.

    Leaving the loop early, an exception in it, `close()`, `cancel()` and forgetting the stream all cancel the request
    on the server.

    Example:
        ```python
        from deploykit.client import Client

        with Client("localhost:8001") as client, client.generate("def ", stream=True) as stream:
            for chunk in stream:
                print(chunk.text, end="", flush=True)
                if "return" in stream.text:
                    break
        ```
    """

    def __init__(self, exchange: Exchange, connection: Connection) -> None:
        self._exchange = exchange
        self._steps = exchange.steps
        self._connection = connection
        self._closed = False
        self._cancelled = threading.Event()
        self._call: Call | None = None
        self._step: Step | Chunk | None = None
        # Sent at once: several streams that are begun in a row run side by side.
        self._step = self._advance(stop=RECEIVE)

    @property
    def text(self) -> str:
        """What has arrived so far, of the first choice."""
        return self._exchange.answer.text

    @property
    def request_id(self) -> str:
        """What the request is called in the server's logs."""
        return self._exchange.request_id

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Chunk:
        """Return the next piece.

        Raises:
            StopIteration: the answer is complete, or the stream was closed.
            ClientError: the call failed; see `deploykit.client.errors`.
        """
        if self._closed:
            raise StopIteration
        return cast("Chunk", self._advance())

    def completion(self) -> Completion:
        """Read to the end and return the whole answer, what was read before included.

        Raises:
            ClientError: the call failed.
        """
        for _ in self:
            pass
        return self._exchange.answer.completion()

    def cancel(self) -> None:
        """Cancel the request on the server; whoever waits for the next piece, in any thread, gets a CancelledError."""
        self._cancelled.set()
        if self._call is not None:
            self._call.cancel()

    def close(self) -> None:
        """Cancel the request if it still runs, and end the iteration."""
        self._closed = True
        if self._call is not None:
            self._call.cancel()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __del__(self) -> None:
        # Absent where the constructor failed.
        if getattr(self, "_call", None) is not None:
            self.close()

    def _advance(self, stop: Step | None = None) -> Step | Chunk:
        """Return the next piece, or the step `stop`, having performed what comes before it."""
        try:
            step = self._step or next(self._steps)
            self._step = None
            while isinstance(step, Step) and step is not stop:
                try:
                    outcome = self._outcome(step)
                except ClientError as fault:
                    step = self._steps.throw(fault)
                else:
                    step = self._steps.send(outcome)
        except BaseException:
            # The end, a failure, Ctrl-C, or a bug of ours: nobody will read on.
            self.close()
            raise
        return step

    def _outcome(self, step: Step) -> Any:
        """Return what performing a step has brought."""
        if self._cancelled.is_set():
            raise CancelledError(f"{self._exchange.url}: the request was cancelled")
        if step is RECEIVE:
            return cast("Call", self._call).receive()
        if isinstance(step, Open):
            if self._call is not None:
                # Of an earlier try, which may have been refused without being ended.
                self._call.cancel()
            self._call = self._connection.open(step.request, step.timeout)
        elif isinstance(step, Ask):
            return self._connection.ask(step.request, step.timeout)
        elif isinstance(step, Wait):
            # A cancelled stream isn't asked for again: the next step says so.
            self._cancelled.wait(step.seconds)
        return None
