"""Parameters from values nobody has checked."""

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from deploykit.engine import SamplingParams
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
        ("ignore_eos", 1, r"ignore_eos must be true or false, got 1"),
        ("do_sample", "yes", r"do_sample must be true or false, got 'yes'"),
        ("best_of", 2, r"unknown parameter 'best_of'; those known are max_tokens, temperature, top_k"),
    ],
)
def test_names_the_field_its_value_and_the_bounds(name: str, value: Any, message: str) -> None:
    with pytest.raises(RequestError, match=message) as caught:
        SamplingParams.from_mapping({name: value})
    assert "\n" not in str(caught.value)
    assert len(str(caught.value).encode()) < 200


def test_checks_values_given_in_python_too() -> None:
    with pytest.raises(RequestError, match="max_tokens"):
        SamplingParams(max_tokens=0)
    with pytest.raises(RequestError, match="stop"):
        SamplingParams(stop=("",))


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
        ({"seed": 0}, 1),
    ],
)
def test_is_greedy_unless_sampling_is_asked_for(given: dict[str, Any], temperature: float) -> None:
    assert SamplingParams.from_mapping(given).effective_temperature == temperature


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
