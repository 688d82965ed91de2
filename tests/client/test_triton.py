"""Requests and responses, without a server."""

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from inference_server import inputs, piece
from tritonclient.grpc import service_pb2

from deploykit.client import Chunk, InvalidRequestError, ServerError, TokenLogprob
from deploykit.client.answer import Answer
from deploykit.client.dialect import Facts, Text, read_chat, read_prompt
from deploykit.client.sampling import plain_parameters
from deploykit.client.tensors import counts, elements
from deploykit.client.triton import TritonDialect, TritonReader


def generation_request(model: str, prompt: Any, sampling: dict[str, Any], *, stream: bool, **more: Any) -> Any:
    """What is sent."""
    text = Text(
        prompt=read_prompt(prompt),
        sampling=plain_parameters(sampling),
        stream=stream,
        **{"request_id": "r1", "headers": {}, **more},
    )
    dialect = TritonDialect()
    request = dialect.text(text)
    dialect.name_model(request, model)
    return request.body


def add(answer: Answer, message: Any) -> list[Chunk]:
    return list(TritonReader().read(message, answer))


@given(st.text(st.characters(exclude_categories=["Cs"])))
def test_a_prompt_arrives_as_it_was(prompt: str) -> None:
    assert inputs(generation_request("m", prompt, {}, stream=True))["text_input"] == prompt


def test_a_request_asks_for_what_a_chunk_holds() -> None:
    request = generation_request("m", "hi", {}, stream=True)
    assert request.model_name == "m"
    assert inputs(request) == {
        "text_input": "hi",
        "stream": True,
        "exclude_input_in_output": True,
        "return_finish_reason": True,
        "return_num_input_tokens": True,
        "return_num_output_tokens": True,
    }
    assert all(tensor.shape == [1] for tensor in request.inputs)


def test_a_question_for_an_engines_facts_has_no_prompt() -> None:
    request = TritonDialect().facts(Facts(request_id="r2")).body
    assert (request.id, request.parameters["describe"].bool_param) == ("r2", True)
    assert inputs(request) == {"return_finish_reason": True}


def test_only_parameters_that_were_given_are_sent() -> None:
    sampling = {"max_tokens": 3, "temperature": None, "top_p": 0.7, "stop": ("a", "é"), "ignore_eos": False}
    sent = inputs(generation_request("m", "hi", sampling, stream=False))
    assert (
        sent["sampling_parameters"] == '{"max_tokens": 3, "top_p": 0.7, "stop": ["a", "\\u00e9"], "ignore_eos": false}'
    )
    assert sent["stream"] is False


def test_lists_and_biases_are_sent_as_json() -> None:
    sampling = {"bad_words": ("a", "b"), "stop_token_ids": (3, 4), "logit_bias": {7: -1.5}, "n": None, "client": "me"}
    sent = inputs(generation_request("m", "hi", sampling, stream=False))
    assert json.loads(sent["sampling_parameters"]) == {
        "bad_words": ["a", "b"],
        "stop_token_ids": [3, 4],
        "logit_bias": {"7": -1.5},
        "client": "me",
    }


@pytest.mark.parametrize(
    ("prompt", "sampling", "match"),
    [
        (b"hi", {}, "prompt must be a str, a list .*got bytes"),
        ("a\ud800b", {}, r"half a character .*U\+D800.* at 1"),
        ("hi", {"max_tokens": object()}, "max_tokens must be a plain number.*got object"),
        ("hi", {"stop": ["x", 3]}, "stop must be a str, got int"),
        ("hi", {"stop": b"x"}, "stop must be .*got bytes"),
        ("hi", {"bad_words": [3]}, "bad_words must be a str, got int"),
        ("hi", {"stop_token_ids": [b"x"]}, "stop_token_ids must be a plain number.*got bytes"),
        ("hi", {"logit_bias": {5: [1]}}, "logit_bias must be a plain number.*got list"),
        (["a"], {}, r"prompt\[0\] must be a token id, got str"),
        ([1, 2**63], {}, r"prompt\[1\] must be a token id"),
        (7, {}, "prompt must be a str, a list .*got int"),
    ],
)
def test_names_what_can_not_be_sent(prompt: Any, sampling: dict[str, Any], match: str) -> None:
    with pytest.raises(InvalidRequestError, match=match):
        generation_request("m", prompt, sampling, stream=True)


def test_token_ids_go_as_they_are() -> None:
    sent = inputs(generation_request("m", (3, 0, 2**62), {}, stream=True))
    assert sent["input_ids"] == [3, 0, 2**62]
    numbers = inputs(generation_request("m", np.array([3, 4], np.int32), {}, stream=True))["input_ids"]
    assert numbers == [3, 4]
    assert "text_input" not in sent
    # Which is for texts only.
    assert "exclude_input_in_output" not in sent


def test_a_chat_and_its_tools_go_as_json() -> None:
    messages = [{"role": "user", "content": "hé"}]
    sent = inputs(generation_request("m", messages, {}, stream=True, tools=[{"type": "function"}]))
    assert json.loads(sent["messages"]) == messages
    assert json.loads(sent["tools"]) == [{"type": "function"}]


def test_id_and_trace_go_along() -> None:
    headers = {"traceparent": "00-1-2-01", "tracestate": "a=b"}
    request = generation_request("m", "hi", {}, stream=True, headers=headers)
    assert request.id == "r1"
    assert {name: value.string_param for name, value in request.parameters.items()} == headers


def test_log_probabilities_are_asked_for_where_wanted() -> None:
    request = generation_request("m", "hi", {"n": 2, "logprobs": 0}, stream=False)
    assert inputs(request)["return_logprobs"] is True
    assert json.loads(inputs(request)["sampling_parameters"]) == {"n": 2, "logprobs": 0}
    assert "return_logprobs" not in inputs(generation_request("m", "hi", {"n": 2}, stream=False))


@pytest.mark.parametrize(
    ("messages", "match"),
    [
        ([], "at least one"),
        ("hi", "must be a list of dicts"),
        ({"role": "user"}, "must be a list of dicts"),
        (7, "must be a list of dicts"),
        ([{"role": "user", "content": "a"}, "b"], "message 1 must be a dict"),
        ([{"content": "a"}], "message 0 must be a dict"),
    ],
)
def test_names_what_is_no_chat(messages: Any, match: str) -> None:
    with pytest.raises(InvalidRequestError, match=match):
        read_chat(messages)


def test_a_chat_that_is_no_json_is_refused() -> None:
    with pytest.raises(InvalidRequestError, match="messages can't be written as JSON"):
        generation_request("m", [{"role": "user", "content": object()}], {}, stream=True)


def test_an_answer_adds_up() -> None:
    answer = Answer()
    (first,) = add(answer, piece("你", tokens=2, prompt=5))
    ended = [answer.finished]
    (last,) = add(answer, piece("", "stop", tokens=1, prompt=5))
    assert (first.text, first.finish_reason, first.num_output_tokens) == ("你", None, 2)
    assert (last.text, last.finish_reason, last.num_output_tokens) == ("", "stop", 3)
    assert [*ended, answer.finished] == [False, True]
    whole = answer.completion()
    assert (whole.text, whole.finish_reason, whole.num_input_tokens, whole.num_output_tokens) == ("你", "stop", 5, 3)
    assert [choice.text for choice in whole.choices] == ["你"]


def test_each_choice_has_pieces_of_its_own() -> None:
    answer = Answer(2)
    first = add(answer, piece("a", "b", reasons=("None", "stop"), tokens=(1, 2)))
    # The second has ended, and is told of again.
    second = add(answer, piece("c", "", reasons=("length", "stop"), tokens=(1, 0)))
    assert [(chunk.index, chunk.text, chunk.num_output_tokens) for chunk in first] == [(0, "a", 1), (1, "b", 2)]
    assert [(chunk.index, chunk.text, chunk.num_output_tokens) for chunk in second] == [(0, "c", 2)]
    assert answer.finished
    whole = answer.completion()
    assert (whole.text, whole.num_output_tokens) == ("ac", 4)
    assert [(at.index, at.text, at.finish_reason, at.num_output_tokens) for at in whole.choices] == [
        (0, "ac", "length", 2),
        (1, "b", "stop", 2),
    ]


def test_log_probabilities_are_read_with_the_likeliest_in_order() -> None:
    told = json.dumps(
        [
            {
                "7": {"logprob": -3.5, "rank": None, "decoded_token": "g"},
                "9": {"logprob": -1.0, "rank": 2, "decoded_token": "i"},
                "8": {"logprob": -0.5, "rank": 1, "decoded_token": "h"},
            }
        ]
    )
    answer = Answer()
    (chunk,) = add(answer, piece("g", "stop", logprobs=(told,)))
    top = (
        TokenLogprob(token="h", logprob=-0.5, token_id=8),
        TokenLogprob(token="i", logprob=-1.0, token_id=9),
    )
    assert chunk.logprobs == (TokenLogprob(token="g", logprob=-3.5, token_id=7, top=top),)
    assert answer.completion().logprobs == answer.completion().choices[0].logprobs == chunk.logprobs


def test_no_log_probabilities_are_none() -> None:
    (chunk,) = add(Answer(), piece("g", "stop", logprobs=("null",)))
    assert chunk.logprobs == ()


def test_the_empty_response_at_the_end_is_no_chunk() -> None:
    answer = Answer()
    assert add(answer, service_pb2.ModelStreamInferResponse()) == []
    assert not answer.begun


def other(name: str, datatype: str, raw: bytes) -> Any:
    """A response with one output."""
    response = service_pb2.ModelInferResponse(model_name="sorter")
    response.outputs.add(name=name, datatype=datatype, shape=[1])
    response.raw_output_contents.append(raw)
    return service_pb2.ModelStreamInferResponse(infer_response=response)


@pytest.mark.parametrize(
    "response",
    [
        other("scores", "FP32", b"1234"),
        other("text_output", "BYTES", b"1"),
        other("text_output", "BYTES", b"\1\0\0\0\xff"),
        piece("a", tokens=(), logprobs=("{",)),
        piece("a", logprobs=("[7]",)),
        piece("a", logprobs=('[{"7": {}}]',)),
        piece("a", "b", reasons=("stop",)),
    ],
)
def test_a_model_of_another_kind_is_named(response: Any) -> None:
    with pytest.raises(ServerError, match=r"'(sorter|writer)' doesn't answer as a text generator does"):
        add(Answer(2), response)


@pytest.mark.parametrize("raw", [b"\1", b"\5\0\0\0abc", b"\1\0\0\0a\1", b"\xff\xff\xff\xffa"])
def test_a_torn_string_tensor_is_refused(raw: bytes) -> None:
    with pytest.raises(ValueError, match="ends inside an element"):
        list(elements(raw))


@given(st.lists(st.integers(0, 2**32 - 1)))
def test_counts_are_read(numbers: list[int]) -> None:
    raw = b"".join(number.to_bytes(4, "little") for number in numbers)
    assert counts(raw) == tuple(numbers)
    with pytest.raises(ValueError, match="ends inside an element"):
        counts(raw + b"1")


@given(st.binary(max_size=40))
def test_any_string_tensor_is_read_or_refused(raw: bytes) -> None:
    try:
        read = list(elements(raw))
    except ValueError:
        return
    assert b"".join(len(element).to_bytes(4, "little") + element for element in read) == raw
