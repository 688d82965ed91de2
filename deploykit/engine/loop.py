"""The loop that runs everything: schedule → run → sample → emit.

One thread owns the model. Requests come from any thread and are told of their tokens by the loop's, so a listener must
be quick. A request that fails ends alone; a failure of the loop itself ends them all and is final.
"""

import logging
import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from deploykit.engine.decoder import Decoder
from deploykit.engine.request import FinishReason, Request
from deploykit.engine.sampling import Choice
from deploykit.engine.scheduler import Batch, Job, Scheduler
from deploykit.errors import EngineError

IDLE_BEAT: Final = 0.5
"""Seconds between two signs of life while there is nothing to do; watchers are promised one a second."""
_CLOSED: Final = "the engine is closed; open it again"

_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class EngineStats:
    """What the engine does now, and what it has done since it was opened."""

    running: int
    """Requests that have a row."""
    waiting: int
    """Requests that wait for one."""
    rows: int
    """Requests that can run at once."""
    cache_bytes: int
    """Memory set aside for keys and values."""
    prompt_tokens: int
    """Prompt tokens of the requests taken so far."""
    generated_tokens: int
    """Answer tokens so far."""
    steps: int
    """Batches run so far."""


class Loop:
    """A thread that advances every open request by one step after another."""

    def __init__(self, decoder: Decoder, scheduler: Scheduler, *, on_beat: Callable[[], None]) -> None:
        self._decoder = decoder
        self._scheduler = scheduler
        self._on_beat = on_beat
        self._requests: dict[Job, Request] = {}
        self._cancelled: deque[Request] = deque()
        self._changed = threading.Condition()
        """Guards the scheduler, the open requests, and how the loop ends."""
        self._closing = False
        self._stopped: str | None = None
        """Why the loop has ended; None while it runs."""
        self._prompt_tokens = self._generated_tokens = self._steps = 0
        self._thread = threading.Thread(target=self._run, name="deploykit-engine", daemon=True)
        self._thread.start()

    def add(self, request: Request) -> None:
        """Queue a request.

        Raises:
            QueueFullError: as many wait already as may.
            EngineError: the loop has ended.
        """
        with self._changed:
            if self._stopped or self._closing:
                raise EngineError(self._stopped or _CLOSED)
            self._scheduler.add(request.job)
            self._requests[request.job] = request
            self._prompt_tokens += len(request.job.tokens)
            self._changed.notify()

    def cancel(self, request: Request) -> None:
        """End a request at the next step."""
        self._cancelled.append(request)

    def close(self) -> None:
        """Cancel what is open and end the thread."""
        with self._changed:
            self._closing = True
            self._changed.notify()
        if threading.current_thread() is not self._thread:
            self._thread.join()

    @property
    def alive(self) -> bool:
        """Whether requests are taken and run."""
        return not self._stopped and not self._closing

    def stats(self) -> EngineStats:
        """Return what goes on now."""
        with self._changed:
            return EngineStats(
                running=self._scheduler.running,
                waiting=self._scheduler.waiting,
                rows=self._scheduler.rows,
                cache_bytes=self._decoder.cache_bytes,
                prompt_tokens=self._prompt_tokens,
                generated_tokens=self._generated_tokens,
                steps=self._steps,
            )

    # From here on, everything runs in the loop's own thread.

    def _run(self) -> None:
        failure = None
        try:
            while not self._closing:
                self._on_beat()
                self._turn()
        except Exception as error:
            failure = f"the engine stopped after a failure ({type(error).__name__}); start it again"
            # A traceback holds paths of this machine.
            _log.critical("%s", failure, exc_info=_log.isEnabledFor(logging.DEBUG))
        with self._changed:
            self._stopped = failure or _CLOSED
            left = list(self._requests.values())
        for request in left:
            self._end(request, "error" if failure else "cancelled", failure)

    def _turn(self) -> None:
        """Schedule → run → sample → emit."""
        self._drop_cancelled()
        batch = self._schedule()
        if batch is not None:
            self._step(batch)

    def _step(self, batch: Batch) -> None:
        """Run a batch; each row that is through its prompt gets a token."""
        try:
            logits = self._decoder.run(batch)
        except Exception as error:
            self._step_apart(batch, error)
            return
        for request, row in zip(self._advance(batch), logits, strict=False):
            choice = self._sample(request, row)
            if choice is not None:
                self._emit(request, choice)

    def _drop_cancelled(self) -> None:
        while self._cancelled:
            request = self._cancelled.popleft()
            if not request.finished:
                self._end(request, "cancelled")

    def _schedule(self) -> Batch | None:
        """Return what runs next; where there is nothing, wait a moment for a request and return None."""
        with self._changed:
            batch = self._scheduler.schedule()
            if batch is None and not self._closing:
                self._changed.wait(IDLE_BEAT)
            return batch

    def _advance(self, batch: Batch) -> list[Request]:
        """Note that a batch has run, and return the requests that get a token from it, in row order."""
        with self._changed:
            self._steps += 1
            ready = self._scheduler.advance(batch)
            return [self._requests[job] for job in ready]

    def _sample(self, request: Request, logits: NDArray[np.float32]) -> Choice | None:
        """Return a request's next token from its logits [V], or None where they are unusable: the request then ends."""
        try:
            return request.sampler.choose(logits)
        except FloatingPointError as error:
            self._end(request, "error", f"{error}; check the model with deploykit validate")
            return None

    def _emit(self, request: Request, choice: Choice) -> None:
        """Give a request its next token."""
        request.job.tokens.append(choice.token)
        self._generated_tokens += 1
        try:
            request.answer.add(choice)
        except Exception as error:
            self._abandon(request, error)
        if request.finished:
            self._release(request)

    def _step_apart(self, batch: Batch, error: Exception) -> None:
        """Run the rows of a failed batch one by one, so that only those fail that can't run alone either."""
        if len(batch.jobs) > 1:
            for job in batch.jobs:
                assert job.row is not None
                self._step(Batch(first_row=job.row, jobs=(job,), new=batch.new))
            return
        _log.error("the model failed on a request: %s", error)
        self._end(self._requests[batch.jobs[0]], "error", f"the model failed on it ({type(error).__name__})")

    def _end(self, request: Request, reason: FinishReason, error: str | None = None) -> None:
        self._release(request)
        try:
            request.answer.end(reason, error)
        except Exception as failure:
            self._abandon(request, failure)

    def _abandon(self, request: Request, error: Exception) -> None:
        """Finish a request whose listener can't be told anything any more."""
        _log.error("a request ends, since its listener failed: %s", type(error).__name__)
        request.answer.finish_reason = "error"

    def _release(self, request: Request) -> None:
        """Free a request's row."""
        with self._changed:
            del self._requests[request.job]
            moves = self._scheduler.remove(request.job)
        self._decoder.forget(request.job, moves)
