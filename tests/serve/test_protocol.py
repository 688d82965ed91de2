"""Tensors to a query, events to tensors."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from deploykit.errors import RequestError
from deploykit.serve.protocol import Answer, Query, read_query

DTYPES = {"max_tokens": np.int32, "top_k": np.int32, "seed": np.int64, "temperature": np.float32, "top_p": np.float32}


def tensors(**values: Any) -> dict[str, Any]:
    def tensor(name: str, value: Any) -> Any:
        if isinstance(value, str | bytes | list):
            items = value if isinstance(value, list) else [value]
            coded = [item.encode() if isinstance(item, str) else item for item in items]
            return np.array(coded, np.object_)
        return np.array([value], DTYPES.get(name, np.bool_))

    return {name: tensor(name, value) for name, value in values.items()}


def test_a_prompt_alone_is_answered_whole_with_the_prompt_before_it() -> None:
    query = read_query(tensors(text_input="Grüße 你好\0"))
    assert query == Query(prompt="Grüße 你好\0", stream=False, prepend=True, sampling={}, wanted=frozenset())


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


def test_a_stop_text_that_spells_a_number_stays_a_text() -> None:
    assert read_query(tensors(text_input="x", sampling_parameters='{"stop": "5"}')).sampling == {"stop": "5"}


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
        ({}, "text_input is missing"),
        ({"text_input": b"a\xffb"}, r"text_input is not UTF-8: byte 0xff at 1"),
        ({"text_input": b"\xed\xa0\x80"}, "text_input is not UTF-8"),
        ({"text_input": ["a", "b"]}, "text_input must hold exactly one element, got 2"),
        ({"text_input": []}, "exactly one element, got 0"),
        ({"text_input": "x", "prompt": "y"}, "unknown input 'prompt'"),
        ({"text_input": "x", "stream": "yes"}, "stream must hold booleans"),
        ({"text_input": True}, "text_input must hold strings"),
        ({"text_input": "x", "stop": [b"\xff"]}, "stop is not UTF-8"),
        ({"text_input": "x", "sampling_parameters": "{"}, "sampling_parameters is not valid JSON"),
        ({"text_input": "x", "sampling_parameters": "[" * 60000}, "not valid JSON"),
        ({"text_input": "x", "sampling_parameters": "[1]"}, "must be a JSON object, got list"),
        ({"text_input": "x", "sampling_parameters": " " * 70000}, "70000 characters, at most 65536"),
        ({"text_input": "x", "stream": True, "exclude_input_in_output": False}, "can't be false when stream is true"),
    ],
)
def test_what_cannot_be_meant_is_refused(inputs: dict[str, Any], message: str) -> None:
    with pytest.raises(RequestError, match=message):
        read_query(tensors(**inputs))


@given(st.binary(max_size=40), st.text(max_size=40))
def test_any_bytes_are_a_query_or_a_request_error(prompt: bytes, parameters: str) -> None:
    complaint = ""
    try:
        query = read_query({"text_input": np.array([prompt], np.object_)}, parameters)
        assert query.prompt.encode() == prompt
    except RequestError as error:
        complaint = str(error)
    assert "\n" not in complaint


@dataclass
class Told:
    text: str
    num_output_tokens: int
    finish_reason: str | None = None
    num_input_tokens: int = 7
    cumulative_logprob: float = -1.5


def plain(sent: dict[str, Any] | None) -> dict[str, Any] | None:
    return None if sent is None else {name: tensor.tolist() for name, tensor in sent.items()}


STEPS = [Told("é", 1), Told("", 2), Told("b", 4, "stop")]
WANTED = frozenset({"finish_reason", "num_input_tokens", "num_output_tokens"})


def test_a_stream_tells_each_event_and_the_tokens_of_that_event() -> None:
    answer = Answer(Query(prompt="p", stream=True, prepend=False, sampling={}, wanted=WANTED))
    sent = [plain(answer.add(step)) for step in STEPS]
    assert [part and part["text_output"] for part in sent] == [["é".encode()], [b""], [b"b"]]
    assert [part and part["finish_reason"] for part in sent] == [[b"None"], [b"None"], [b"stop"]]
    assert [part and part["num_output_tokens"] for part in sent] == [[1], [1], [2]]


def test_without_a_stream_the_last_event_tells_all() -> None:
    answer = Answer(Query(prompt="p", stream=False, prepend=True, sampling={}, wanted=WANTED))
    first, second, last = (plain(answer.add(step)) for step in STEPS)
    assert (first, second) == (None, None)
    assert last == {
        "text_output": ["péb".encode()],
        "finish_reason": [b"stop"],
        "num_input_tokens": [7],
        "num_output_tokens": [4],
    }
