"""The scheduler through thousands of random histories, beside a model whose rows hold the tokens themselves."""

from collections import Counter

import pytest
from histories import DISK_STATES, Add, Disk, Fail, Leave, Steps, World, live, random_history
from hypothesis import given, settings
from hypothesis import strategies as st

import deploykit.engine.scheduler as module
from deploykit.engine.job import Drop, Job, Load, Move, Plan, Save
from deploykit.engine.scheduler import CACHE_STEP, Scheduler
from deploykit.errors import QueueFullError

ACTIONS = st.lists(
    st.one_of(
        st.builds(
            Add,
            source=st.one_of(st.just(0), st.integers(1, 60)),
            prompt=st.integers(1, 60),
            answer=st.integers(1, 40),
            client=st.sampled_from("abc"),
            priority=st.integers(0, 2),
            wait=st.sampled_from([3, 30, 1e9]),
        ),
        st.builds(Steps, number=st.integers(1, 20)),
        st.builds(Leave, which=st.integers(0, 30)),
        st.builds(Fail, which=st.integers(0, 30)),
        st.builds(Disk, state=st.sampled_from(DISK_STATES)),
    ),
    max_size=30,
)


def make(*, rows: int = 4, queue: int = 20, chunk: int = 4, cache_tokens: int = 1024) -> Scheduler:
    return Scheduler(max_rows=rows, max_queue=queue, chunk=chunk, cache_tokens=cache_tokens)


def turn(scheduler: Scheduler) -> Plan:
    """Let a scheduler's next batch run, and give each job that is due one a token."""
    plan = scheduler.schedule()
    assert plan
    for job in scheduler.advance(plan.batch):
        job.tokens.append(0)
    return plan


def turns(scheduler: Scheduler, number: int) -> list[tuple[tuple[Job, ...], int]]:
    """Return who ran in so many turns, and how many tokens each row had."""
    batches = [turn(scheduler).batch for _ in range(number)]
    return [(batch.jobs, batch.new) for batch in batches]


@settings(max_examples=250, deadline=None)
@given(
    rows=st.integers(1, 5),
    queue=st.integers(1, 6),
    chunk=st.integers(1, 40),
    steps=st.integers(2, 10),
    actions=ACTIONS,
)
def test_no_token_is_lost_doubled_or_crossed(
    rows: int, queue: int, chunk: int, steps: int, actions: list[Add | Steps | Leave | Fail | Disk]
) -> None:
    live(World(rows=rows, queue=queue, chunk=chunk, cache_tokens=steps * CACHE_STEP), actions)


def live_many(monkeypatch: pytest.MonkeyPatch, seeds: range) -> Counter[str]:
    """Return what happens in many histories; in a cache that grows by little, short jobs do what long ones do."""
    seen: Counter[str] = Counter()
    for seed in seeds:
        step = (1, 2, 4)[seed % 3]
        monkeypatch.setattr(module, "CACHE_STEP", step)
        seen += random_history(seed, step=step)
    return seen


def test_a_thousand_histories_reach_what_can_happen(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = live_many(monkeypatch, range(1000))
    for what, least in {
        "finished": 5000,
        "failed": 200,
        "overdue": 200,
        "refused": 200,
        "closed up": 500,
        "Save": 500,
        "lost": 100,
        "unreadable": 50,
        "Load": 300,
        "saved in mid-prompt": 10,
        "made way": 5,
        "read at once": 300,
    }.items():
        assert seen[what] >= least, what


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_a_hundred_thousand_histories(monkeypatch: pytest.MonkeyPatch) -> None:
    assert live_many(monkeypatch, range(1000, 101_000))["finished"] > 500_000


def test_a_long_prompt_takes_turns_with_the_rows_that_decode() -> None:
    scheduler = make(rows=2)
    short, long = Job([1]), Job(range(10))
    scheduler.add(short, long)
    one, other = (short,), (long,)
    assert turns(scheduler, 6) == [(one, 1), (other, 4), (one, 1), (other, 4), (one, 1), (other, 2)]
    assert turns(scheduler, 1) == [((short, long), 1)]


def test_short_prompts_join_together_as_far_as_the_budget_goes() -> None:
    """Ten tokens a gap: three prompts of three, and the fourth isn't cut to use up the last one."""
    scheduler = make(rows=6, chunk=10)
    first, *others = jobs = [Job(range(3)) for _ in range(5)]
    scheduler.add(first)
    turn(scheduler)
    scheduler.add(*others)
    assert turns(scheduler, 5) == [*(((job,), 3) for job in others[:3]), (tuple(jobs[:4]), 1), ((others[3],), 3)]


def test_a_source_longer_than_a_chunk_runs_at_once_and_is_paid_back_in_steps() -> None:
    """Ten tokens in chunks of four are three pieces, so three steps pass before the next source is read."""
    scheduler = make(rows=3)
    short, long, next_one = Job([1]), Job([0], source=tuple(range(9))), Job([0], source=(1, 2))
    scheduler.add(short, long, next_one)
    both, all_three = (short, long), (short, long, next_one)
    assert turns(scheduler, 3) == [((short,), 1), ((long,), 1), (both, 1)]
    assert turns(scheduler, 4) == [(both, 1), (both, 1), ((next_one,), 1), (all_three, 1)]
    assert scheduler.used_tokens == 16 + 32 + 32


def test_a_source_counts_for_its_client_and_in_the_cache() -> None:
    scheduler = make(rows=2, chunk=64, cache_tokens=64)
    first, second = Job([0], source=tuple(range(30))), Job([0], source=(1,))
    scheduler.add(first, second)
    turns(scheduler, 2)
    assert (first.row, second.row, scheduler.used_tokens) == (0, None, 48), "32 and 16 for one, 16 and 16 for the other"
    scheduler.remove(first)
    assert turn(scheduler).batch.jobs == (second,)


def test_a_prompt_is_cut_in_the_same_places_whoever_decodes() -> None:
    scheduler = make(chunk=4)
    alone, beside = Job(range(11)), Job(range(11))
    scheduler.add(alone)
    assert turns(scheduler, 3) == [((alone,), 4), ((alone,), 4), ((alone,), 3)]
    scheduler.add(beside)
    assert [batch for batch in turns(scheduler, 6) if batch[0] == (beside,)] == [
        ((beside,), 4),
        ((beside,), 4),
        ((beside,), 3),
    ]


def test_the_last_row_takes_the_place_of_one_that_leaves_and_the_filling_one_moves_along() -> None:
    scheduler = make(chunk=4)
    jobs = [Job([1, 2]), Job([3]), Job([4]), Job(range(10))]
    scheduler.add(*jobs)
    turns(scheduler, 5)
    first, second, third, filling = jobs
    assert [job.row for job in jobs] == [0, 1, 2, 3]
    assert [job.cached for job in jobs] == [3, 2, 2, 4]
    assert scheduler.remove(first) == (
        Drop(job=first, row=0),
        Move(source=2, target=0, length=2),
        Move(source=3, target=2, length=4),
    )
    assert scheduler.remove(filling) == (Drop(job=filling, row=2),)
    assert scheduler.remove(second) == (Drop(job=second, row=1),)
    assert third.row == 0


def test_the_job_that_matters_least_is_parked_and_comes_back() -> None:
    """Two rows of 16 fill the cache; when both need more, the one that came last makes room."""
    scheduler = make(chunk=64, cache_tokens=48)
    jobs = early, late = Job(range(13)), Job(range(14))
    scheduler.add(*jobs)
    turns(scheduler, 4)
    assert scheduler.used_tokens == 32
    turns(scheduler, 1)
    assert (early.cached, late.cached, scheduler.used_tokens) == (16, 17, 48)
    plan = turn(scheduler)
    assert plan.changes == (Save(job=late, row=1, length=17),)
    assert plan.batch.jobs == (early,)
    assert (scheduler.running, scheduler.waiting, scheduler.parked, late.row) == (1, 1, 1, None)
    assert turn(scheduler).changes == ()
    scheduler.remove(early)
    plan = turn(scheduler)
    assert plan.changes == (Load(job=late, row=0, length=17),)
    assert (plan.batch.jobs, plan.batch.new) == ((late,), 1), "it goes on, and nothing is computed again"
    assert scheduler.parked == 0


def test_what_could_not_be_set_aside_is_computed_again() -> None:
    scheduler = make(chunk=8, cache_tokens=48)
    early, late = Job(range(13)), Job(range(14), priority=1)
    scheduler.add(early, late)
    while scheduler.parked == 0:
        turn(scheduler)
    late.cached = 0
    scheduler.remove(early)
    plan = turn(scheduler)
    assert plan.changes == ()
    assert (plan.batch.jobs, plan.batch.new) == ((late,), 8), "from the beginning, chunk by chunk"


def test_a_row_that_comes_back_to_decode_goes_before_the_one_that_is_filled() -> None:
    scheduler = make(chunk=4, cache_tokens=112)
    leaving, large, small, parked = Job([1]), Job(range(60)), Job([1]), Job(range(13), priority=1)
    scheduler.add(leaving, large, small, parked)
    turn(scheduler)  # the first of four turns, of which the fourth is the one that goes by arrival
    scheduler.remove(leaving)
    while not scheduler.parked:
        turn(scheduler)
    assert (large.row, small.row, parked.row) == (0, 1, None)
    filling = Job(range(10))
    scheduler.add(filling)
    while not filling.cached:
        turn(scheduler)
    scheduler.remove(large)
    assert filling.row == 1
    plan = turn(scheduler)
    assert plan.changes == (Move(source=1, target=2, length=4), Load(job=parked, row=1, length=16))
    assert plan.batch.jobs == (small, parked)


def test_nobody_comes_in_only_to_push_another_out() -> None:
    """A free row, and 16 free tokens; but the row that runs needs them for its next token but one."""
    scheduler = make(chunk=64, cache_tokens=32)
    running, next_one = Job(range(15)), Job([1])
    scheduler.add(running, next_one)
    turns(scheduler, 3)
    assert (scheduler.running, scheduler.used_tokens, scheduler.parked) == (1, 32, 0)
    scheduler.remove(running)
    assert turn(scheduler).batch.jobs == (next_one,)


def test_who_is_first_but_does_not_fit_is_not_passed_by() -> None:
    scheduler = make(chunk=64, cache_tokens=64)
    running, large, small = Job(range(20)), Job(range(40)), Job([1])
    scheduler.add(running, large, small)
    turns(scheduler, 3)
    assert (running.row, large.row, small.row) == (0, None, None)
    scheduler.remove(running)
    turn(scheduler)
    assert large.row == 0


def test_one_more_than_rows_and_queue_is_refused_and_with_it_all_that_came_together() -> None:
    scheduler = make(rows=1, queue=2)
    scheduler.add(Job([1]), Job([1]))
    turn(scheduler)
    with pytest.raises(QueueFullError, match="the queue is full: 1 requests run and 1 wait; try again later"):
        scheduler.add(Job([1]), Job([1]))
    scheduler.add(Job([1]))
    assert scheduler.waiting == 2


def test_a_job_that_the_cache_could_never_hold_is_a_bug() -> None:
    scheduler = make(cache_tokens=32)
    scheduler.add(Job(range(31)))
    with pytest.raises(AssertionError, match="wait for ever"):
        scheduler.add(Job(range(32)))


def test_only_what_has_not_begun_is_overdue() -> None:
    scheduler = make(rows=1)
    jobs = begun, soon, late, _ = [Job([1], deadline=deadline) for deadline in (1.0, 2.0, 3.0, None)]
    scheduler.add(*jobs)
    turn(scheduler)
    assert begun.row == 0
    assert scheduler.overdue(2.0) == ()
    assert scheduler.overdue(2.5) == (soon,)
    assert scheduler.overdue(99.0) == (soon, late)
    scheduler.remove(soon)
    assert scheduler.overdue(99.0) == (late,)


def test_a_thousand_that_leave_at_once_free_a_thousand_places() -> None:
    scheduler = make(rows=500, queue=500, chunk=1000, cache_tokens=500 * CACHE_STEP)
    jobs = [Job([1]) for _ in range(1000)]
    scheduler.add(*jobs)
    turns(scheduler, 500)
    assert (scheduler.running, scheduler.waiting) == (500, 500)
    changes = [change for job in jobs for change in scheduler.remove(job)]
    assert len(changes) <= 2 * len(jobs)
    assert (scheduler.running, scheduler.waiting, scheduler.used_tokens) == (0, 0, 0)
    assert scheduler.schedule() is None
