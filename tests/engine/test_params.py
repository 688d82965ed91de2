"""Parameters from values nobody has checked."""

import json
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from deploykit.engine.params import SamplingParams, check_params
from deploykit.errors import RequestError


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("max_tokens", -1, r"max_tokens must be 1 to 2147483647, got -1"),
        ("max_tokens", 0, r"max_tokens must be 1 to 2147483647, got 0"),
        ("max_tokens", 2**31, r"max_tokens must be 1 to 2147483647, got 2147483648"),
        ("max_tokens", 2**63, r"max_tokens .* got 9223372036854775808"),
        ("max_tokens", 10**50, r"max_tokens .* got 1000.*…"),
        pytest.param("max_tokens", 10**5000, r"max_tokens .* a value of type int too long to show", id="5000 digits"),
        ("max_tokens", True, r"max_tokens must be an integer, got True"),
        ("max_tokens", 1.0, r"max_tokens must be an integer, got 1.0"),
        ("max_tokens", "5", r"max_tokens must be an integer, got '5'"),
        ("temperature", math.nan, r"temperature must be 0 to 100, got nan"),
        ("temperature", math.inf, r"temperature must be 0 to 100, got inf"),
        ("temperature", 10**400, r"temperature must be 0 to 100, got inf"),
        ("temperature", -0.1, r"temperature must be 0 to 100, got -0.1"),
        ("temperature", True, r"temperature must be a number, got True"),
        ("temperature", "\ud800" * 50, r"temperature must be a number, got '\\ud800"),
        ("top_k", -2, r"top_k must be -1 to"),
        ("top_k", 2**31, r"top_k must be -1 to"),
        ("top_p", 0, r"top_p must be above 0 and at most 1, got 0"),
        ("top_p", 1.01, r"top_p must be 0 to 1, got 1.01"),
        ("top_p", math.nan, r"top_p must be 0 to 1, got nan"),
        ("seed", -1, r"seed must be 0 to 9223372036854775807, got -1"),
        ("seed", 2**63, r"seed must be 0 to 9223372036854775807"),
        ("stop", "", r"stop must be at most 16 texts, none empty; got 1"),
        ("stop", ["a"] * 17, r"stop must be at most 16 texts, none empty; got 17"),
        ("stop", ["a", 1], r"stop must be a text or a list of texts"),
        ("stop", {"a": 1}, r"stop must be a text or a list of texts"),
        ("min_tokens", -1, r"min_tokens must be 0 to 2147483647, got -1"),
        ("min_tokens", 65, r"min_tokens must be at most max_tokens, 64; got 65"),
        ("min_p", -0.1, r"min_p must be 0 to 1, got -0.1"),
        ("min_p", math.nan, r"min_p must be 0 to 1, got nan"),
        ("min_p", [0.1], r"min_p must be a number, got \[0.1\]"),
        ("repetition_penalty", 0, r"repetition_penalty must be 0.01 to 100, got 0.0"),
        ("repetition_penalty", math.inf, r"repetition_penalty must be 0.01 to 100, got inf"),
        ("presence_penalty", 2.1, r"presence_penalty must be -2 to 2, got 2.1"),
        ("presence_penalty", "1", r"presence_penalty must be a number, got '1'"),
        ("frequency_penalty", -2.1, r"frequency_penalty must be -2 to 2, got -2.1"),
        ("frequency_penalty", math.nan, r"frequency_penalty must be -2 to 2, got nan"),
        ("logit_bias", [[1, 2]], r"logit_bias must be an object of token ids and numbers, got \[\[1, 2\]\]"),
        ("logit_bias", {"1": 101}, r"logit_bias of token 1 must be -100 to 100, got 101.0"),
        ("logit_bias", {"1": math.nan}, r"logit_bias of token 1 must be -100 to 100, got nan"),
        ("logit_bias", {"1": None}, r"logit_bias of a token must be a number, got None"),
        ("logit_bias", {"-1": 1}, r"logit_bias: a token id must be an integer, got '-1'"),
        ("logit_bias", {"²": 1}, r"logit_bias: a token id must be an integer, got '\\xb2'"),
        ("logit_bias", {"9" * 5000: 1}, r"logit_bias: a token id must be an integer, got '999"),
        ("logit_bias", {str(2**31): 1}, r"logit_bias: a token id must be 0 to 2147483647, got 2147483648"),
        ("logit_bias", {"1": 1, "01": 2}, r"logit_bias must be at most 300 token ids, all different; got 2"),
        ("logit_bias", {str(i): 1 for i in range(301)}, r"logit_bias must be at most 300 token ids.* got 301"),
        ("bad_words", ["a", ""], r"bad_words must be at most 64 texts, none empty; got 2"),
        ("bad_words", ["a"] * 65, r"bad_words must be at most 64 texts, none empty; got 65"),
        ("bad_words", [["a"]], r"bad_words must be a text or a list of texts"),
        ("stop_token_ids", 5, r"stop_token_ids must be a list of token ids, got 5"),
        ("stop_token_ids", [True], r"stop_token_ids: a token id must be an integer, got True"),
        ("stop_token_ids", [-1], r"stop_token_ids: a token id must be 0 to 2147483647, got -1"),
        ("stop_token_ids", [*range(65)], r"stop_token_ids must be at most 64 token ids, all different; got 65"),
        ("logprobs", 21, r"logprobs must be 0 to 20, got 21"),
        ("logprobs", True, r"logprobs must be an integer, got True"),
        ("n", 0, r"n must be 1 to 16, got 0"),
        ("n", 17, r"n must be 1 to 16, got 17"),
        ("ignore_eos", 1, r"ignore_eos must be true or false, got 1"),
        ("do_sample", "yes", r"do_sample must be true or false, got 'yes'"),
        ("best_of", 2, r"unknown parameter 'best_of'; those known are max_tokens, min_tokens, temp"),
    ],
)
def test_names_the_field_its_value_and_the_bounds(name: str, value: Any, message: str) -> None:
    with pytest.raises(RequestError, match=message) as caught:
        SamplingParams.from_mapping({name: value})
    assert "\n" not in str(caught.value)
    assert len(str(caught.value).encode()) < 300


def test_checks_values_given_in_python_too() -> None:
    with pytest.raises(RequestError, match="max_tokens"):
        SamplingParams(max_tokens=0)
    with pytest.raises(RequestError, match="stop"):
        SamplingParams(stop=("",))
    with pytest.raises(RequestError, match="logit_bias"):
        SamplingParams(logit_bias=((3, math.inf),))


def test_takes_transformers_names() -> None:
    assert SamplingParams.from_mapping({"max_new_tokens": 3}).max_tokens == 3
    assert SamplingParams.from_mapping({"do_sample": True}).effective_temperature == 1
    assert SamplingParams.from_mapping({"do_sample": False, "temperature": 0.7}).effective_temperature == 0
    with pytest.raises(RequestError, match="two names of one parameter"):
        SamplingParams.from_mapping({"max_new_tokens": 3, "max_tokens": 3})
    with pytest.raises(RequestError, match="do_sample is true, but temperature 0"):
        SamplingParams.from_mapping({"do_sample": True, "temperature": 0})


def test_takes_numpy_scalars_and_null() -> None:
    given = {"max_tokens": np.int32(3), "temperature": np.float32(0.5), "seed": np.int64(2**62), "top_k": None}
    params = SamplingParams.from_mapping(given)
    assert params == SamplingParams(max_tokens=3, temperature=0.5, seed=2**62)
    assert type(params.max_tokens) is int


@pytest.mark.parametrize(
    ("given", "temperature"),
    [
        ({}, 0),
        ({"temperature": 0}, 0),
        ({"temperature": 0, "top_k": 5, "seed": 1}, 0),
        ({"temperature": 0.3}, 0.3),
        ({"top_k": 5}, 1),
        ({"top_p": 0.5}, 1),
        ({"min_p": 0.1}, 1),
        ({"seed": 0}, 1),
        ({"n": 2}, 1),
        ({"n": 2, "temperature": 0}, 0),
        ({"repetition_penalty": 1.5, "logprobs": 3}, 0),
    ],
)
def test_is_greedy_unless_sampling_is_asked_for(given: dict[str, Any], temperature: float) -> None:
    assert SamplingParams.from_mapping(given).effective_temperature == temperature


def test_reads_token_ids_and_biases_as_json_has_them() -> None:
    text = '{"logit_bias": {"7": -100, "0": 1.5}, "stop_token_ids": [3, 4], "bad_words": "no"}'
    params = SamplingParams.from_mapping(json.loads(text))
    assert params == SamplingParams(logit_bias=((7, -100.0), (0, 1.5)), stop_token_ids=(3, 4), bad_words=("no",))
    assert SamplingParams.from_mapping({"logit_bias": {7: 1}}) == SamplingParams(logit_bias=((7, 1.0),))


@pytest.mark.parametrize("given", [{"stop_token_ids": [100]}, {"logit_bias": {"100": 1}}])
def test_refuses_token_ids_that_the_model_does_not_have(given: dict[str, Any]) -> None:
    params = SamplingParams.from_mapping(given)
    check_params(params, vocab_size=101)
    with pytest.raises(RequestError, match=r": a token id of this model must be 0 to 99, got 100"):
        check_params(params, vocab_size=100)


NAMES = st.sampled_from([*SamplingParams.__dataclass_fields__, "max_new_tokens", "do_sample"])
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters(codec=None)),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=5,
)


@given(st.dictionaries(NAMES | st.text(), JSON))
def test_any_json_gives_sound_parameters_or_one_line(given: dict[str, Any]) -> None:
    try:
        params = SamplingParams.from_mapping(given)
    except RequestError as error:
        line = str(error)
        assert "\n" not in line
        line.encode()
    else:
        assert 1 <= params.max_tokens < 2**31
        assert 0 <= params.effective_temperature <= 100
