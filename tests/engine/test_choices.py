"""Several answers to one prompt, how likely their tokens were, and when a request may begin."""

import math
import threading
import time
from dataclasses import replace
from queue import SimpleQueue

import numpy as np
import pytest
from engines import SMALL, each, events_of

from deploykit.artifact import Artifact
from deploykit.config import EngineConfig
from deploykit.engine import Engine, Event, QueueFullError, SamplingParams
from deploykit.errors import RequestError

WARM = SamplingParams(max_tokens=20, temperature=1.5, seed=5, ignore_eos=True)


def test_n_answers_differ_and_the_first_is_that_of_n_1(engine: Engine) -> None:
    several = engine.choices("def ", replace(WARM, n=3))
    assert len({answer.token_ids for answer in several}) == 3
    assert several[0] == engine.generate("def ", WARM)
    assert several == engine.choices("def ", replace(WARM, n=3))
    events = list(engine.stream("def ", replace(WARM, n=3)))
    for index, answer in enumerate(several):
        own = [event for event in events if event.index == index]
        assert tuple(token for event in own for token in event.token_ids) == answer.token_ids
        assert [event.finish_reason is not None for event in own] == [False] * 19 + [True]
    with pytest.raises(RequestError, match="generate returns one answer, and n is 3; call choices"):
        engine.generate("def ", replace(WARM, n=3))


def test_n_answers_are_queued_together_or_not_at_all(llama: Artifact) -> None:
    with Engine.open(llama.path, EngineConfig(max_rows=2, max_queue=1, threads=1)) as engine:
        go_on = threading.Event()
        engine.submit("y", replace(WARM, max_tokens=1), on_event=each(lambda _: go_on.wait(30)))
        with pytest.raises(QueueFullError):
            engine.submit("x", replace(WARM, n=3), on_event=lambda _: None)
        assert engine.stats().running + engine.stats().waiting == 1
        go_on.set()
        while engine.stats().running or engine.stats().waiting:
            time.sleep(0.001)
        assert len(engine.choices("x", replace(WARM, n=3))) == 3


def test_logprobs_are_the_models_own(engine: Engine) -> None:
    answer = engine.generate("def ", replace(WARM, logprobs=3))
    assert answer.cumulative_logprob == pytest.approx(sum(token.logprob for token in answer.logprobs))
    assert [token.token_id for token in answer.logprobs] == list(answer.token_ids)
    assert "".join(token.token for token in answer.logprobs) == answer.text
    for token in answer.logprobs:
        likely = [logprob for _, _, logprob in token.top]
        assert len(likely) == 3
        assert likely == sorted(likely, reverse=True)
        assert token.logprob <= likely[0] + 1e-6
        assert math.fsum(map(math.exp, likely)) <= 1 + 1e-5
    greedy = engine.generate("def ", SamplingParams(max_tokens=20, logprobs=1))
    assert [token.token_id for token in greedy.logprobs] == [token.top[0][0] for token in greedy.logprobs]
    assert engine.generate("def ", WARM).cumulative_logprob is None


def test_at_least_so_many_tokens_come_before_any_end(engine: Engine) -> None:
    whole = engine.generate("def ", replace(WARM, max_tokens=40))
    stop = whole.text[2:5]
    short = engine.generate("def ", replace(WARM, max_tokens=40, stop=(stop,)))
    long = engine.generate("def ", replace(WARM, max_tokens=40, stop=(stop,), min_tokens=20))
    assert short.num_output_tokens < 20 <= long.num_output_tokens
    assert long.text.startswith(short.text + stop)
    ended = replace(WARM, max_tokens=40, stop_token_ids=(whole.token_ids[3],))
    place = whole.token_ids.index(whole.token_ids[3])
    assert engine.generate("def ", ended).token_ids == whole.token_ids[: place + 1]
    assert engine.generate("def ", replace(ended, min_tokens=20)).num_output_tokens >= 20


def test_a_word_that_is_banned_is_not_written(engine: Engine) -> None:
    whole = engine.generate("def ", WARM)
    word = next(token for token in whole.text.split() if len(token) >= 2)
    banned = engine.generate("def ", replace(WARM, max_tokens=100, bad_words=(word,)))
    assert word in whole.text
    assert all(engine._codec.spell(word) != list(banned.token_ids[at : at + 1]) for at in range(100))  # type: ignore[union-attr]
    free = replace(WARM, logit_bias=((whole.token_ids[0], -100.0),))
    assert engine.generate("def ", free).token_ids[0] != whole.token_ids[0]
    with pytest.raises(RequestError, match="logit_bias"):
        engine.generate("def ", replace(WARM, logit_bias=((318_000, 1.0),)))


def test_what_waits_longer_than_its_caller_ends_unrun(llama: Artifact) -> None:
    with Engine.open(llama.path, replace(SMALL, max_rows=1)) as engine:
        go_on = threading.Event()
        engine.submit("x", replace(WARM, max_tokens=3), on_event=each(lambda _: go_on.wait(30)))
        events: SimpleQueue[Event] = SimpleQueue()
        patient: SimpleQueue[Event] = SimpleQueue()
        engine.submit("y", WARM, on_event=events.put, timeout=0.05)
        engine.submit("z", WARM, on_event=patient.put, timeout=60)
        time.sleep(0.1)
        go_on.set()
        (only,) = events_of(events)
        assert (only.finish_reason, only.num_output_tokens) == ("timeout", 0)
        assert events_of(patient)[-1].finish_reason == "length"
        for wrong in (0, -1.0, math.nan, math.inf):
            with pytest.raises(RequestError, match="timeout must be more than 0 seconds"):
                engine.submit("y", WARM, on_event=events.put, timeout=wrong)


def test_the_urgent_go_first_and_clients_take_turns(llama: Artifact) -> None:
    with Engine.open(llama.path, replace(SMALL, max_rows=1)) as engine:
        go_on, done = threading.Event(), SimpleQueue[str]()
        engine.submit("x", replace(WARM, max_tokens=1), on_event=each(lambda _: go_on.wait(30)))
        names = [*(("crowd", 0),) * 4, ("single", 0), ("urgent", -1)]
        for client, priority in names:

            def tell(event: Event, client: str = client) -> None:
                if event.finish_reason:
                    done.put(client)

            engine.submit([7, 8, 9], replace(WARM, max_tokens=3), on_event=tell, client=client, priority=priority)
        go_on.set()
        order = [done.get(timeout=30) for _ in names]
    assert order[0] == "urgent"
    assert order.index("single") <= 3, "not behind the crowd: one of four turns is that of the oldest"


def test_figures_count_what_was_asked(llama: Artifact) -> None:
    with Engine.open(llama.path, SMALL) as engine:
        for length in (1, 5, 9):
            engine.generate([7] * length, replace(WARM, n=1, max_tokens=length))
        figures = {(sample.name, *sample.labels.values()): sample.value for sample in engine.metrics.samples()}
        assert figures["prompt_tokens_total",] == figures["generation_tokens_total",] == 15
        assert figures["request_success_total", "length"] == 3
        assert figures["time_to_first_token_seconds_count",] == figures["e2e_request_latency_seconds_count",] == 3
        assert figures["time_per_output_token_seconds_count",] == 15 - 3
        assert figures["time_to_first_token_seconds_bucket", "+Inf"] == 3
        assert 0 < figures["time_to_first_token_seconds_sum",] < figures["e2e_request_latency_seconds_sum",]
        assert (
            figures["num_requests_running",] == figures["num_requests_waiting",] == figures["kv_cache_usage_perc",] == 0
        )
        seen: list[float] = []
        usage = engine.metrics.cache_usage
        engine.submit([7] * 20, WARM, on_event=lambda _: seen.append(next(iter(usage.collect())).samples[0].value))
        while engine.stats().running or engine.stats().waiting:
            time.sleep(0.001)
        budget = engine.stats().cache_tokens
        assert np.allclose(max(seen), 48 / budget) or np.allclose(max(seen), 32 / budget)
