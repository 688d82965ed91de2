"""What happens to one request while others run: it leaves, it fails, it waits, or the loop ends under it."""

import random
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from queue import SimpleQueue

import pytest
from engines import SMALL, Ask, each, events_of, open_engine, poisoned, together, tokens_of

from deploykit.artifact import Artifact
from deploykit.config import EngineConfig
from deploykit.engine import Engine, EngineError, Event, QueueFullError, Request, SamplingParams
from deploykit.errors import RequestError

PROMPTS = ["def ", "for number in range(10):", "x", "Grüße, 你好", "    return f'"]
LONG = SamplingParams(max_tokens=100, ignore_eos=True)
ASKS: list[Ask] = [(prompt, LONG) for prompt in PROMPTS]


def until(true: Callable[[], bool]) -> None:
    """Wait for something another thread does; pytest's own time limit ends a wait in vain."""
    while not true():
        time.sleep(0.001)


def test_cancelling_frees_the_row_and_disturbs_nobody(engine: Engine) -> None:
    alone = [engine.generate(*ask).token_ids for ask in ASKS]
    handles: list[Request] = []
    told: list[tuple[Event, int]] = []

    def leave_after_three(event: Event) -> None:
        told.append((event, engine.stats().steps))
        if event.num_output_tokens == 3:
            handles[0].cancel()

    asks = [("greet", LONG), *ASKS]
    assert [
        tokens_of(answer) for answer in together(engine, asks, handles=handles, listeners={0: leave_after_three})
    ] == alone
    assert [event.finish_reason for event, _ in told] == [None, None, None, "cancelled"]
    assert told[-1][1] - told[-2][1] <= 2, "the row is free within two steps"
    handles[0].cancel()
    assert engine.generate(*ASKS[2]).token_ids == alone[2], "a second cancel does nothing"
    assert len(told) == 4


def test_leaving_a_stream_early_cancels_it(engine: Engine) -> None:
    left = threading.Event()

    def wait(event: Event) -> None:
        """First for the other to be here, so that its first token is among the next; then for it to be gone."""
        if event.num_output_tokens == 1:
            until(lambda: engine.stats().waiting == 1)
        elif event.num_output_tokens == 5:
            left.wait(30)

    engine.submit("x", LONG, on_event=wait)
    stream = engine.stream("def ", LONG)
    next(stream)
    stream.close()
    left.set()
    until(lambda: engine.stats().running == 0)
    assert engine.stats().generated_tokens < 100 + 20


def test_a_full_queue_refuses_at_once_and_what_waits_can_leave_unrun(llama: Artifact) -> None:
    with Engine.open(llama.path, EngineConfig(max_rows=1, max_queue=1, threads=1)) as engine:
        go_on = threading.Event()
        events: SimpleQueue[Event] = SimpleQueue()
        engine.submit("x", replace(LONG, max_tokens=2), on_event=each(lambda _: go_on.wait(30)))
        waiting = engine.submit("y", LONG, on_event=events.put)
        with pytest.raises(QueueFullError, match=r"the queue is full: .* try again later"):
            engine.submit("z", LONG, on_event=events.put)
        assert issubclass(QueueFullError, RequestError)
        waiting.cancel()
        go_on.set()
        (only,) = events_of(events)
        assert (only.finish_reason, only.num_output_tokens, only.text) == ("cancelled", 0, "")
        assert engine.stats().generated_tokens <= 2
        assert engine.generate("z", LONG).num_output_tokens == 100


@pytest.mark.parametrize("how", ["nan", "raise"])
@pytest.mark.parametrize("cache", ["shared", "concatenated"])
def test_a_request_that_the_model_fails_on_fails_alone(how: str, cache: str, gpt2: Artifact, tmp_path: Path) -> None:
    """One request writes a token that the model can't go on from, in a batch with others."""
    with open_engine(gpt2, cache=cache) as engine:
        alone = [engine.generate(*ask).token_ids for ask in ASKS]
        others = {5, *(token for prompt in PROMPTS for token in engine._codec.encode(prompt))}  # type: ignore[union-attr]
    victim, place, token = next(
        (victim, place, token)
        for victim, tokens in enumerate(alone)
        for place, token in enumerate(tokens[:-1])
        # Not the first row: ending that one would be right by chance.
        if victim > 0
        and place > 5
        and token not in others
        and all(token not in alone[i] for i in range(len(alone)) if i != victim)
        if token not in tokens[:place]
    )
    with open_engine(poisoned(gpt2, tmp_path / "poisoned", token, how), cache=cache) as engine:  # type: ignore[arg-type]
        answers = together(engine, ASKS)
        for number, answer in enumerate(answers):
            if number == victim:
                assert tokens_of(answer) == alone[victim][: place + 1]
                assert answer[-1].finish_reason == "error"
                assert answer[-1].error
                assert "the model" in answer[-1].error
            else:
                assert tokens_of(answer) == alone[number]
        with pytest.raises(EngineError, match="the model"):
            engine.generate([7, token, 8])
        assert engine.generate(*ASKS[(victim + 1) % 5]).token_ids == alone[(victim + 1) % 5], "the engine goes on"
        assert engine.alive
        assert engine.stats().running == 0


def test_a_listener_that_fails_ends_its_own_request(engine: Engine, caplog: pytest.LogCaptureFixture) -> None:
    alone = [engine.generate(*ask).token_ids for ask in ASKS]
    told: list[Event] = []

    def fail(event: Event) -> None:
        told.append(event)
        if len(told) == 3:
            raise ConnectionError("client 10.0.0.7 is gone")

    answers = together(engine, [("greet", LONG), *ASKS], listeners={0: fail})
    assert [tokens_of(answer) for answer in answers] == alone
    assert len(told) == 3, "it isn't told again"
    assert "its listener failed: ConnectionError" in caplog.text
    assert "10.0.0.7" not in caplog.text
    until(lambda: engine.stats().running == 0)


def test_closing_cancels_what_is_open(llama: Artifact) -> None:
    engine = Engine.open(llama.path, EngineConfig(max_rows=1, threads=1))
    running, waiting = SimpleQueue[Event](), SimpleQueue[Event]()
    engine.submit("x", LONG, on_event=each(running.put, lambda _: until(lambda: not engine.alive)))
    engine.submit("y", LONG, on_event=waiting.put)
    running.get(timeout=30)
    engine.close()
    engine.close()
    assert events_of(running)[-1].finish_reason == "cancelled"
    assert events_of(waiting)[-1].finish_reason == "cancelled"
    assert not engine.alive
    with pytest.raises(EngineError, match="the engine is closed; open it again"):
        engine.submit("x", LONG, on_event=running.put)
    assert not [thread for thread in threading.enumerate() if thread.name == "deploykit-engine"]


def test_a_listener_may_close_the_engine_and_submit_more(llama: Artifact) -> None:
    engine = Engine.open(llama.path, SMALL)
    second: SimpleQueue[Event] = SimpleQueue()

    def first(event: Event) -> None:
        if event.finish_reason:
            engine.submit("y", LONG, on_event=each(second.put, lambda _: engine.close()))

    engine.submit("x", replace(LONG, max_tokens=2), on_event=first)
    assert events_of(second)[-1].finish_reason == "cancelled"


def test_beats_while_idle_and_at_every_step(llama: Artifact) -> None:
    beats: list[float] = []
    with Engine.open(llama.path, SMALL, on_beat=lambda: beats.append(time.monotonic())) as engine:
        until(lambda: len(beats) >= 3)
        before = len(beats)
        answer = engine.generate("x", LONG)
        assert len(beats) - before >= answer.num_output_tokens


def test_a_failure_of_the_loop_ends_every_request_and_says_so(
    llama: Artifact, caplog: pytest.LogCaptureFixture
) -> None:
    broken = threading.Event()

    def beat() -> None:
        if broken.is_set():
            raise OSError("the heartbeat's file is gone")

    engine = Engine.open(llama.path, EngineConfig(max_rows=1, threads=1), on_beat=beat)
    events: list[SimpleQueue[Event]] = [SimpleQueue(), SimpleQueue()]
    both_are_here = threading.Event()
    engine.submit("x", LONG, on_event=each(events[0].put, lambda _: both_are_here.wait(30), lambda _: broken.set()))
    engine.submit("y", LONG, on_event=events[1].put)
    both_are_here.set()
    for queue in events:
        last = events_of(queue)[-1]
        assert last.finish_reason == "error"
        assert last.error == "the engine stopped after a failure (OSError); start it again"
    assert not engine.alive
    with pytest.raises(EngineError, match="stopped after a failure"):
        engine.generate("x")
    engine.close()
    assert "the engine stopped after a failure (OSError)" in caplog.text


def test_a_crowd_that_comes_and_goes_gets_the_tokens_of_each_alone(llama: Artifact) -> None:
    """Eight threads, a hundred requests, one in five of which leaves early: no token lost, doubled or crossed."""
    dice = random.Random(0)
    asks = [
        (
            [dice.randrange(3, 318) for _ in range(dice.randrange(1, 30))],
            SamplingParams(max_tokens=dice.randrange(1, 30), seed=dice.choice([None, 7]), ignore_eos=True),
        )
        for _ in range(100)
    ]
    patience = [dice.randrange(1, 10) if dice.random() < 0.2 else 100 for _ in asks]
    with Engine.open(llama.path, EngineConfig(max_rows=5, prefill_chunk=4, threads=1)) as engine:
        alone = [engine.generate(*ask).token_ids for ask in asks]
        answers: dict[int, tuple[int, ...]] = {}

        def ask_some(first: int) -> None:
            for number in range(first, len(asks), 8):
                tokens: list[int] = []
                stream = engine.stream(*asks[number])
                for event in stream:
                    tokens += event.token_ids
                    if len(tokens) >= patience[number]:
                        break
                stream.close()
                answers[number] = tuple(tokens)

        threads = [threading.Thread(target=ask_some, args=(first,)) for first in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        until(lambda: engine.stats().running == 0)
        assert answers == {number: tokens[: patience[number]] for number, tokens in enumerate(alone)}
        assert engine.stats().waiting == 0
