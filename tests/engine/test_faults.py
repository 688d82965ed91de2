"""What may go wrong around a request: it ends alone, everyone is told, and nothing stays behind."""

import asyncio
import gc
import time
import weakref
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from queue import SimpleQueue
from threading import Event as Flag
from typing import Any, cast

import numpy as np
import onnxruntime as ort
import pytest
from engines import SMALL, Ask, each, events_of, open_engine, poisoned, together, tokens_of

import deploykit.engine.softmax as softmax_module
from deploykit.artifact import Artifact
from deploykit.config import EngineConfig
from deploykit.engine import Engine, EngineError, Event, QueueFullError, Request, SamplingParams
from deploykit.engine.concatenated import ConcatenatedDecoder
from deploykit.engine.job import Change
from deploykit.engine.softmax import Softmax
from deploykit.errors import RequestError

LONG = SamplingParams(max_tokens=100, ignore_eos=True)


def until(true: Callable[[], bool]) -> None:
    """Wait for something another thread does; pytest's own time limit ends a wait in vain."""
    while not true():
        time.sleep(0.001)


@pytest.mark.parametrize("failure", [asyncio.CancelledError, SystemExit, ConnectionError])
@pytest.mark.parametrize("when", [1, 100])
def test_a_listener_that_raises_anything_ends_its_own_request(
    failure: type[BaseException], when: int, engine: Engine
) -> None:
    alone = engine.generate("x", LONG)
    before = _finished(engine)

    def fail(event: Event) -> None:
        if event.num_output_tokens == when:
            raise failure

    broken = engine.submit("y", LONG, on_event=fail)
    assert engine.generate("x", LONG) == alone
    assert broken.finished
    after = _finished(engine)
    # Its answer was whole where the last event failed.
    assert after.get("error", 0) - before.get("error", 0) == (when == 1)
    assert sum(after.values()) - sum(before.values()) == 2, "each answer is counted once"


def _finished(engine: Engine) -> dict[str, float]:
    """Return how many answers ended how."""
    return {
        sample.labels["finished_reason"]: sample.value
        for sample in engine.metrics.samples()
        if sample.name == "request_success_total"
    }


@pytest.mark.parametrize("broken", ["apply", "on_step"])
def test_all_are_told_where_ending_them_fails_too(
    broken: str, llama: Artifact, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What made the loop fail fails again while it ends: nobody may wait for ever for that, nor be told twice."""
    engine = open_engine(llama, replace(SMALL, max_rows=3))
    queues: list[SimpleQueue[Event]] = [SimpleQueue() for _ in range(5)]
    go_on = Flag()
    requests = [engine.submit("x", LONG, on_event=each(queue.put, lambda _: go_on.wait(30))) for queue in queues]

    def fail(*_: Change) -> int:
        raise RuntimeError("broken")

    if broken == "apply":
        monkeypatch.setattr(engine._loop._decoder, "apply", fail)
    else:
        object.__setattr__(engine._loop._hooks, "on_step", fail)
    requests[0].cancel()
    go_on.set()
    for queue in queues:
        last = events_of(queue)[-1]
        assert last.finish_reason in {"error", "cancelled"}
        assert last.finish_reason == "cancelled" or last.error == (
            "the engine stopped after a failure (RuntimeError); start it again"
        )
    until(lambda: not engine.alive)
    engine.close()
    assert all(queue.empty() for queue in queues)


@pytest.mark.parametrize(
    "terms", [{"client": ["a"]}, {"client": None}, {"priority": "high"}, {"priority": 0.5}, {"priority": True}]
)
def test_terms_of_a_wrong_type_are_refused(terms: dict[str, Any], engine: Engine) -> None:
    with pytest.raises(RequestError, match=r"^(client must be a text|priority must be an integer), got "):
        engine.submit("x", LONG, on_event=print, **terms)
    assert engine.generate("x", LONG).num_output_tokens == 100


def test_more_answers_than_the_server_ever_takes_are_refused_for_good(llama: Artifact) -> None:
    with open_engine(llama, EngineConfig(max_rows=1, max_queue=2, threads=1)) as engine:
        with pytest.raises(RequestError, match="n is 4, but at most 3 sequences may run and wait") as refusal:
            engine.choices("x", SamplingParams(n=4))
        assert not isinstance(refusal.value, QueueFullError), "no later try can succeed"
        assert len(engine.choices("x", SamplingParams(n=3, max_tokens=2))) == 3


def test_the_other_answers_stop_where_one_has_failed(gpt2: Artifact, tmp_path: Path) -> None:
    """Even while its error is kept, and with it the frames that it came through."""
    params = replace(LONG, n=4, seed=1)
    with open_engine(gpt2) as engine:
        answers = [answer.token_ids for answer in engine.choices([5], params)]
    early, token = next(
        (answer, token)
        for answer in answers
        for token in answer[2:6]
        if token != 5 and sum(token in other[:50] for other in answers) == 1
    )
    assert early
    with open_engine(poisoned(gpt2, tmp_path / "poisoned", token, "nan")) as engine:
        with pytest.raises(EngineError, match="not finite") as kept:
            engine.choices([5], params)
        until(lambda: engine.stats().running == 0)
        assert engine.stats().generated_tokens < 4 * 50
        assert kept.value.__traceback__


def test_an_engine_let_go_of_takes_its_memory_along(llama: Artifact) -> None:
    engine = open_engine(llama)
    engine.generate("x", replace(LONG, logprobs=2, seed=1))
    kept = weakref.ref(engine._loop._decoder), weakref.ref(engine._codec)
    metrics = engine.metrics
    stream = engine.stream("y", LONG)
    next(stream)
    stream.close()
    engine.close()
    gc.disable()
    try:
        del engine
        assert [part() for part in kept] == [None, None]
    finally:
        gc.enable()
    assert {sample.value for sample in metrics.samples() if sample.name == "num_requests_running"} == {0}


def test_a_handle_and_a_listener_that_knows_it_keep_no_memory_of_an_engine_let_go_of(llama: Artifact) -> None:
    engine = open_engine(llama)
    kept = weakref.ref(engine._loop._decoder)
    handles: list[Request] = []

    def listen(_: Event) -> None:
        for handle in handles:
            handle.cancel()

    request = engine.submit("x", LONG, on_event=listen)
    handles.append(request)
    engine.close()
    gc.disable()
    try:
        del engine, listen
        assert kept() is None
    finally:
        gc.enable()
    assert request.finished
    request.cancel()


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"top_k": 2.5}, "top_k must be an integer"),
        ({"logprobs": 1.5}, "logprobs must be an integer"),
        ({"repetition_penalty": None}, "repetition_penalty must be a number"),
        ({"temperature": "hot"}, "temperature must be a number"),
        ({"stop": "end"}, "stop must be a list of texts"),
        ({"stop": (1,)}, "stop must be a text or a list of texts"),
        ({"stop_token_ids": (1.5,)}, "stop_token_ids: a token id must be an integer"),
        ({"logit_bias": ((1, "much"),)}, "logit_bias of a token must be a number"),
    ],
)
def test_parameters_of_a_wrong_type_never_reach_the_loop(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(RequestError, match=message):
        SamplingParams(**wrong)


@pytest.mark.parametrize("least", [0, 2])
def test_no_stop_string_counts_in_the_last_text_of_the_shortest_answer(least: int, engine: Engine) -> None:
    """What is held back until the end belongs to tokens that every answer has."""
    character = "你"
    tokens = engine._codec.spell(character)  # type: ignore[union-attr]
    half = tokens[:1] if len(tokens) > 1 else engine._codec.spell("\x80")[:1]  # type: ignore[union-attr]
    params = SamplingParams(
        max_tokens=2, min_tokens=least, stop=("\ufffd",), logit_bias=((half[0], 100.0),), ignore_eos=True
    )
    answer = engine.generate("x", params)
    assert answer.token_ids[0] == half[0]
    assert answer.finish_reason == ("length" if least else "stop")
    assert (character in answer.text or "\ufffd" in answer.text) == bool(least)


def test_each_softmax_runs_on_the_session_it_is_bound_to(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two threads that come first at once open a session each, of which one is forgotten."""
    monkeypatch.setattr(
        softmax_module,
        "_session",
        lambda: ort.InferenceSession(softmax_module._MODEL, providers=["CPUExecutionProvider"]),
    )
    softmax = Softmax()
    rows = [softmax(np.zeros(size, np.float32), peak=0.0)[0] for size in (4, 4, 8)]
    assert rows == [0.25, 0.25, 0.125]


def test_rows_run_again_on_what_they_had_where_logits_found_no_room(
    gpt2: Artifact, monkeypatch: pytest.MonkeyPatch
) -> None:
    class NoRoom:
        def numpy(self) -> None:
            raise MemoryError

    with open_engine(gpt2, cache="concatenated") as engine:
        asks: list[Ask] = [(prompt, LONG) for prompt in ("def ", "x", "import")]
        alone = [engine.generate(*ask).token_ids for ask in asks]
        session = cast("ConcatenatedDecoder", engine._loop._decoder)._session
        whole, failed = session.run_with_ort_values, list[int]()

        def run(outputs: list[str], feeds: dict[str, Any]) -> list[Any]:
            logits, *present = whole(outputs, feeds)
            rows = feeds["input_ids"].shape()[0]
            if rows > 1 and len(failed) < 3:
                failed.append(rows)
                return [NoRoom(), *present]
            return [logits, *present]

        monkeypatch.setattr(session, "run_with_ort_values", run)
        assert [tokens_of(events) for events in together(engine, asks)] == alone
        assert len(failed) == 3
