"""Jobs without a row, and whose turn it is: pure logic, no threads, no clock.

Priorities are strict, and within one the clients share evenly, by virtual token counters (Sheng et al., "Fairness in
Serving Large Language Models", 2024, https://arxiv.org/abs/2401.00588): next is the client that has had the fewest
tokens. So that nobody starves, every fourth turn is that of the job that came first, whosever it is.
"""

from bisect import bisect_left, insort
from collections import Counter, OrderedDict
from itertools import islice, takewhile
from typing import Final

from deploykit.engine.job import Job

OLDEST_EVERY: Final = 4
"""One turn in so many goes by arrival alone."""
REMEMBERED: Final = 1000
"""Clients whose tokens are kept while they have no open job; where there are more, those are forgotten."""


class Line:
    """Jobs that wait for their first row, and parked ones that wait to come back.

    A parked job goes before those of its priority that wait: it has begun, and what it holds takes memory.
    """

    def __init__(self) -> None:
        self._levels: dict[int, _Level] = {}
        """The open jobs by priority: waiting, parked and running ones."""
        self._waiting: OrderedDict[Job, None] = OrderedDict()
        """Those without a first row yet, in order of arrival; a plain dict's first is slow to find once many left."""
        self._deadlines: list[tuple[float, int, Job]] = []
        """Those of them that have a deadline, in its order; the arrivals keep jobs from being compared."""
        self._parked: list[Job] = []
        """In order of rank."""
        self._turns = 0

    def __len__(self) -> int:
        return len(self._waiting) + len(self._parked)

    @property
    def parked(self) -> int:
        """How many of the jobs are parked."""
        return len(self._parked)

    def add(self, job: Job) -> None:
        """Let a job that has just arrived wait for its first row."""
        self._waiting[job] = None
        self._levels.setdefault(job.priority, _Level()).add(job)
        if job.deadline is not None:
            insort(self._deadlines, (job.deadline, job.arrival, job))

    def park(self, job: Job) -> None:
        """Let a job that had a row wait until it can come back."""
        insort(self._parked, job, key=_rank)

    def first(self) -> Job | None:
        """Return the job whose turn it is; None where none waits."""
        if not self:
            return None
        if self._turns % OLDEST_EVERY == OLDEST_EVERY - 1:
            return min([*islice(self._waiting, 1), *self._parked], key=_arrival)
        urgent = min((priority for priority, level in self._levels.items() if level.waits), default=None)
        if urgent is None or (self._parked and self._parked[0].priority <= urgent):
            return self._parked[0]
        return self._levels[urgent].first()

    def take(self, job: Job) -> None:
        """Give a job its turn: it leaves the line, and if it is new, its prompt counts for its client."""
        self._turns += 1
        if job in self._waiting:
            self.count(job, job.size)
        self._pull(job)

    def count(self, job: Job, tokens: int) -> None:
        """Count tokens that a job has been given for its client."""
        self._levels[job.priority].count(job.client, tokens)

    def close(self, job: Job) -> None:
        """Forget a job that has ended, whether it stands in line or had its turn."""
        if job.row is None:
            self._pull(job)
        level = self._levels[job.priority]
        level.close(job)
        if level.empty:
            # Its counters go as well: they matter only between jobs that are open at the same time.
            del self._levels[job.priority]

    def _pull(self, job: Job) -> None:
        """Take a job out of the line, wherever it stands."""
        if job not in self._waiting:
            parked = self._parked.pop(bisect_left(self._parked, job.rank, key=_rank))
            assert parked is job
            return
        del self._waiting[job]
        self._levels[job.priority].pull(job)
        if job.deadline is not None:
            del self._deadlines[bisect_left(self._deadlines, (job.deadline, job.arrival))]

    def overdue(self, now: float) -> tuple[Job, ...]:
        """Return the waiting jobs whose deadline has passed; they stay in line until they are removed."""
        return tuple(job for _, _, job in takewhile(lambda entry: entry[0] < now, self._deadlines))


class _Level:
    """The clients that have open jobs of one priority, and how many tokens each has had since the level began."""

    def __init__(self) -> None:
        self._open: Counter[str] = Counter()
        """Open jobs of each client."""
        self._waiting: dict[str, OrderedDict[Job, None]] = {}
        """Those that wait for their first row, in order of arrival."""
        self._tokens: dict[str, int] = {}
        """What each client has had: those with open jobs, and some that had some before."""

    @property
    def empty(self) -> bool:
        return not self._open

    @property
    def waits(self) -> bool:
        return bool(self._waiting)

    def add(self, job: Job) -> None:
        if job.client not in self._open:
            self._welcome(job.client)
        self._open[job.client] += 1
        self._waiting.setdefault(job.client, OrderedDict())[job] = None

    def first(self) -> Job:
        """Return the next job of the client that has had the fewest tokens."""
        client = min(self._waiting, key=self._tokens.__getitem__)
        return next(iter(self._waiting[client]))

    def pull(self, job: Job) -> None:
        jobs = self._waiting[job.client]
        del jobs[job]
        if not jobs:
            del self._waiting[job.client]

    def count(self, client: str, tokens: int) -> None:
        self._tokens[client] += tokens

    def close(self, job: Job) -> None:
        self._open[job.client] -= 1
        if not self._open[job.client]:
            del self._open[job.client]

    def _welcome(self, client: str) -> None:
        """Lift a client that comes (back) to the least served of those in line: time away earns nothing."""
        if len(self._tokens) > len(self._open) + REMEMBERED:
            self._tokens = {active: self._tokens[active] for active in self._open}
        least = min((self._tokens[active] for active in self._waiting or self._open), default=0)
        self._tokens[client] = max(self._tokens.get(client, 0), least)


def _arrival(job: Job) -> int:
    return job.arrival


def _rank(job: Job) -> tuple[int, int]:
    return job.rank
