"""When each stage of an answer began: in its last event, and in the figures."""

import time
from collections.abc import Iterator
from queue import SimpleQueue
from threading import Event as Flag

import pytest
from engines import each, events_of, together

from deploykit.artifact import Artifact
from deploykit.config import EngineConfig
from deploykit.engine import Engine, Event, SamplingParams, Timing
from deploykit.engine.metrics import Metrics
from deploykit.errors import RequestError

SHORT = SamplingParams(max_tokens=4, ignore_eos=True)
STAGES = ("request_queue_time_seconds", "request_prefill_time_seconds", "request_decode_time_seconds")


def timing_of(events: list[Event]) -> Timing:
    assert [event.timing for event in events[:-1]] == [None] * (len(events) - 1)
    assert events[-1].timing
    return events[-1].timing


def figures(metrics: Metrics) -> dict[str, float]:
    return {sample.name: sample.value for sample in metrics.samples()}


@pytest.fixture
def narrow(llama: Artifact) -> Iterator[Engine]:
    with Engine.open(llama.path, EngineConfig(max_rows=1, threads=1)) as running:
        yield running


@pytest.mark.parametrize("prompt", [[5], list(range(5, 18))])
def test_stages_follow_each_other_however_long_the_prompt(engine: Engine, prompt: list[int]) -> None:
    before = time.monotonic()
    for timing in map(timing_of, together(engine, [(prompt, SHORT)] * 3)):
        assert timing.begun is not None
        assert timing.first_token is not None
        order = [before, timing.queued, timing.begun, timing.first_token, timing.ended, time.monotonic()]
        assert order == sorted(order)
        assert len(set(order)) == len(order)


def test_who_waits_for_a_row_begins_when_the_other_has_ended(narrow: Engine) -> None:
    first, second = (timing_of(events) for events in together(narrow, [("greet", SHORT), ("name", SHORT)]))
    assert second.begun is not None
    assert second.queued < first.ended < second.begun
    told = figures(narrow.metrics)
    # `together` asks something itself.
    assert [told[f"{stage}_count"] for stage in STAGES] == [3, 3, 3]
    assert told["request_queue_time_seconds_sum"] >= second.begun - second.queued
    assert sum(told[f"{stage}_sum"] for stage in STAGES) == pytest.approx(told["e2e_request_latency_seconds_sum"])


@pytest.mark.parametrize("reason", ["cancelled", "timeout"])
def test_what_never_ran_has_waited_and_nothing_else(narrow: Engine, reason: str) -> None:
    here, queue, running = Flag(), SimpleQueue[Event](), SimpleQueue[Event]()
    narrow.submit([5], SHORT, on_event=each(lambda _: here.wait(30), running.put))
    waiting = narrow.submit([6], SHORT, on_event=queue.put, timeout=0.01 if reason == "timeout" else None)
    if reason == "cancelled":
        waiting.cancel()
    else:
        time.sleep(0.02)
    here.set()
    (last,) = events_of(queue)
    events_of(running)
    timing = timing_of([last])
    assert last.finish_reason == reason
    assert (timing.begun, timing.first_token) == (None, None)
    assert timing.ended > timing.queued
    told = figures(narrow.metrics)
    assert [told[f"{stage}_count"] for stage in STAGES] == [1, 1, 1]


def test_each_choice_is_timed_by_itself(engine: Engine) -> None:
    events = list(engine.stream("greet", SamplingParams(max_tokens=3, n=3, seed=1, ignore_eos=True)))
    timings = [event.timing for event in events if event.finish_reason]
    assert len(timings) == 3
    assert len({timing.begun for timing in timings if timing}) == 3


def test_a_failure_is_logged_by_the_callers_name_for_it(engine: Engine, caplog: pytest.LogCaptureFixture) -> None:
    ended = Flag()

    def fail(_: Event) -> None:
        ended.set()
        raise ConnectionError

    engine.submit("greet", SHORT, on_event=fail, request_id="order\n66" + "x" * 500)
    assert ended.wait(30)
    engine.generate("greet", SHORT)
    assert r"request 'order\n66xxx" in caplog.text
    assert "x" * 200 not in caplog.text
    with pytest.raises(RequestError, match="request_id must be a text, got int"):
        engine.submit("greet", SHORT, on_event=fail, request_id=5)  # type: ignore[arg-type]


def test_a_text_is_encoded_with_and_without_the_tokenizers_own_tokens(engine: Engine) -> None:
    tokens = engine.encode("greet", add_special_tokens=False)
    assert engine.encode("greet")[-len(tokens) :] == tokens
    assert engine.generate(engine.encode("greet"), SHORT) == engine.generate("greet", SHORT)
    with pytest.raises(RequestError, match="lone surrogate"):
        engine.encode("\ud800", add_special_tokens=False)
    with pytest.raises(RequestError, match="the prompt has at least"):
        engine.encode("x" * 10**6)
