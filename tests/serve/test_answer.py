"""Events to outputs: nothing lost, doubled or out of order, however they are put together."""

import json
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deploykit.engine import Timing
from deploykit.serve.answer import Answer
from deploykit.serve.protocol import Query

WANTED = frozenset({"finish_reason", "num_input_tokens", "num_output_tokens"})


@dataclass
class Token:
    token_id: int
    token: str
    logprob: float
    top: list[tuple[int, str, float]] = field(default_factory=list)


@dataclass
class Told:
    text: str
    num_output_tokens: int
    finish_reason: str | None = None
    index: int = 0
    logprobs: list[Token] = field(default_factory=list)
    num_input_tokens: int = 7
    cumulative_logprob: float | None = None
    timing: Timing | None = None


def ask(**given_: Any) -> Query:
    return Query(**{"prompt": "p", "stream": True, "prepend": False, "sampling": {}, "wanted": WANTED, **given_})


STEPS = [Told("é", 1), Told("", 2), Told("b", 4, "stop")]


def test_a_stream_tells_each_event_and_the_tokens_of_that_event() -> None:
    answer = Answer(ask())
    sent = [answer.add([step]) for step in STEPS]
    assert [part and part["text_output"] for part in sent] == [("é",), ("",), ("b",)]
    assert [part and part["finish_reason"] for part in sent] == [("None",), ("None",), ("stop",)]
    assert [part and part["num_output_tokens"] for part in sent] == [(1,), (1,), (2,)]


def test_events_that_come_together_are_one_response() -> None:
    sent = Answer(ask()).add(STEPS)
    assert sent == {
        "text_output": ("éb",),
        "finish_reason": ("stop",),
        "num_input_tokens": (7,),
        "num_output_tokens": (4,),
    }


def test_without_a_stream_the_last_event_tells_all() -> None:
    answer = Answer(ask(stream=False, prepend=True))
    first, second, last = (answer.add([step]) for step in STEPS)
    assert (first, second) == (None, None)
    assert last
    assert last["text_output"] == ("péb",)
    assert last["num_output_tokens"] == (4,)


def test_an_interval_holds_back_all_but_the_first_and_the_last() -> None:
    answer = Answer(ask(interval=3))
    steps = [Told(text, at) for at, text in enumerate("abcdef", 1)] + [Told("g", 7, "length")]
    sent = [answer.add([step]) for step in steps]
    assert [part and part["text_output"] for part in sent] == [("a",), None, None, ("bcd",), None, None, ("efg",)]


def test_each_response_tells_of_every_choice() -> None:
    answer = Answer(ask(prepend=True, stream=False), n=2)
    assert answer.add([Told("a", 1), Told("x", 1, "stop", index=1)]) is None
    assert not answer.finished
    sent = answer.add([Told("b", 2, "length")])
    assert sent
    assert (sent["text_output"], sent["finish_reason"]) == (("pab", "px"), ("length", "stop"))
    assert (sent["num_output_tokens"], sent["num_input_tokens"]) == ((2, 1), (7,))


def test_a_choice_that_has_ended_keeps_its_reason() -> None:
    answer = Answer(ask(), n=2)
    first = answer.add([Told("a", 1), Told("x", 1, "stop", index=1)])
    second = answer.add([Told("b", 2, "length")])
    assert first
    assert first["finish_reason"] == ("None", "stop")
    assert second
    assert (second["text_output"], second["finish_reason"]) == (("b", ""), ("length", "stop"))


def test_log_probabilities_are_written_as_the_vllm_backend_writes_them() -> None:
    answer = Answer(ask(wanted=frozenset({"logprobs", "cumulative_logprob"}), logprobs=True))
    among = Token(5, " a", -1.0, [(6, "b", -0.5), (5, " a", -1.0)])
    outside = Token(9, "z", -float("inf"), [(6, "b", -0.5)])
    sent = answer.add([Told("a", 1, logprobs=[among], cumulative_logprob=-1.0), Told("z", 2, logprobs=[outside])])
    assert sent
    assert sent["cumulative_logprob"] == (-1.0,)
    assert [list(token) for token in json.loads(sent["logprobs"][0])] == [["5", "6"], ["9", "6"]]
    assert json.loads(sent["logprobs"][0]) == [
        {
            "5": {"logprob": -1.0, "rank": 2, "decoded_token": " a"},
            "6": {"logprob": -0.5, "rank": 1, "decoded_token": "b"},
        },
        {
            "9": {"logprob": -9999.0, "rank": None, "decoded_token": "z"},
            "6": {"logprob": -0.5, "rank": 1, "decoded_token": "b"},
        },
    ]
    assert (answer.add([Told("", 2, "stop")]) or {})["logprobs"] == ("[]",)


def test_log_probabilities_nobody_gave_a_number_for_are_null() -> None:
    answer = Answer(ask(wanted=frozenset({"logprobs"})))
    assert (answer.add([Told("a", 1, logprobs=[Token(5, "a", -1.0)])]) or {})["logprobs"] == ("null",)


@pytest.mark.parametrize("stream", [True, False])
@given(
    st.lists(st.lists(st.text(max_size=3), min_size=1, max_size=6), min_size=1, max_size=4),
    st.integers(1, 5),
    st.randoms(use_true_random=False),
)
def test_nothing_is_lost_doubled_or_reordered(stream: bool, texts: list[list[str]], interval: int, random: Any) -> None:
    answer = Answer(ask(stream=stream, interval=interval), n=len(texts))
    waiting = [
        [Told(text, at, "length" if at == len(choice) else None, index=index) for at, text in enumerate(choice, 1)]
        for index, choice in enumerate(texts)
    ]
    got, counted, responses = [""] * len(texts), [0] * len(texts), 0
    while any(waiting):
        group = [
            random.choice(left).pop(0)
            for _ in range(random.randint(1, 4))
            if (left := [choice for choice in waiting if choice])
        ]
        if (sent := answer.add(group)) is not None:
            responses += 1
            got = [before + new for before, new in zip(got, sent["text_output"], strict=True)]
            counted = [before + new for before, new in zip(counted, sent["num_output_tokens"], strict=True)]
    assert answer.finished
    assert got == ["".join(choice) for choice in texts]
    assert counted == [len(choice) for choice in texts]
    assert stream or responses == 1
