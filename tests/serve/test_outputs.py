"""A real Triton on a tiny model: every parameter gets through, and every output comes back."""

import json
from collections.abc import Iterator
from typing import Any

import pytest
from triton_calls import generate, stream

from deploykit.artifact import Artifact
from deploykit.engine import Engine, SamplingParams
from deploykit.serve import LocalServer

pytestmark = pytest.mark.triton

PROMPT = "def greet(name):"
SAMPLED: dict[str, Any] = {
    "max_tokens": 12,
    "min_tokens": 3,
    "temperature": 0.9,
    "top_k": 40,
    "top_p": 0.95,
    "min_p": 0.01,
    "repetition_penalty": 1.2,
    "presence_penalty": 0.5,
    "frequency_penalty": 0.25,
    "ignore_eos": True,
    "n": 3,
}
IN_JSON_ONLY: dict[str, Any] = {
    "seed": 5,
    "logit_bias": {"40": 4.0},
    "bad_words": ["e"],
    "stop_token_ids": [7],
    "logprobs": 2,
}
ALL_OUTPUTS = {
    f"return_{name}": True
    for name in ("finish_reason", "cumulative_logprob", "logprobs", "num_input_tokens", "num_output_tokens")
}


@pytest.fixture(scope="module")
def engine(packaged: Artifact) -> Iterator[Engine]:
    with Engine.open(packaged.path) as running:
        yield running


@pytest.mark.parametrize("streams", [False, True])
def test_choices_come_back_as_the_engine_makes_them(server: LocalServer, engine: Engine, streams: bool) -> None:
    expected = engine.choices(PROMPT, SamplingParams.from_mapping({**SAMPLED, **IN_JSON_ONLY}))
    assert len({choice.text for choice in expected}) > 1
    asked = {**SAMPLED, "sampling_parameters": json.dumps(IN_JSON_ONLY), "exclude_input_in_output": True}
    with stream(server, text_input=PROMPT, stream=streams, **asked, **ALL_OUTPUTS) as responses:
        got = list(responses)
    for at, choice in enumerate(expected):
        assert b"".join(part["text_output"][at] for part in got).decode() == choice.text
        assert got[-1]["finish_reason"][at].decode() == choice.finish_reason
        assert sum(part["num_output_tokens"][at] for part in got) == choice.num_output_tokens
        assert got[-1]["cumulative_logprob"][at] == pytest.approx(choice.cumulative_logprob, rel=1e-6)
        told = [token for part in got for token in json.loads(part["logprobs"][at])]
        assert [next(iter(token)) for token in told] == [str(token) for token in choice.token_ids]
        for token, known in zip(told, choice.logprobs, strict=True):
            assert token[str(known.token_id)]["logprob"] == known.logprob
            assert token[str(known.token_id)]["decoded_token"] == known.token
            likeliest = {str(token_id): rank for rank, (token_id, _, _) in enumerate(known.top, 1)}
            assert {key: token[key]["rank"] for key in likeliest} == likeliest
    assert {part["num_input_tokens"][0] for part in got} == {expected[0].num_input_tokens}


def test_scalars_are_fields_of_generates_json(server: LocalServer, engine: Engine) -> None:
    fields = {**SAMPLED, "seed": 5}
    status, body = generate(server, text_input=PROMPT, exclude_input_in_output=True, client="c", priority=1, **fields)
    expected = engine.choices(PROMPT, SamplingParams.from_mapping(fields))
    assert (status, json.loads(body)["text_output"]) == (200, [choice.text for choice in expected])


def test_the_prompt_stands_before_every_choice(server: LocalServer) -> None:
    with stream(server, text_input=PROMPT, max_tokens=1, n=2) as responses:
        (only,) = responses
    assert all(text.startswith(PROMPT.encode()) for text in only["text_output"])


def test_log_probabilities_without_a_number_are_null_and_their_sum_is_there(server: LocalServer) -> None:
    with stream(server, text_input=PROMPT, max_tokens=2, ignore_eos=True, **ALL_OUTPUTS) as responses:
        (only,) = responses
    assert only["logprobs"] == [b"null"]
    assert only["cumulative_logprob"][0] < 0


@pytest.mark.parametrize(
    "asked",
    [
        {"stream_interval": 4},
        {"sampling_parameters": '{"stream_interval": 4}'},
        {"parameters": {"stream_interval": 4}},
    ],
)
def test_an_interval_sends_the_first_token_at_once_then_so_many_together(
    slow_server: LocalServer, asked: dict[str, Any]
) -> None:
    common = {"text_input": PROMPT, "stream": True, "max_tokens": 11, "ignore_eos": True}
    with stream(slow_server, return_num_output_tokens=True, **common, **asked) as responses:
        first, *later, last = [part["num_output_tokens"][0] for part in responses]
    assert (first, first + sum(later) + last) == (1, 11)
    # More than four only where the machine was too busy to send them at once.
    assert len(later) <= 2
    assert all(number >= 4 for number in later)
