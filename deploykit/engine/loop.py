"""The loop that runs everything: schedule → run → sample → emit.

One thread owns the model. Requests come from any thread and are told of their tokens by the loop's, so a listener must
be quick. A request that fails ends alone; a failure of the loop itself ends them all and is final.
"""

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from deploykit.engine.decoder import Decoder
from deploykit.engine.job import Batch, Change, Job, Load, Plan, Save
from deploykit.engine.metrics import FinishReason, Metrics, counted
from deploykit.engine.request import Answer, Request
from deploykit.engine.sampling import Choice, choose
from deploykit.engine.scheduler import Scheduler
from deploykit.errors import EngineError

IDLE_BEAT: Final = 0.5
"""Seconds between two signs of life while there is nothing to do; watchers are promised one a second."""
_CLOSED: Final = "the engine is closed; open it again"

_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Hooks:
    """What the loop calls from its own thread; each must be quick."""

    on_beat: Callable[[], None] = lambda: None
    """A sign of life: before every step, and at least once a second."""
    on_step: Callable[[], None] = lambda: None
    """After a step's last event: whoever collects events may hand them on now."""


@dataclass(frozen=True, kw_only=True)
class EngineStats:
    """What the engine does now, and what it has done since it was opened."""

    running: int
    """Sequences that have a row; a request has one for each of its answers."""
    waiting: int
    """Sequences that wait for one, those set aside included."""
    parked: int
    """Sequences set aside until the cache has room again."""
    rows: int
    """Sequences that can run at once."""
    cache_bytes: int
    """Memory that keys and values take now."""
    cache_tokens: int
    """Tokens the cache may hold."""
    used_tokens: int
    """Tokens it holds, each row's rounded up to a step."""
    prompt_tokens: int
    """Prompt tokens of the sequences begun so far."""
    generated_tokens: int
    """Answer tokens so far."""
    steps: int
    """Batches run so far."""
    preemptions: int
    """Sequences set aside so far."""


class Loop:
    """A thread that advances every open request by one step after another."""

    def __init__(self, decoder: Decoder, scheduler: Scheduler, metrics: Metrics, hooks: Hooks) -> None:
        self._decoder = decoder
        self._scheduler = scheduler
        self._metrics = metrics
        self._hooks = hooks
        self._answers: dict[Job, Answer] = {}
        """Those that are open, by the job that computes them."""
        self._cancelled: deque[Request] = deque()
        self._changed = threading.Condition()
        """Guards the scheduler, the open answers, and how the loop ends."""
        self._closing = False
        self._stopped: str | None = None
        """Why the loop has ended; None while it runs."""
        self._steps = 0
        self._thread = threading.Thread(target=self._run_until_closed, name="deploykit-engine", daemon=True)
        self._thread.start()

    def add(self, request: Request) -> None:
        """Queue a request: all of its answers, or none.

        Raises:
            QueueFullError: as many wait already as may.
            EngineError: the loop has ended.
        """
        with self._changed:
            if self._stopped or self._closing:
                raise EngineError(self._stopped or _CLOSED)
            self._scheduler.add(*(answer.job for answer in request.answers))
            self._answers.update((answer.job, answer) for answer in request.answers)
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
                parked=self._scheduler.parked,
                rows=self._scheduler.rows,
                cache_bytes=self._decoder.cache_bytes,
                cache_tokens=self._scheduler.cache_tokens,
                used_tokens=self._scheduler.used_tokens,
                prompt_tokens=counted(self._metrics.prompt_tokens),
                generated_tokens=counted(self._metrics.generation_tokens),
                steps=self._steps,
                preemptions=counted(self._metrics.preemptions),
            )

    # From here on, everything runs in the loop's own thread.

    def _run_until_closed(self) -> None:
        failure = None
        try:
            while not self._closing:
                self._hooks.on_beat()
                self._turn()
        except BaseException as error:
            failure = f"the engine stopped after a failure ({type(error).__name__}); start it again"
            # A traceback holds paths of this machine.
            _log.critical("%s", failure, exc_info=_log.isEnabledFor(logging.DEBUG))
        with self._changed:
            self._stopped = failure or _CLOSED
            left = [answer for answer in self._answers.values() if answer.finish_reason is None]
        for answer in left:
            # What has failed may fail again; whoever waits for an answer is told all the same.
            with suppress(Exception):
                self._release(answer.job)
            self._finish(answer, "error" if failure else "cancelled", failure)
        with suppress(Exception):
            self._hooks.on_step()

    def _turn(self) -> None:
        """Schedule → run → sample → emit."""
        self._drop_unwanted()
        plan = self._schedule()
        if plan is not None and self._prepare(plan.changes):
            if len(plan.batch.jobs) == 1:
                # A prompt runs alone: what runs in company has begun long ago.
                self._answers[plan.batch.jobs[0]].begin()
            for batch, logits in self._run(plan.batch):
                answers = self._advance(batch)
                choices = choose([answer.sampler for answer in answers], logits[: len(answers)])
                for answer, choice in zip(answers, choices, strict=True):
                    self._emit(answer, choice)
        self._hooks.on_step()

    def _drop_unwanted(self) -> None:
        """End what was cancelled, and what waited longer than its caller would."""
        while self._cancelled:
            for answer in self._cancelled.popleft().answers:
                if answer.finish_reason is None:
                    self._end(answer, "cancelled")
        with self._changed:
            late = [self._answers[job] for job in self._scheduler.overdue(time.monotonic())]
        for answer in late:
            self._end(answer, "timeout")

    def _schedule(self) -> Plan | None:
        """Return what comes next; where there is nothing, wait a moment for a request and return None."""
        with self._changed:
            plan = self._scheduler.schedule()
            if plan is None and not self._closing:
                self._changed.wait(IDLE_BEAT)
            return plan

    def _prepare(self, changes: tuple[Change, ...]) -> bool:
        """Move rows, set some aside and bring some back; return whether all came back, so that the batch may run."""
        lost = []
        for change in changes:
            kept = self._decoder.apply(change)
            if isinstance(change, Save):
                # What couldn't be kept is computed again when the job comes back.
                change.job.cached = kept
                self._metrics.preemptions.inc()
            if isinstance(change, Load) and kept < change.length:
                lost.append(self._answers[change.job])
        for answer in lost:
            self._end(answer, "error", "what it had computed was set aside on disk and can't be read back")
        return not lost

    def _run(self, batch: Batch) -> Iterator[tuple[Batch, NDArray[np.float32]]]:
        """Yield a batch and the logits [B, V] of its rows.

        Where that fails, its rows run one by one, so that only those fail that can't run alone either.
        """
        try:
            logits = self._decoder.run(batch)
        except Exception as error:
            if len(batch.jobs) == 1:
                self._fail(batch.jobs[0], error)
                return
            for job in batch.jobs:
                # An earlier one may have left by now, and this one may have moved.
                assert job.row is not None
                yield from self._run(Batch(first_row=job.row, jobs=(job,), new=batch.new))
        else:
            yield batch, logits

    def _fail(self, job: Job, error: Exception) -> None:
        answer = self._answers[job]
        _log.error("the model failed on %s: %s", _named(answer), error)
        self._end(answer, "error", f"the model failed on it ({type(error).__name__})")

    def _advance(self, batch: Batch) -> list[Answer]:
        """Note that a batch has run, and return the answers that get a token from it, in row order."""
        with self._changed:
            self._steps += 1
            return [self._answers[job] for job in self._scheduler.advance(batch)]

    def _emit(self, answer: Answer, choice: Choice | None) -> None:
        """Give an answer its next token, or end it where the model gave none."""
        if choice is None:
            self._end(answer, "error", "the model's logits are not finite; check the model with deploykit validate")
            return
        try:
            answer.add(choice)
        except BaseException as error:  # asyncio's CancelledError is no Exception
            self._abandon(answer, error)
        if answer.finish_reason:
            self._release(answer.job)

    def _end(self, answer: Answer, reason: FinishReason, error: str | None = None) -> None:
        self._release(answer.job)
        self._finish(answer, reason, error)

    def _finish(self, answer: Answer, reason: FinishReason, error: str | None) -> None:
        try:
            answer.end(reason, error)
        except BaseException as failure:
            self._abandon(answer, failure)

    def _abandon(self, answer: Answer, error: BaseException) -> None:
        """Finish an answer whose listener can't be told anything any more."""
        _log.error("%s ends, since its listener failed: %s", _named(answer), type(error).__name__)
        answer.abandon()

    def _release(self, job: Job) -> None:
        """Free a job's row; where that fails, its answer stays among the open ones, to be told that the loop ends."""
        with self._changed:
            changes = self._scheduler.remove(job)
        for change in changes:
            self._decoder.apply(change)
        with self._changed:
            del self._answers[job]


def _named(answer: Answer) -> str:
    """Return a request by its caller's name for it, safe to log: whoever calls may call it anything."""
    return f"request {answer.request_id[:128]!a}" if answer.request_id else "a request"
