"""A real Triton: a prompt as text, as token ids and as a conversation, and what none of them may be."""

import json
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from triton_calls import generate, stream
from tritonclient.utils import InferenceServerException

from deploykit.artifact import Artifact
from deploykit.engine import Engine, SamplingParams
from deploykit.engine.text import Codec
from deploykit.serve import LocalServer

pytestmark = pytest.mark.triton

PROMPT = "def greet(name):"
PARAMS = SamplingParams(max_tokens=12, ignore_eos=True)
COMMON: dict[str, Any] = {"max_tokens": 12, "ignore_eos": True}


@pytest.fixture(scope="module")
def codec(packaged: Artifact) -> Codec:
    assert packaged.tokenizer
    return Codec.open(packaged.tokenizer)


@pytest.fixture(scope="module")
def answer(packaged: Artifact) -> Iterator[str]:
    """What the engine itself answers to the text."""
    with Engine.open(packaged.path) as engine:
        yield engine.generate(PROMPT, PARAMS).text


def ids(*values: int) -> Any:
    return np.array(values, np.int64)


def text_of(server: LocalServer, **asked: Any) -> str:
    with stream(server, **{**COMMON, **asked}) as responses:
        return b"".join(part["text_output"][0] for part in responses).decode()


@pytest.mark.parametrize("streams", [False, True])
def test_token_ids_mean_what_their_text_means(server: LocalServer, codec: Codec, answer: str, streams: bool) -> None:
    prompt = ids(*codec.encode(PROMPT))
    assert text_of(server, input_ids=prompt, stream=streams) == answer
    assert text_of(server, text_input=PROMPT, stream=streams, exclude_input_in_output=True) == answer


def test_token_ids_are_a_list_in_generates_json(server: LocalServer, codec: Codec, answer: str) -> None:
    prompt = codec.encode(PROMPT)
    status, body = generate(server, input_ids=prompt, **COMMON)
    assert (status, json.loads(body)["text_output"]) == (200, answer)
    status, body = generate(server, verb="generate_stream", input_ids=prompt, stream=True, **COMMON)
    events = [json.loads(line.removeprefix("data: ")) for line in body.splitlines() if line]
    assert (status, "".join(event["text_output"] for event in events)) == (200, answer)


def test_a_single_token_is_a_prompt(server: LocalServer) -> None:
    with stream(server, input_ids=ids(0), max_tokens=1, return_num_input_tokens=True) as responses:
        assert [part["num_input_tokens"] for part in responses] == [[1]]
    status, body = generate(server, input_ids=5, max_tokens=1)
    assert (status, set(json.loads(body)) >= {"text_output"}) == (200, True)


BAD: dict[str, tuple[dict[str, Any], str]] = {
    "nothing": ({}, "INVALID_ARGUMENT: the prompt is missing; give text_input, input_ids or messages"),
    "text and ids": ({"text_input": "x", "input_ids": ids(1)}, "text_input and input_ids are 2 prompts"),
    "tools of a text": ({"text_input": "x", "tools": "[]"}, "tools belong to messages"),
    "no ids": ({"input_ids": ids()}, "the prompt is empty"),
    "-1": ({"input_ids": ids(1, -1)}, r"token id -1 is not one of the model's; ids are 0 to \d+"),
    "2^31": ({"input_ids": ids(2**31, 1)}, "token id 2147483648 is not one of the model's"),
    "2^63 - 1": ({"input_ids": ids(2**63 - 1)}, "token id 9223372036854775807 is not one of the model's"),
    "-2^63": ({"input_ids": ids(-(2**63))}, "token id -9223372036854775808 is not one of the model's"),
    "32-bit ids": ({"input_ids": np.array([1], np.int32)}, "INT32.*INT64"),
    "ids that are floats": ({"input_ids": np.array([1.0])}, "FP64.*INT64"),
    "a table of ids": ({"input_ids": np.zeros((2, 2), np.int64)}, "shape"),
    "an id without a shape": ({"input_ids": np.array(1, np.int64)}, "shape"),
    "as many as fit, no answer": ({"input_ids": np.zeros(4096, np.int64)}, r"prompt has \d+ tokens, but the context"),
    "ten million": ({"input_ids": np.zeros(10**7, np.int64)}, "the prompt has 10000000 tokens, but the context of"),
    "ids before the answer": ({"input_ids": ids(1), "exclude_input_in_output": False}, "for text_input only"),
}


@pytest.mark.parametrize("case", BAD)
def test_what_is_no_prompt_gets_one_clear_line(server: LocalServer, case: str) -> None:
    fields, message = BAD[case]
    with (
        pytest.raises(InferenceServerException, match=message) as caught,
        stream(server, max_tokens=1, **fields) as responses,
    ):
        list(responses)
    assert "\n" not in str(caught.value.message())
    assert len(text_of(server, input_ids=ids(5), max_tokens=1)) <= 16
    assert server.restarts == 0


@pytest.mark.parametrize("given", ["text", [1.5], {"a": 1}, True, [2**63]])
def test_what_is_no_list_of_ids_gets_one_line_over_http(server: LocalServer, given: Any) -> None:
    status, body = generate(server, input_ids=given, max_tokens=1)
    assert status in (400, 500)
    assert "\n" not in json.loads(body)["error"]
    assert server.restarts == 0
