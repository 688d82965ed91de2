"""Tensors to a query."""

import json
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from deploykit.engine import SamplingParams
from deploykit.errors import RequestError
from deploykit.package.model_config import INPUTS
from deploykit.serve.prompt import PROMPTS, Chat
from deploykit.serve.protocol import Query, read_query

DTYPES = {
    "TYPE_INT32": np.int32,
    "TYPE_INT64": np.int64,
    "TYPE_FP32": np.float32,
    "TYPE_BOOL": np.bool_,
    "TYPE_STRING": np.object_,
}
KINDS = {name: DTYPES[kind] for name, kind, _, _ in INPUTS}


def tensors(**values: Any) -> dict[str, Any]:
    def tensor(name: str, value: Any) -> Any:
        if isinstance(value, np.ndarray):
            return value
        if isinstance(value, str | bytes | list):
            items = value if isinstance(value, list) else [value]
            coded = [item.encode() if isinstance(item, str) else item for item in items]
            return np.array(coded, np.object_)
        return np.array([value], np.bool_ if isinstance(value, bool) else KINDS.get(name, np.int32))

    return {name: tensor(name, value) for name, value in values.items()}


def test_a_prompt_alone_is_answered_whole_with_the_prompt_before_it() -> None:
    query = read_query(tensors(text_input="Grüße 你好\0"))
    assert query == Query(prompt="Grüße 你好\0", stream=False, prepend=True, sampling={}, wanted=frozenset())


@pytest.mark.parametrize("ids", [[5, 0, 2**63 - 1], [-1], [], [7] * 5000])
def test_token_ids_are_taken_as_they_are_and_not_given_back(ids: list[int]) -> None:
    query = read_query(tensors(input_ids=np.array(ids, np.int64)))
    assert isinstance(query.prompt, Sequence)
    assert list(query.prompt) == ids
    assert (query.prepend, query.prefix) == (False, "")


@pytest.mark.parametrize(("given_", "tools"), [({}, None), ({"tools": "[]"}, "[]")])
def test_a_conversation_is_left_as_it_came(given_: dict[str, str], tools: str | None) -> None:
    query = read_query(tensors(messages='[{"role": "user"', **given_))
    assert (query.prompt, query.prefix) == (Chat(messages='[{"role": "user"', tools=tools), "")


@pytest.mark.parametrize(
    ("given_", "prepend"),
    [
        ({}, True),
        ({"stream": True}, False),
        ({"stream": False}, True),
        ({"exclude_input_in_output": True}, False),
        ({"exclude_input_in_output": True, "stream": True}, False),
    ],
)
def test_the_prompt_is_prepended_as_the_vllm_backend_does(given_: dict[str, bool], prepend: bool) -> None:
    assert read_query(tensors(text_input="x", **given_)).prepend is prepend


def test_scalars_json_and_request_parameters_come_together() -> None:
    query = read_query(
        tensors(text_input="x", temperature=0.7, stop=["a", "b"], sampling_parameters='{"top_k": "5", "seed": 1}'),
        '{"ignore_eos": true, "triton_enable_empty_final_response": true}',
    )
    assert query.sampling == {"temperature": 0.7, "stop": ["a", "b"], "top_k": 5, "seed": 1, "ignore_eos": True}


def test_every_declared_input_is_known() -> None:
    values: dict[type, Any] = {np.int32: 1, np.int64: 1, np.float32: 0.5, np.bool_: True, np.object_: "{}"}
    others = {name: values[dtype] for name, dtype in KINDS.items() if name not in PROMPTS[:2]}
    query = read_query(tensors(**{**others, "exclude_input_in_output": True}))
    assert query.prompt == Chat(messages="{}", tools="{}")
    params = SamplingParams.from_mapping(query.sampling)
    assert (params.min_p, params.min_tokens, params.repetition_penalty, params.n) == (0.5, 1, 0.5, 1)
    assert (query.client, query.priority, query.timeout, query.interval) == ("{}", 1, 0.5, 1)
    assert query.wanted == {
        "finish_reason",
        "cumulative_logprob",
        "logprobs",
        "num_input_tokens",
        "num_output_tokens",
    }


EVERYTHING: dict[str, Any] = {
    "max_tokens": 9,
    "min_tokens": 2,
    "temperature": 0.5,
    "top_k": 4,
    "top_p": 0.9,
    "min_p": 0.1,
    "repetition_penalty": 1.1,
    "presence_penalty": 0.2,
    "frequency_penalty": 0.3,
    "logit_bias": {"5": -1.5},
    "bad_words": ["7"],
    "seed": 3,
    "stop": ["8"],
    "stop_token_ids": [6],
    "ignore_eos": True,
    "logprobs": 2,
    "n": 3,
}
TERMS: dict[str, Any] = {
    "client": "12",
    "priority": -1,
    "timeout": 2.5,
    "stream_interval": 4,
    "id": "7",
    "traceparent": "1",
    "tracestate": "2=3",
}


def test_sampling_parameters_take_everything() -> None:
    query = read_query(tensors(text_input="x", sampling_parameters=json.dumps({**EVERYTHING, **TERMS})))
    params = SamplingParams.from_mapping(query.sampling)
    assert params == SamplingParams.from_mapping(EVERYTHING)
    assert params.bad_words == ("7",)
    assert params.logit_bias == ((5, -1.5),)
    assert (query.client, query.priority, query.timeout, query.interval) == ("12", -1, 2.5, 4)
    assert (query.request_id, query.traceparent, query.tracestate) == ("7", "1", "2=3")
    assert read_query(tensors(text_input="x"), '{"id": "8"}', request_id="9").request_id == "9"


def test_what_nobody_gave_is_as_the_engine_has_it() -> None:
    query = read_query(tensors(text_input="x", sampling_parameters='{"client": null, "timeout": null}'))
    assert (query.client, query.priority, query.timeout, query.interval) == ("", 0, None, 1)


@pytest.mark.parametrize("place", ["tensor", "parameters"])
@pytest.mark.parametrize("value", [True, "true"])
def test_a_question_for_what_the_engine_is_has_no_prompt(place: str, value: bool | str) -> None:
    asked = json.dumps({"describe": value})
    given_, own = (tensors(sampling_parameters=asked), "{}") if place == "tensor" else ({}, asked)
    query = read_query(given_, own)
    assert (query.describe, query.prompt, query.sampling) == (True, "", {})


@pytest.mark.parametrize("value", [False, None])
def test_what_does_not_ask_it_needs_a_prompt(value: bool | None) -> None:
    own = json.dumps({"describe": value})
    assert not read_query(tensors(text_input="x"), own).describe
    with pytest.raises(RequestError, match="the prompt is missing"):
        read_query({}, own)


def test_tritons_own_timeout_counts() -> None:
    assert read_query(tensors(text_input="x"), timeout=1.5).timeout == 1.5
    with pytest.raises(RequestError, match=r"timeout is given twice, as 2\.0 and as 1\.5"):
        read_query(tensors(text_input="x", timeout=2.0), timeout=1.5)


@pytest.mark.parametrize(("given_", "told"), [({}, False), ({"sampling_parameters": '{"logprobs": 3}'}, True)])
def test_a_sum_of_log_probabilities_makes_the_engine_add_them_up(given_: dict[str, str], told: bool) -> None:
    query = read_query(tensors(text_input="x", return_cumulative_logprob=True, **given_))
    assert query.sampling["logprobs"] == (3 if told else 0)
    assert query.logprobs is told


@pytest.mark.parametrize("name", ["stop", "bad_words", "client"])
def test_a_text_that_spells_a_number_stays_a_text(name: str) -> None:
    query = read_query(tensors(text_input="x", sampling_parameters=json.dumps({name: "5"})))
    assert {**query.sampling, "client": query.client}[name] == "5"


def test_a_float_is_the_decimal_that_the_caller_wrote() -> None:
    assert read_query(tensors(text_input="x", top_p=0.9)).sampling["top_p"] == 0.9


def test_a_parameter_may_be_repeated_but_not_contradicted() -> None:
    same = tensors(text_input="x", max_tokens=4, sampling_parameters='{"max_tokens": 4}')
    assert read_query(same).sampling == {"max_tokens": 4}
    with pytest.raises(RequestError, match="max_tokens is given twice, as 5 and as 4"):
        read_query(tensors(text_input="x", max_tokens=4, sampling_parameters='{"max_tokens": 5}'))


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ({}, "the prompt is missing; give text_input, input_ids or messages"),
        ({"stream": True}, "the prompt is missing"),
        ({"text_input": "x", "messages": "[]"}, "text_input and messages are 2 prompts in one request"),
        ({"text_input": "x", "input_ids": 1, "messages": "[]"}, "are 3 prompts in one request; give only one of them"),
        ({"text_input": "x", "tools": "[]"}, "tools belong to messages, but the prompt is text_input"),
        ({"tools": "[]"}, "the prompt is missing"),
        ({"input_ids": "x"}, "input_ids must hold integers, got object"),
        ({"input_ids": np.array([1], np.uint64)}, "input_ids must hold integers, got uint64"),
        ({"input_ids": np.array([1.0])}, "input_ids must hold integers, got float64"),
        ({"messages": ["[]", "[]"]}, "messages must hold exactly one element, got 2"),
        ({"messages": b"\xff"}, "messages is not UTF-8: byte 0xff at 0"),
        ({"messages": "[]", "tools": []}, "tools must hold exactly one element, got 0"),
        ({"messages": "[]", "exclude_input_in_output": False}, "false for text_input only"),
        ({"input_ids": 1, "exclude_input_in_output": False}, "false for text_input only"),
        ({"text_input": "x", "sampling_parameters": '{"traceparent": 5}'}, "traceparent must be a text .* got 5"),
        ({"messages": "[]", "sampling_parameters": '{"describe": true}'}, "takes no prompt; leave out messages"),
        ({"tools": "[]", "sampling_parameters": '{"describe": true}'}, "takes no prompt; leave out tools"),
        ({"text_input": "x", "sampling_parameters": '{"describe": 1}'}, "describe must be true or false, got 1"),
        ({"text_input": b"a\xffb"}, r"text_input is not UTF-8: byte 0xff at 1"),
        ({"text_input": b"\xed\xa0\x80"}, "text_input is not UTF-8"),
        ({"text_input": ["a", "b"]}, "text_input must hold exactly one element, got 2"),
        ({"text_input": []}, "exactly one element, got 0"),
        ({"text_input": "x", "prompt": "y"}, "unknown input 'prompt'"),
        ({"text_input": "x", "stream": "yes"}, "stream must hold booleans"),
        ({"text_input": True}, "text_input must hold strings"),
        ({"text_input": "x", "stop": [b"\xff"]}, "stop is not UTF-8"),
        ({"text_input": "x", "client": b"\xff"}, "client is not UTF-8"),
        ({"text_input": "x", "client": "y" * 257}, "client must be a text of at most 256 characters"),
        ({"text_input": "x", "sampling_parameters": '{"client": 5}'}, "client must be a text .* got 5"),
        ({"text_input": "x", "sampling_parameters": '{"priority": 1.5}'}, "priority must be an integer .* got 1.5"),
        ({"text_input": "x", "sampling_parameters": '{"priority": 2147483648}'}, "priority must be an integer"),
        ({"text_input": "x", "timeout": 0.0}, "timeout must be a number of seconds above 0, got 0.0"),
        ({"text_input": "x", "timeout": math.nan}, "timeout must be .*, got nan"),
        ({"text_input": "x", "timeout": math.inf}, "timeout must be .*, got inf"),
        ({"text_input": "x", "timeout": -1.0}, "timeout must be .*, got -1.0"),
        ({"text_input": "x", "stream_interval": 0}, "stream_interval must be an integer from 1 to 1024, got 0"),
        ({"text_input": "x", "sampling_parameters": '{"stream_interval": true}'}, "stream_interval must be an integer"),
        ({"text_input": "x", "sampling_parameters": "{"}, "sampling_parameters is not valid JSON"),
        ({"text_input": "x", "sampling_parameters": '{"seed": ' + "9" * 5000 + "}"}, "not valid JSON"),
        ({"text_input": "x", "sampling_parameters": "[" * 60000}, "not valid JSON"),
        ({"text_input": "x", "sampling_parameters": "[1]"}, "must be a JSON object, got list"),
        ({"text_input": "x", "sampling_parameters": " " * 70000}, "70000 characters, at most 65536"),
        ({"text_input": "x", "stream": True, "exclude_input_in_output": False}, "can't be false when stream is true"),
    ],
)
def test_what_cannot_be_meant_is_refused(inputs: dict[str, Any], message: str) -> None:
    with pytest.raises(RequestError, match=message):
        read_query(tensors(**inputs))


NUMBERS = st.one_of(
    st.sampled_from([-1, 0, 1, 20, 21, 2**31, -(2**31), 2**63, -(2**63), 10**400]),
    st.integers(),
    st.floats(),
    st.booleans(),
    st.none(),
)
TEXTS = st.text("a5-.{é\n\0\u2028\ud800", max_size=6)
PLAIN = NUMBERS | TEXTS
VALUES = PLAIN | st.lists(PLAIN, max_size=3) | st.dictionaries(TEXTS, PLAIN, max_size=3)
NAMES = st.sampled_from([*EVERYTHING, *TERMS, "beams", "max_new_tokens", "do_sample"])


@given(st.dictionaries(NAMES, VALUES, max_size=4), st.dictionaries(NAMES, VALUES, max_size=2))
def test_any_parameters_are_read_or_refused_in_one_line(sampling: dict[str, Any], own: dict[str, Any]) -> None:
    complaint = ""
    try:
        # Python writes NaN and infinities, as careless clients do.
        given_ = tensors(text_input="x", sampling_parameters=json.dumps(sampling))
        params = SamplingParams.from_mapping(read_query(given_, json.dumps(own)).sampling)
        assert 1 <= params.n <= 16
        assert params.max_tokens >= 1
    except RequestError as error:
        complaint = str(error)
    assert "\n" not in complaint
    assert complaint.isprintable()
    assert len(complaint) < 500


SCALARS = {
    np.int32: st.integers(-(2**31), 2**31 - 1),
    np.int64: st.integers(-(2**63), 2**63 - 1),
    np.float32: st.floats(width=32),
    np.bool_: st.booleans(),
}


@st.composite
def scalar_inputs(draw: st.DrawFn) -> dict[str, Any]:
    scalars = [name for name, dtype in KINDS.items() if dtype in SCALARS and name not in PROMPTS]
    names = draw(st.lists(st.sampled_from(scalars), max_size=5))
    return {name: np.array([draw(SCALARS[KINDS[name]])], KINDS[name]) for name in names}


@given(scalar_inputs())
def test_any_scalars_are_read_or_refused_in_one_line(inputs: dict[str, Any]) -> None:
    complaint = ""
    try:
        query = read_query({**tensors(text_input="x"), **inputs})
        params = SamplingParams.from_mapping(query.sampling)
        assert params.temperature is None or 0 <= params.temperature <= 100
        assert query.timeout is None or 0 < query.timeout < math.inf
    except RequestError as error:
        complaint = str(error)
    assert "\n" not in complaint


@given(st.binary(max_size=40), st.text(max_size=40))
def test_any_bytes_are_a_query_or_a_request_error(prompt: bytes, parameters: str) -> None:
    complaint = ""
    try:
        query = read_query({"text_input": np.array([prompt], np.object_)}, parameters)
        assert isinstance(query.prompt, str)
        assert query.prompt.encode() == prompt
    except RequestError as error:
        complaint = str(error)
    assert "\n" not in complaint
