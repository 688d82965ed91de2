"""Which rows of the model run next: pure logic, no model, no threads, no clock.

Rows 0 … n-1 decode: each gets one token a step, all in one batch. Row n, if any, is being filled: its prompt runs
alone, a piece at a time, between two steps of the others. The rows in use always lie next to each other: where one
leaves, the last one takes its place.

Two budgets hold. Between two steps at most `chunk` prompt tokens run, so that a long prompt delays the others by that
much and no more. Only an encoder's source can't be cut: one that is longer runs at once, and then the others run as
many steps as they would have had between its pieces. And the rows in use hold at most `cache_tokens`: where the next
batch doesn't fit, the job that matters least is parked, and comes back when there is room. The one that matters most
never is, so something always advances.
"""

from collections.abc import Iterator
from itertools import count
from typing import Final

from deploykit.engine.job import Batch, Change, Drop, Job, Load, Move, Plan, Save
from deploykit.engine.queueing import Line
from deploykit.errors import QueueFullError, RequestError

CACHE_STEP: Final = 16
"""Tokens by which a row grows: with heads of 64 floats, a page of memory (4096 bytes)."""


class Scheduler:
    """Hands out rows, and takes turns between filling one and advancing the others."""

    def __init__(self, *, max_rows: int, max_queue: int, chunk: int, cache_tokens: int) -> None:
        self.rows: Final = max_rows
        """Jobs that can run at once."""
        self.cache_tokens: Final = cache_tokens
        """Tokens that the rows can hold together."""
        self._max_open = max_rows + max_queue
        self._chunk = chunk
        self._gap = chunk
        """Prompt tokens that may still run before the next step of the decoding rows; less than none after a source
        longer than a chunk, which is owed to them."""
        self._arrivals = count()
        self._line = Line()
        self._decoding: list[Job] = []
        self._filling: Job | None = None

    @property
    def running(self) -> int:
        """Jobs with a row."""
        return len(self._in_rows)

    @property
    def waiting(self) -> int:
        """Jobs without a row, parked ones included."""
        return len(self._line)

    @property
    def parked(self) -> int:
        """Jobs that had a row and will come back to one."""
        return self._line.parked

    @property
    def used_tokens(self) -> int:
        """Tokens that the rows hold, each row's rounded up to a step."""
        return sum(_held(job, job.cached) for job in self._in_rows)

    @property
    def _in_rows(self) -> list[Job]:
        """The jobs that run, in the order of their rows."""
        return [*self._decoding, self._filling] if self._filling else self._decoding

    def add(self, *jobs: Job) -> None:
        """Queue jobs: all of them, or none.

        Raises:
            RequestError: they are more than may ever be open.
            QueueFullError: as many wait already as may.
        """
        if len(jobs) > self._max_open:
            raise RequestError(
                f"n is {len(jobs)}, but at most {self._max_open} sequences may run and wait; ask for fewer"
            )
        if self.running + self.waiting + len(jobs) > self._max_open:
            raise QueueFullError(
                f"the queue is full: {self.running} requests run and {self.waiting} wait; try again later"
            )
        for job in jobs:
            assert _room(job) <= self.cache_tokens, "a job that the cache can't hold would wait for ever"
            job.arrival = next(self._arrivals)
            self._line.add(job)

    def overdue(self, now: float) -> tuple[Job, ...]:
        """Return the jobs that haven't begun and whose deadline has passed; they are the caller's to remove."""
        return self._line.overdue(now)

    def schedule(self) -> Plan | None:
        """Return what runs next, or None where there is nothing to run."""
        changes = list(self._admit())
        while (batch := self._next_batch()) and not self._fits(batch):
            changes += self._park(max(self._in_rows, key=lambda job: job.rank))
        return Plan(changes=tuple(changes), batch=batch) if batch else None

    def advance(self, batch: Batch) -> tuple[Job, ...]:
        """Note that a batch has run, and return the jobs that get a token from it: none in the middle of a prompt."""
        delays = self._filling in batch.jobs and self._decoding
        # Nobody is owed anything where nobody decodes.
        paid = self._gap + self._chunk if self._filling not in batch.jobs else self._chunk
        self._gap = self._gap - _cost(batch.jobs[0], batch.new) if delays else min(paid, self._chunk)
        for job in batch.jobs:
            job.cached += batch.new
        if any(job.cached < len(job.tokens) for job in batch.jobs):
            return ()
        if self._filling in batch.jobs:
            self._decoding.append(batch.jobs[0])
            self._filling = None
        for job in batch.jobs:
            self._line.count(job, 1)
        return batch.jobs

    def remove(self, job: Job) -> tuple[Change, ...]:
        """Take a job out, wherever it is, and return what that changes: its row is free, and the rows close up."""
        drop = Drop(job=job, row=job.row)
        self._line.close(job)
        return (drop,) if job.row is None else (drop, *self._vacate(job))

    def _next_batch(self) -> Batch | None:
        """Return a piece of the prompt that is being filled if it may run now, or else the decoding rows."""
        if self._filling and (piece := self._piece(self._filling)):
            return Batch(first_row=len(self._decoding), jobs=(self._filling,), new=piece)
        return Batch(first_row=0, jobs=tuple(self._decoding), new=1) if self._decoding else None

    def _piece(self, job: Job) -> int:
        """Return how many of a job's tokens may run now: 0 where the decoding rows come first.

        Where a prompt is cut depends on nobody else, since a sum's rounding depends on where it is cut.
        """
        piece = min(len(job.tokens), (job.cached // self._chunk + 1) * self._chunk) - job.cached
        # A source can be longer than any gap: it takes a whole one.
        return piece if min(_cost(job, piece), self._chunk) <= self._gap or not self._decoding else 0

    def _fits(self, batch: Batch) -> bool:
        """Return whether the cache can hold the rows in use and what a batch adds to them."""
        grown = sum(_held(job, job.cached + batch.new) - _held(job, job.cached) for job in batch.jobs)
        return self.used_tokens + grown <= self.cache_tokens

    def _admit(self) -> Iterator[Change]:
        """Give free rows to those whose turn it is; where the first must wait, so must all behind it."""
        while self.running < self.rows and (job := self._line.first()):
            # Room for everyone's next token as well: nobody comes in only to push another out.
            if sum(map(_room, self._in_rows)) + _room(job) > self.cache_tokens:
                return
            if _is_filled(job):
                self._line.take(job)
                yield from self._resume(job)
            elif self._filling is None and self._piece(job):
                self._line.take(job)
                yield from self._begin(job)
            else:
                return

    def _begin(self, job: Job) -> Iterator[Change]:
        """Give a job the row to be filled; what was set aside of it needn't be filled again."""
        self._filling = job
        job.row = len(self._decoding)
        if not self._decoding:
            # Whom it was owed to has left. With a debt, one that comes back now could push this one out before it
            # has run at all.
            self._gap = max(self._gap, 0)
        if job.cached:
            yield Load(job=job, row=job.row, length=job.cached)

    def _resume(self, job: Job) -> Iterator[Change]:
        """Let a job that was parked go on decoding; the row being filled makes way, as it comes last."""
        row = len(self._decoding)
        if self._filling:
            yield from _move(self._filling, row + 1)
        self._decoding.append(job)
        job.row = row
        yield Load(job=job, row=row, length=job.cached)

    def _park(self, job: Job) -> Iterator[Change]:
        """Set a job aside until there is room for it again.

        It holds something by then: room for a first piece was there when it got its row, and that piece runs before
        the others have grown by more than the token that was reckoned with.
        """
        assert job.row is not None
        assert self.running > 1, "a job alone has outgrown the cache"
        yield Save(job=job, row=job.row, length=job.cached)
        yield from self._vacate(job)
        self._line.park(job)

    def _vacate(self, job: Job) -> Iterator[Move]:
        """Take a job out of its row, and let the last ones close the gap."""
        freed, job.row = job.row, None
        if job is self._filling:
            self._filling = None
            return
        assert freed is not None
        last = self._decoding.pop()
        if last is not job:
            self._decoding[freed] = last
            yield from _move(last, freed)
        if self._filling:
            yield from _move(self._filling, len(self._decoding))


def _move(job: Job, target: int) -> Iterator[Move]:
    """Put a job into another row; there is nothing to copy as long as it holds nothing."""
    assert job.row is not None
    source, job.row = job.row, target
    if job.cached:
        yield Move(source=source, target=target, length=job.cached)


def _is_filled(job: Job) -> bool:
    """Return whether all of a job's tokens but the last are at hand, so that it can decode at once."""
    return 0 < job.cached == len(job.tokens) - 1


def _room(job: Job) -> int:
    """Return what a job takes of the cache once all of its tokens and one more are in it."""
    return _held(job, len(job.tokens) + 1)


def _held(job: Job, cached: int) -> int:
    """Return what a job takes of the cache with so many tokens in it: its source as well, from the first one on."""
    return stepped(cached) + stepped(len(job.source)) if cached else 0


def _cost(job: Job, piece: int) -> int:
    """Return how many tokens the model reads to run a piece of a job's prompt: the source with the first one."""
    return piece if job.cached else piece + len(job.source)


def stepped(tokens: int) -> int:
    """Return a number of tokens, rounded up to a step of the cache."""
    return -(-tokens // CACHE_STEP) * CACHE_STEP
