"""Which rows of the model run next: pure logic, no model, no threads, no clock.

Rows 0 … n-1 decode: each gets one token a step, all in one batch. Row n, if any, is being filled: its prompt runs
alone, a chunk at a time, between two steps of the others, so that a long prompt delays them by a chunk at most. The
rows in use always lie next to each other: where one leaves, the last one takes its place.
"""

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass

from deploykit.errors import QueueFullError


class Job:
    """One request's tokens on their way through the model."""

    def __init__(self, prompt: Iterable[int]) -> None:
        self.tokens = list(prompt)
        """The prompt, then the answer so far."""
        self.cached = 0
        """How many of the tokens the row's cache holds."""
        self.row: int | None = None
        """The row it runs in; None while it waits and after it left."""


@dataclass(frozen=True, kw_only=True)
class Batch:
    """Rows next to each other that run together."""

    first_row: int
    jobs: tuple[Job, ...]
    """B rows, `first_row` and up."""
    new: int
    """S: tokens that each row adds; more than 1 only in a batch of one row."""

    @property
    def ids(self) -> list[list[int]]:
        """The new tokens, [B, S]."""
        return [job.tokens[job.cached : job.cached + self.new] for job in self.jobs]

    @property
    def totals(self) -> list[int]:
        """Past and new tokens of each row, [B]."""
        return [job.cached + self.new for job in self.jobs]


@dataclass(frozen=True, kw_only=True)
class Move:
    """A row whose cache must be copied to another place."""

    source: int
    target: int
    length: int
    """Tokens worth copying."""


class Scheduler:
    """Hands out rows in the order of arrival, and turns between filling a row and advancing the others."""

    def __init__(self, *, max_rows: int, max_queue: int, chunk: int) -> None:
        self.rows = max_rows
        """Jobs that can run at once."""
        self._max_open = max_rows + max_queue
        self._chunk = chunk
        self._waiting: deque[Job] = deque()
        self._filling: Job | None = None
        self._decoding: list[Job] = []
        self._filled_last = False

    @property
    def waiting(self) -> int:
        """Jobs without a row."""
        return len(self._waiting)

    @property
    def running(self) -> int:
        """Jobs with a row."""
        return len(self._decoding) + (self._filling is not None)

    def add(self, job: Job) -> None:
        """Queue a job.

        Raises:
            QueueFullError: as many wait already as may.
        """
        if self.waiting + self.running >= self._max_open:
            raise QueueFullError(
                f"the queue is full: {self.running} requests run and {self.waiting} wait; try again later"
            )
        self._waiting.append(job)

    def schedule(self) -> Batch | None:
        """Return what runs next, or None where there is nothing to run."""
        if self._filling is None and self._waiting and len(self._decoding) < self.rows:
            self._filling = self._waiting.popleft()
            self._filling.row = len(self._decoding)
        if self._filling and not (self._filled_last and self._decoding):
            self._filled_last = True
            left = len(self._filling.tokens) - self._filling.cached
            return Batch(first_row=len(self._decoding), jobs=(self._filling,), new=min(self._chunk, left))
        self._filled_last = False
        return Batch(first_row=0, jobs=tuple(self._decoding), new=1) if self._decoding else None

    def advance(self, batch: Batch) -> tuple[Job, ...]:
        """Note that a batch has run, and return the jobs that get a token from it: none in the middle of a prompt."""
        for job in batch.jobs:
            job.cached += batch.new
        if any(job.cached < len(job.tokens) for job in batch.jobs):
            return ()
        if self._filling in batch.jobs:
            self._decoding.append(batch.jobs[0])
            self._filling = None
        return batch.jobs

    def remove(self, job: Job) -> list[Move]:
        """Take a job out, wherever it is, and return the moves that close up the rows, in order."""
        if job.row is None:
            self._waiting.remove(job)
            return []
        freed, job.row = job.row, None
        if job is self._filling:
            self._filling = None
            return []
        last = self._decoding.pop()
        moves = []
        if last is not job:
            self._decoding[freed] = last
            moves.append(_move(last, freed))
        if self._filling:
            moves.append(_move(self._filling, len(self._decoding)))
        return moves


def _move(job: Job, target: int) -> Move:
    assert job.row is not None
    source, job.row = job.row, target
    return Move(source=source, target=target, length=job.cached)
