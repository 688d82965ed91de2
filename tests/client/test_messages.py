"""Requests and responses, without a server."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from inference_server import inputs, piece
from tritonclient.grpc import service_pb2

from deploykit.client import InvalidRequestError, ServerError
from deploykit.client.messages import Answer, elements, generation_request, read_models


def response(text: str, reason: str = "None", **counts: int) -> Any:
    return piece(text, reason, **counts).infer_response


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
        (b"hi", {}, "prompt must be a str, got bytes"),
        ("a\ud800b", {}, r"half a character .*U\+D800.* at 1"),
        ("hi", {"max_tokens": object()}, "max_tokens must be a plain number.*got object"),
        ("hi", {"stop": ["x", 3]}, "stop must be a str, got int"),
        ("hi", {"stop": b"x"}, "stop must be .*got bytes"),
        ("hi", {"bad_words": [3]}, "bad_words must be a str, got int"),
        ("hi", {"stop_token_ids": [b"x"]}, "stop_token_ids must be a plain number.*got bytes"),
        ("hi", {"logit_bias": {5: [1]}}, "logit_bias must be a plain number.*got list"),
        ("hi", {"n": 2}, "n asks for more than this client reads"),
        ("hi", {"logprobs": 0}, "logprobs asks for more than this client reads"),
    ],
)
def test_names_what_can_not_be_sent(prompt: Any, sampling: dict[str, Any], match: str) -> None:
    with pytest.raises(InvalidRequestError, match=match):
        generation_request("m", prompt, sampling, stream=True)


def test_an_answer_adds_up() -> None:
    answer = Answer()
    first = answer.add(response("你", tokens=2, prompt=5))
    last = answer.add(response("", "stop", tokens=1, prompt=5))
    assert first
    assert (first.text, first.finish_reason, first.num_output_tokens) == ("你", None, 2)
    assert last
    assert (last.text, last.finish_reason, last.num_output_tokens) == ("", "stop", 3)
    whole = answer.completion()
    assert (whole.text, whole.finish_reason, whole.num_input_tokens, whole.num_output_tokens) == ("你", "stop", 5, 3)


def test_the_empty_response_at_the_end_is_no_chunk() -> None:
    answer = Answer()
    assert answer.add(service_pb2.ModelInferResponse()) is None
    assert not answer.begun


def test_a_model_of_another_kind_is_named() -> None:
    other = service_pb2.ModelInferResponse(model_name="sorter")
    other.outputs.add(name="scores", datatype="FP32", shape=[1])
    other.raw_output_contents.append(b"1234")
    with pytest.raises(ServerError, match="'sorter' doesn't answer as a text generator does"):
        Answer().add(other)


@pytest.mark.parametrize("raw", [b"\1", b"\5\0\0\0abc", b"\1\0\0\0a\1", b"\xff\xff\xff\xffa"])
def test_a_torn_string_tensor_is_refused(raw: bytes) -> None:
    with pytest.raises(ValueError, match="ends inside an element"):
        list(elements(raw))


@given(st.binary(max_size=40))
def test_any_string_tensor_is_read_or_refused(raw: bytes) -> None:
    try:
        read = list(elements(raw))
    except ValueError:
        return
    assert b"".join(len(element).to_bytes(4, "little") + element for element in read) == raw


def test_models_come_in_order() -> None:
    index = service_pb2.RepositoryIndexResponse()
    index.models.add(name="b", version="1", state="READY")
    index.models.add(name="a", version="2", state="UNAVAILABLE", reason="unloaded")
    models = read_models(index)
    assert [(model.name, model.version, model.ready, model.reason) for model in models] == [
        ("a", "2", False, "unloaded"),
        ("b", "1", True, ""),
    ]
