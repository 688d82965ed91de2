"""Whose turn it is: strict priorities, fair shares, nobody starved, and nothing that grows with the queue."""

import sys
from collections.abc import Callable, Iterable
from types import FrameType
from typing import Any, TypeVar

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import deploykit.engine.queueing as queueing
from deploykit.engine.job import Job
from deploykit.engine.queueing import OLDEST_EVERY, Line
from deploykit.engine.scheduler import Scheduler

T = TypeVar("T")


class Arrivals:
    """A line, and jobs that arrive in it one after another."""

    def __init__(self) -> None:
        self.line = Line()
        self.come = 0

    def add(
        self,
        client: str = "",
        *,
        tokens: int = 1,
        priority: int = 0,
        deadline: float | None = None,
        kind: type[Job] = Job,
    ) -> Job:
        job = kind([0] * tokens, client=client, priority=priority, deadline=deadline)
        job.arrival = self.come
        self.come += 1
        self.line.add(job)
        return job

    def turn(self) -> Job:
        job = self.line.first()
        assert job
        self.line.take(job)
        return job

    def turns(self, number: int) -> list[Job]:
        return [self.turn() for _ in range(number)]


def test_the_urgent_go_first_and_every_fourth_turn_is_that_of_the_oldest() -> None:
    arrivals = Arrivals()
    later = [arrivals.add(priority=5), arrivals.add(priority=5)]
    urgent = [arrivals.add(priority=1) for _ in range(6)]
    assert arrivals.turns(8) == [*urgent[:3], later[0], *urgent[3:], later[1]]
    assert arrivals.line.first() is None
    assert len(arrivals.line) == 0


def test_the_client_that_has_had_the_fewest_tokens_goes_next() -> None:
    arrivals = Arrivals()
    heavy = [arrivals.add("heavy", tokens=30) for _ in range(4)]
    light = [arrivals.add("light", tokens=10) for _ in range(4)]
    # 30 against 10, 20, and then the turn of the oldest; now 60 against 20.
    assert arrivals.turns(4) == [heavy[0], light[0], light[1], heavy[1]]
    assert arrivals.turns(2) == light[2:]


def test_tokens_of_an_answer_count_as_well() -> None:
    arrivals = Arrivals()
    first, second = arrivals.add("a"), arrivals.add("b")
    rest = arrivals.add("a"), arrivals.add("b")
    assert arrivals.turns(2) == [first, second]
    arrivals.line.count(first, 3)
    assert arrivals.turn() == rest[1]


def test_who_comes_back_is_level_with_the_least_served_that_wait() -> None:
    arrivals = Arrivals()
    old = [arrivals.add("old", tokens=100) for _ in range(9)]
    arrivals.turns(2)
    new = [arrivals.add("new", tokens=100) for _ in range(4)]
    # Had the new one the 200 tokens of its absence to its credit, the first turn would be its own.
    assert arrivals.turns(3) == [old[2], old[3], new[0]]


def test_who_comes_while_others_only_run_is_level_with_those_in_line() -> None:
    arrivals = Arrivals()
    arrivals.add("running")
    waiting = [arrivals.add("waiting", tokens=100) for _ in range(9)]
    assert arrivals.turn().client == "running"
    arrivals.turns(4)
    new = [arrivals.add("new", tokens=100) for _ in range(2)]
    assert arrivals.turns(2) == [waiting[4], new[0]]


def test_who_had_more_than_others_and_comes_back_still_has() -> None:
    arrivals = Arrivals()
    greedy = arrivals.add("greedy", tokens=1000)
    modest = [arrivals.add("modest", tokens=10) for _ in range(6)]
    arrivals.turn()
    greedy.row = 0
    arrivals.line.close(greedy)
    again = arrivals.add("greedy")
    assert arrivals.turns(6) == modest
    assert arrivals.turn() == again


def test_a_prompt_counts_once_however_often_its_job_is_parked() -> None:
    arrivals = Arrivals()
    job, other = arrivals.add("a", tokens=10), arrivals.add("b", tokens=15)
    assert arrivals.turns(2) == [job, other]
    rest = [arrivals.add(client) for client in "ba"]
    arrivals.line.park(job)
    assert arrivals.turn() == job
    arrivals.line._turns = 0
    assert arrivals.turn() == rest[1], "10 tokens against 15"


def test_a_parked_job_goes_before_those_of_its_priority_that_wait() -> None:
    arrivals = Arrivals()
    parked = [arrivals.add(priority=priority) for priority in (1, 1, 2)]
    arrivals.turns(3)
    arrivals.line._turns = 0
    waiting = [arrivals.add(priority=priority) for priority in (0, 1)]
    for job in reversed(parked):
        arrivals.line.park(job)
    assert (len(arrivals.line), arrivals.line.parked) == (5, 3)
    assert arrivals.turns(3) == [waiting[0], parked[0], parked[1]]
    assert arrivals.turn() == parked[2], "the oldest, as it is the fourth turn"
    assert arrivals.turn() == waiting[1]


def test_the_oldest_may_be_one_of_the_parked_that_matters_little() -> None:
    arrivals = Arrivals()
    oldest, urgent = arrivals.add(priority=2), arrivals.add(priority=1)
    arrivals.turns(2)
    for job in (oldest, urgent):
        arrivals.line.park(job)
    arrivals.line._turns = OLDEST_EVERY - 1
    assert arrivals.turns(2) == [oldest, urgent]


def test_what_is_taken_out_is_gone_wherever_it_stood() -> None:
    arrivals = Arrivals()
    parked, waiting, other = arrivals.add(), arrivals.add("a", deadline=1.0), arrivals.add("a", deadline=1.0)
    arrivals.turn()
    arrivals.line.park(parked)
    arrivals.line.close(parked)
    arrivals.line.close(waiting)
    assert arrivals.line.overdue(2.0) == (other,)
    assert arrivals.turn() == other
    assert arrivals.line.overdue(2.0) == ()
    assert (len(arrivals.line), arrivals.line.parked) == (0, 0)
    with pytest.raises((AssertionError, IndexError)):
        arrivals.line.close(waiting)
    other.row = 0
    arrivals.line.close(other)
    assert not arrivals.line._levels


def test_clients_that_are_long_gone_are_forgotten() -> None:
    arrivals = Arrivals()
    patient = arrivals.add("patient", priority=0, tokens=5)
    level = arrivals.line._levels[0]
    for number in range(3 * queueing.REMEMBERED):
        job = arrivals.add(str(number))
        arrivals.line.close(job)
    assert len(level._tokens) <= queueing.REMEMBERED + 2
    assert arrivals.turn() == patient


@settings(max_examples=200, deadline=None)
@given(
    ahead=st.integers(0, 20),
    priority=st.integers(0, 9),
    others=st.lists(st.tuples(st.sampled_from("ab"), st.integers(0, 3), st.integers(1, 50)), min_size=1),
)
def test_nobody_starves(ahead: int, priority: int, others: list[tuple[str, int, int]]) -> None:
    """However many come that go before it: with `k` older ones, a job has its turn within 4 (k + 1) turns."""
    arrivals = Arrivals()
    for _ in range(ahead):
        arrivals.add(priority=0)
    poor = arrivals.add("poor", priority=priority, tokens=1000)
    for number in range(OLDEST_EVERY * (ahead + 1)):
        client, urgency, tokens = others[number % len(others)]
        arrivals.add(client, priority=urgency, tokens=tokens)
        if arrivals.turn() is poor:
            return
    pytest.fail("starved")


@settings(max_examples=25, deadline=None)
@given(rows=st.integers(1, 3), sizes=st.lists(st.integers(10, 20), min_size=2, max_size=9))
def test_a_client_with_one_job_and_one_with_a_hundred_share_evenly(rows: int, sizes: list[int]) -> None:
    """While both have jobs in line, what they get differs by what runs at once and not by how long they have waited."""
    scheduler = Scheduler(max_rows=rows, max_queue=200, chunk=64, cache_tokens=1024)
    served = {"many": 0, "one": 0}
    many = [Job([0] * sizes[number % len(sizes)], client="many") for number in range(100)]
    scheduler.add(*many)
    next_one = None
    while many[-1].row is None:
        if next_one is None or next_one.row is not None:
            next_one = Job([0] * sizes[0], client="one")
            scheduler.add(next_one)
        plan = scheduler.schedule()
        assert plan
        for job in plan.batch.jobs:
            served[job.client] += len(job.tokens) if job.cached == 0 else 0
        for job in scheduler.advance(plan.batch):
            served[job.client] += 1
            job.tokens.append(0)
            if len(job.tokens) >= 40:
                scheduler.remove(job)
        assert abs(served["many"] - served["one"]) <= 2 * (rows + 1) * 40
    assert sum(served.values()) > 6000


def lines_run(action: Callable[[T], object], subjects: Iterable[T]) -> int:
    """Return how many lines of the engine run in some actions: unlike time, the same on every machine."""
    lines = 0

    def trace(frame: FrameType, event: str, _: Any) -> Any:
        nonlocal lines
        if "deploykit/engine/" not in frame.f_code.co_filename:
            return None
        lines += event == "line"
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        for subject in subjects:
            action(subject)
    finally:
        sys.settrace(before)
    return lines


class Compared(Job):
    """A job that counts how often it is compared, as a search through a list would."""

    times = 0

    def __eq__(self, other: object) -> bool:
        Compared.times += 1
        return self is other

    __hash__ = Job.__hash__


def crowd(number: int) -> tuple[Scheduler, list[Job]]:
    """Return a scheduler with so many jobs of five clients in line, behind two that run."""
    scheduler = Scheduler(max_rows=2, max_queue=number, chunk=8, cache_tokens=64)
    jobs: list[Job] = [
        Compared([1], client=str(place % 5), priority=place % 3, deadline=1.0 + place) for place in range(number)
    ]
    scheduler.add(Job([1]), Job([1]))
    for _ in range(2):
        step(scheduler)
    scheduler.add(*jobs)
    return scheduler, jobs


def step(scheduler: Scheduler) -> None:
    scheduler.overdue(0.0)
    plan = scheduler.schedule()
    assert plan
    for job in scheduler.advance(plan.batch):
        job.tokens.append(0)


def test_a_thousand_that_wait_slow_nothing_down() -> None:
    """Neither a step, nor a step that hands out a row, nor their leaving."""
    few, many = costs_in_a_crowd(10), costs_in_a_crowd(1000)
    assert all(more <= 1.5 * less for less, more in zip(few, many, strict=True))


def costs_in_a_crowd(number: int) -> tuple[float, ...]:
    """Return the lines that run in a step, in one that hands out a row, and for each job that leaves the line."""
    scheduler, jobs = crowd(number)
    Compared.times = 0
    plain = lines_run(step, [scheduler])
    scheduler.remove(scheduler._decoding[0])
    handing_out = lines_run(step, [scheduler])
    waiting = [job for job in reversed(jobs) if job.row is None]
    leaving = lines_run(scheduler.remove, waiting) / len(waiting)
    assert len(waiting) == number - 1
    assert scheduler.waiting == 0
    assert Compared.times <= 4 * number
    return plain, handing_out, leaving


def test_a_thousand_that_are_parked_leave_as_quickly() -> None:
    arrivals = Arrivals()
    jobs = [arrivals.add(priority=number % 3, kind=Compared) for number in range(1000)]
    for job in arrivals.turns(1000):
        arrivals.line.park(job)
    assert arrivals.line.parked == 1000
    Compared.times = 0
    assert lines_run(arrivals.line.close, jobs) <= 100 * len(jobs)
    assert Compared.times <= 4 * len(jobs)
    assert len(arrivals.line) == 0
