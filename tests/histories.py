"""A scheduler's histories, beside a model whose rows hold the very tokens they were given."""

import random
from collections import Counter
from dataclasses import dataclass, field
from typing import Final, Literal, get_args

import pytest

import deploykit.engine.scheduler as module
from deploykit.engine.job import Batch, Change, Drop, Job, Load, Move, Plan, Save
from deploykit.engine.scheduler import Scheduler
from deploykit.errors import QueueFullError

DiskState = Literal["fine", "full", "unreadable"]
DISK_STATES: Final[tuple[DiskState, ...]] = get_args(DiskState)


def next_token(tokens: list[int]) -> int:
    """Return a token that depends on every one before it and on their order."""
    return hash(tuple(tokens)) & 0xFFFFFF


def alone(source: tuple[int, ...], prompt: list[int], answer: int) -> list[int]:
    """Return a prompt and its answer, as if nothing ran beside it."""
    tokens = list(prompt)
    for _ in range(answer):
        tokens.append(next_token([*source, *tokens]))
    return tokens


@dataclass
class ModelOfRows:
    """A decoder whose keys and values are the tokens themselves."""

    rows: dict[int, list[int]] = field(default_factory=dict)
    """What each row in use holds; a row isn't there while it holds nothing."""
    sources: dict[int, tuple[int, ...]] = field(default_factory=dict)
    """What each row in use has read before."""
    saved: dict[Job, list[int]] = field(default_factory=dict)
    disk: DiskState = "fine"
    """What becomes of what is set aside now, or brought back."""

    def apply(self, change: Change) -> int:
        match change:
            case Move():
                self._put(change.target, self.rows.pop(change.source), change.length)
                self.sources[change.target] = self.sources.pop(change.source)
            case Save():
                held = self.rows.pop(change.row)
                assert self.sources.pop(change.row) == change.job.source
                assert len(held) == change.length > 0
                if self.disk == "full":
                    return 0
                self.saved[change.job] = held
                return change.length
            case Load():
                held = self.saved.pop(change.job)
                readable = self.disk != "unreadable"
                self._put(change.row, held if readable else [-1] * change.length, change.length)
                self.sources[change.row] = change.job.source
                return change.length if readable else 0
            case Drop(row=None):
                self.saved.pop(change.job, None)
            case Drop():
                assert change.row is not None
                self.rows.pop(change.row, None)
                self.sources.pop(change.row, None)
        return 0

    def run(self, batch: Batch) -> list[int]:
        """Return each row's next token."""
        rows = range(batch.first_row, batch.first_row + len(batch.jobs))
        for row, job, ids in zip(rows, batch.jobs, batch.ids, strict=True):
            if not job.cached:
                assert len(batch.jobs) == 1, "a source is read alone"
                self.sources[row] = job.source
            self.rows.setdefault(row, []).extend(ids)
        return [next_token([*self.sources[row], *self.rows[row]]) for row in rows]

    def _put(self, row: int, held: list[int], length: int) -> None:
        assert row not in self.rows, "what lies there is lost"
        assert len(held) == length
        self.rows[row] = held


class World:
    """A scheduler at work on that model, with what must hold checked after every step."""

    def __init__(self, *, rows: int, queue: int, chunk: int, cache_tokens: int) -> None:
        self.scheduler = Scheduler(max_rows=rows, max_queue=queue, chunk=chunk, cache_tokens=cache_tokens)
        self.model = ModelOfRows()
        self.open: dict[Job, tuple[list[int], int]] = {}
        """Prompt and length of the answer, of each job that hasn't ended."""
        self.begun: set[Job] = set()
        """Those that have had a row."""
        self.running: set[Job] = set()
        """Those that had one when the last step ended."""
        self.decoding: set[Job] = set()
        self.most_open = rows + queue
        self.now = 0.0
        self.seen: Counter[str] = Counter()
        """What has happened so far."""
        self._chunk = chunk
        self._owed = 0
        """Tokens of prompts and sources for which the decoding rows have waited, and not had their steps yet."""

    def add(
        self,
        prompt: list[int],
        answer: int,
        *,
        source: tuple[int, ...] = (),
        client: str = "",
        priority: int = 0,
        wait: float = 1e9,
    ) -> Job:
        job = Job(prompt, source=source, client=client, priority=priority, deadline=self.now + wait)
        self.scheduler.add(job)
        self.open[job] = (prompt, answer)
        self.check()
        return job

    def step(self, failing: frozenset[Job] = frozenset()) -> Batch | None:
        """Run what comes next as the engine's loop does; a batch with one of `failing` in it fails."""
        self.now += 1
        self._drop_overdue()
        if not self.decoding:
            self._owed = min(self._owed, self._chunk)
        plan = self.scheduler.schedule()
        assert (plan is None) == (not self.open), "there is something to do exactly while a job is open"
        if plan is None:
            return None
        self._count(plan)
        lost = [job for change in plan.changes if (job := self._apply(change))]
        self.begun |= {job for job in self.open if job.row is not None}
        self._check_batch(plan.batch)
        for job in lost:
            self.seen["unreadable"] += 1
            self._leave(job)
        if not lost:
            self._run(plan.batch, failing)
        self.check()
        return plan.batch

    def remove(self, job: Job) -> None:
        self._leave(job)
        self.check()

    def _leave(self, job: Job) -> None:
        del self.open[job]
        self.decoding.discard(job)
        drop, *moves = self.scheduler.remove(job)
        assert isinstance(drop, Drop)
        assert all(isinstance(change, Move) for change in moves)
        self.seen["closed up"] += len(moves)
        for change in (drop, *moves):
            self._apply(change)
        assert job.row is None

    def drain(self) -> None:
        """Run until every job has ended; afterwards nothing may be left of any."""
        for _ in range(20_000):
            if self.step() is None:
                break
        assert not self.open, "nothing goes on"
        scheduler, model = self.scheduler, self.model
        assert (scheduler.running, scheduler.waiting, scheduler.parked, scheduler.used_tokens) == (0, 0, 0, 0)
        assert not scheduler._line._levels
        assert not model.rows
        assert not model.sources
        assert not model.saved

    def check(self) -> None:
        running = sorted((job for job in self.open if job.row is not None), key=lambda job: job.row or 0)
        waiting = [job for job in self.open if job.row is None]
        assert [job.row for job in running] == list(range(self.scheduler.running)), "rows lie next to each other"
        assert self.scheduler.running <= self.scheduler.rows
        assert self.scheduler.waiting == len(waiting)
        assert self.scheduler.parked == len(self.begun.intersection(waiting))
        assert self.model.rows == {job.row: job.tokens[: job.cached] for job in running if job.cached}
        assert self.model.sources == {job.row: job.source for job in running if job.cached}
        assert self.model.saved == {job: job.tokens[: job.cached] for job in waiting if job.cached}
        assert all(job in self.decoding for job in running[:-1]), "only the last row may be one that is filled"
        assert self._used() == self.scheduler.used_tokens
        self.running = set(running)

    def _used(self) -> int:
        """Return what the rows hold, in tokens, each rounded up to a step; never more than they may."""
        held = [*self.model.rows.values(), *self.model.sources.values()]
        used = sum(-(-len(tokens) // module.CACHE_STEP) * module.CACHE_STEP for tokens in held)
        assert used <= self.scheduler.cache_tokens, "more than the cache holds"
        return used

    def _drop_overdue(self) -> None:
        late = {job for job in self.open if job not in self.begun and job.deadline and job.deadline < self.now}
        assert set(self.scheduler.overdue(self.now)) == late
        for job in late:
            self.seen["overdue"] += 1
            self.remove(job)

    def _count(self, plan: Plan) -> None:
        self.seen.update(type(change).__name__ for change in plan.changes)
        saved = {change.job for change in plan.changes if isinstance(change, Save)}
        self.seen["saved in mid-prompt"] += len(saved - self.decoding)
        assert {job for job in self.running if job.row is None} == saved
        self.seen["made way"] += {Move, Load} <= set(map(type, plan.changes))

    def _apply(self, change: Change) -> Job | None:
        """Do what the scheduler says, and return the job that is lost by that, if one is."""
        kept = self.model.apply(change)
        if isinstance(change, Save):
            assert change.job is not min(self.running, key=lambda job: job.rank), "what matters most always goes on"
            self.seen["lost"] += kept == 0
            change.job.cached = kept
            self.decoding.discard(change.job)
        elif isinstance(change, Load) and change.job.cached == len(change.job.tokens) - 1:
            self.decoding.add(change.job)
        return change.job if isinstance(change, Load) and kept < change.length else None

    def _check_batch(self, batch: Batch) -> None:
        rows = range(batch.first_row, batch.first_row + len(batch.jobs))
        assert [job.row for job in batch.jobs] == list(rows)
        assert all(batch.ids), "a row without a token"
        if self.decoding.issuperset(batch.jobs):
            assert set(batch.jobs) == self.decoding, "all that decode go together"
            assert batch.new == 1
        else:
            (job,) = batch.jobs
            end = job.cached + batch.new
            assert job.cached % self._chunk == 0, "where a prompt is cut depends on others"
            assert end == min(len(job.tokens), job.cached + self._chunk)

    def _run(self, batch: Batch, failing: frozenset[Job]) -> None:
        """Run a batch, row by row where that fails, and end the rows that fail alone."""
        if failing.isdisjoint(batch.jobs):
            self._emit(batch, self.model.run(batch))
        elif len(batch.jobs) == 1:
            self.seen["failed"] += 1
            self.remove(batch.jobs[0])
        else:
            for job in batch.jobs:
                assert job.row is not None
                self._run(Batch(first_row=job.row, jobs=(job,), new=batch.new), failing)

    def _emit(self, batch: Batch, tokens: list[int]) -> None:
        self._used()
        self._count_delay(batch)
        given = self.scheduler.advance(batch)
        self.decoding.update(given)
        for job, token in zip(given, tokens, strict=False):
            job.tokens.append(token)
        for job in given:
            prompt, answer = self.open[job]
            if len(job.tokens) == len(prompt) + answer:
                assert job.tokens == alone(job.source, prompt, answer), "a token was lost, doubled or crossed"
                self.seen["finished"] += 1
                self.remove(job)

    def _count_delay(self, batch: Batch) -> None:
        """Check that the decoding rows wait for a chunk at most; a longer source is paid back, step by step."""
        if self.decoding.issuperset(batch.jobs):
            self._owed = max(0, self._owed - self._chunk)
        elif self.decoding:
            (job,) = batch.jobs
            cost = batch.new if job.cached else batch.new + len(job.source)
            assert not self._owed or self._owed + cost <= self._chunk, "the decoding rows wait for more than a chunk"
            self.seen["read at once"] += cost > self._chunk
            self._owed += cost
        else:
            self._owed = 0


@dataclass(frozen=True, kw_only=True)
class Add:
    """A job that comes, as far as the cache can hold it."""

    source: int
    """Tokens for an encoder; 0 where there is none."""
    prompt: int
    answer: int
    client: str
    priority: int
    wait: float


@dataclass(frozen=True, kw_only=True)
class Steps:
    """Some steps."""

    number: int


@dataclass(frozen=True, kw_only=True)
class Leave:
    """An open job that is cancelled."""

    which: int


@dataclass(frozen=True, kw_only=True)
class Fail:
    """A step in which the model fails on an open job."""

    which: int


@dataclass(frozen=True, kw_only=True)
class Disk:
    """What becomes of what is set aside changes."""

    state: DiskState


Action = Add | Steps | Leave | Fail | Disk


def live(world: World, actions: list[Action]) -> None:
    """Lead a world through a history, and on until every job in it has ended."""
    for number, action in enumerate(actions):
        jobs = list(world.open)
        match action:
            case Add():
                _add(world, action, name=1000 * number)
            case Steps():
                for _ in range(action.number):
                    world.step()
            case Leave() if jobs:
                world.remove(jobs[action.which % len(jobs)])
            case Fail() if jobs:
                world.step(frozenset({jobs[action.which % len(jobs)]}))
            case Disk():
                world.model.disk = action.state
    world.drain()


def _add(world: World, action: Add, *, name: int) -> None:
    step, most = module.CACHE_STEP, world.scheduler.cache_tokens
    source = tuple(range(-name - 1, -name - 1 - min(action.source, most - 2 * step), -1))
    most -= -(-len(source) // step) * step
    length = min(action.prompt, most - 1)
    answer = min(action.answer, most - length)
    prompt = list(range(name, name + length))
    if len(world.open) < world.most_open:
        world.add(prompt, answer, source=source, client=action.client, priority=action.priority, wait=action.wait)
        return
    with pytest.raises(QueueFullError, match=rf"{world.scheduler.waiting} wait"):
        world.scheduler.add(Job(prompt))
    world.seen["refused"] += 1


def random_history(seed: int, *, step: int) -> Counter[str]:
    """Live through a history that a seed decides, and return what happened in it."""
    dice = random.Random(seed)
    world = World(
        rows=dice.randint(2, 6),
        queue=dice.randint(1, 8),
        chunk=dice.choice([1, 2, step, 3 * step]),
        cache_tokens=step * dice.randint(4, 12),
    )
    source = dice.choice([0, 0, 1, 2, 8]) * step
    live(world, [_random_action(dice, step, source) for _ in range(dice.randint(5, 40))])
    return world.seen


def _random_action(dice: random.Random, step: int, source: int) -> Action:
    match dice.choices(["add", "steps", "leave", "fail", "disk"], [12, 8, 2, 1, 1])[0]:
        case "add":
            return Add(
                source=dice.randint(0, source),
                prompt=dice.randint(1, dice.choice([2, 8]) * step),
                answer=dice.randint(1, 6 * step),
                client=dice.choice("abc"),
                priority=dice.randrange(3),
                wait=dice.choice([9, 1e9]),
            )
        case "steps":
            return Steps(number=dice.randint(1, 6))
        case "leave":
            return Leave(which=dice.randrange(100))
        case "fail":
            return Fail(which=dice.randrange(100))
    return Disk(state=dice.choice(DISK_STATES))
