"""What the scheduler and the decoders talk about: jobs, the rows they run in, and what happens to those rows."""

from collections.abc import Iterable
from dataclasses import dataclass


class Job:
    """One sequence's tokens on their way through the model."""

    def __init__(
        self,
        prompt: Iterable[int],
        *,
        source: tuple[int, ...] = (),
        client: str = "",
        priority: int = 0,
        deadline: float | None = None,
    ) -> None:
        self.tokens = list(prompt)
        """The prompt, then the answer so far."""
        self.source = source
        """What an encoder reads before the first of them; answers to one request share it. Empty without an encoder.

        A cache that holds any of the tokens holds all of the source."""
        self.cached = 0
        """How many of the tokens a cache holds: the row's, or while the job is parked what was set aside."""
        self.row: int | None = None
        """The row it runs in; None while it waits or is parked, and after it left."""
        self.client = client
        """Whose it is: clients share the model evenly."""
        self.priority = priority
        """Lower goes first, as in Triton and vLLM."""
        self.deadline = deadline
        """Seconds on the clock of `Scheduler.overdue`, after which it isn't begun any more; never where None."""
        self.arrival = 0
        """Its place in the order of arrival; the scheduler counts."""

    @property
    def size(self) -> int:
        """All that the model reads of it before it answers, and what it has answered, in tokens."""
        return len(self.source) + len(self.tokens)

    @property
    def rank(self) -> tuple[int, int]:
        """Where it stands among others: the least is the most urgent, and of those the one that came first."""
        return self.priority, self.arrival


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
    """A row whose keys and values must be copied to another, free one."""

    source: int
    target: int
    length: int
    """Tokens worth copying."""


@dataclass(frozen=True, kw_only=True)
class Save:
    """A row to set aside: its job is parked until there is room again."""

    job: Job
    row: int
    length: int
    """Tokens it holds."""


@dataclass(frozen=True, kw_only=True)
class Load:
    """A parked job to bring back into a row."""

    job: Job
    row: int
    length: int
    """Tokens that were set aside."""


@dataclass(frozen=True, kw_only=True)
class Drop:
    """A job that has left: its row, or what was set aside of it, is free."""

    job: Job
    row: int | None
    """The row it ran in; None where it had none."""


Change = Move | Save | Load | Drop
"""What happens to rows between two batches, in order."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What comes next: changes first, then a batch."""

    changes: tuple[Change, ...]
    batch: Batch
