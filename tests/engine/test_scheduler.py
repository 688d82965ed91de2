"""The scheduler through thousands of random histories, beside a cache that remembers every token it was given."""

from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deploykit.engine.scheduler import Batch, Job, Scheduler
from deploykit.errors import QueueFullError


@dataclass
class World:
    """A scheduler, and what a model's rows would hold."""

    scheduler: Scheduler
    rows: dict[int, list[int]] = field(default_factory=dict)
    open: list[Job] = field(default_factory=list)
    idle_steps: dict[Job, int] = field(default_factory=dict)
    """Steps since each job last ran."""

    def step(self) -> Batch | None:
        batch = self.scheduler.schedule()
        if batch is None:
            return None
        assert batch.first_row >= 0
        assert batch.first_row + len(batch.jobs) <= self.scheduler.rows
        assert batch.new == 1 or len(batch.jobs) == 1, "several new tokens only in a row of its own"
        for row, (job, ids) in enumerate(zip(batch.jobs, batch.ids, strict=True), batch.first_row):
            assert job.row == row
            if not job.cached:
                self.rows[row] = []
            # The row holds this job's tokens, all and no others: nothing lost, doubled or crossed.
            assert self.rows[row] == job.tokens[: job.cached]
            assert ids
            self.rows[row] += ids
        for job in self.scheduler.advance(batch):
            assert job.cached == len(job.tokens)
            job.tokens.append(1000 * job.tokens[0] + len(job.tokens))
        self.count(batch)
        return batch

    def count(self, batch: Batch) -> None:
        for job in self.open:
            waits = job.row is None or job in batch.jobs
            self.idle_steps[job] = 0 if waits else self.idle_steps.get(job, 0) + 1
            assert self.idle_steps[job] <= 1, "a job with a row runs in every second step at least"

    def remove(self, job: Job) -> None:
        self.open.remove(job)
        for move in self.scheduler.remove(job):
            held = self.rows.pop(move.source, []) if move.length else []
            assert len(held) == move.length
            self.rows[move.target] = held
        assert job.row is None

    def check(self) -> None:
        rows = sorted(job.row for job in self.open if job.row is not None)
        assert rows == list(range(self.scheduler.running)), "rows in use lie next to each other, none is leaked"
        assert self.scheduler.waiting == len(self.open) - len(rows)


ACTIONS = st.lists(
    st.one_of(
        st.tuples(st.just("add"), st.integers(1, 12)),
        st.tuples(st.just("step"), st.integers(1, 4)),
        st.tuples(st.just("leave"), st.integers(0, 30)),
    ),
    max_size=60,
)


@settings(max_examples=1000, deadline=None)
@given(rows=st.integers(1, 4), queue=st.integers(1, 5), chunk=st.integers(1, 5), actions=ACTIONS)
def test_no_token_is_lost_doubled_or_crossed(rows: int, queue: int, chunk: int, actions: list[tuple[str, int]]) -> None:
    world = World(Scheduler(max_rows=rows, max_queue=queue, chunk=chunk))
    names = iter(range(1, 1000))
    for action, number in actions:
        if action == "add":
            name = next(names)
            job = Job([name] + [name * 1000 - place for place in range(1, number)])
            if len(world.open) < rows + queue:
                world.scheduler.add(job)
                world.open.append(job)
            else:
                with pytest.raises(QueueFullError, match=rf"{world.scheduler.waiting} wait"):
                    world.scheduler.add(job)
        elif action == "step":
            for _ in range(number):
                batch = world.step()
                assert (batch is None) == (not world.open), "there is work exactly while something is open"
        elif world.open:
            world.remove(world.open[number % len(world.open)])
        world.check()
    drain(world)


def drain(world: World, tokens: int = 3) -> None:
    """Run until every open job has had some tokens: they are served in the order in which they came."""
    first_tokens: list[Job] = []
    waiting = [job for job in world.open if job.row is None]
    for _ in range(1000):
        if not world.open:
            break
        world.step()
        for job in list(world.open):
            if job in waiting and job.cached and job not in first_tokens:
                first_tokens.append(job)
            if job.tokens[-tokens:-1] and job.tokens[-1] >= 1000 * job.tokens[0] and job.cached >= len(job.tokens) - 1:
                world.remove(job)
        world.check()
    assert not world.open, "a job is starved"
    assert first_tokens == waiting
    assert world.scheduler.schedule() is None


def test_a_long_prompt_takes_turns_with_the_rows_that_decode() -> None:
    scheduler = Scheduler(max_rows=2, max_queue=1, chunk=4)
    short, long = Job([1]), Job(range(10))
    scheduler.add(short)
    scheduler.add(long)
    seen = []
    for _ in range(7):
        batch = scheduler.schedule()
        assert batch
        seen.append((batch.jobs, batch.new))
        for job in scheduler.advance(batch):
            job.tokens.append(0)
    one, other = (short,), (long,)
    assert seen == [(one, 1), (one, 1), (other, 4), (one, 1), (other, 4), (one, 1), (other, 2)]


def test_one_more_than_rows_and_queue_is_refused() -> None:
    scheduler = Scheduler(max_rows=1, max_queue=1, chunk=4)
    scheduler.add(Job([1]))
    scheduler.add(Job([1]))
    with pytest.raises(QueueFullError, match="the queue is full: 0 requests run and 2 wait; try again later"):
        scheduler.add(Job([1]))
