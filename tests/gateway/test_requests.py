"""What requests are refused, in which words, and that nothing of them reaches Triton."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest
from gateways import Gateway, open_gateway
from inference_server import Running, Service, inputs, piece, run

HELLO: Any = [{"role": "user", "content": "Hello"}]
TEXT: dict[str, Any] = {"model": "chatty", "prompt": "secret-prompt"}
CHAT: dict[str, Any] = {"model": "chatty", "messages": HELLO}
ROUTES = {"text": ("/v1/completions", TEXT), "chat": ("/v1/chat/completions", CHAT)}


@pytest.fixture(scope="module")
def triton() -> Iterator[Running]:
    """A server that answers everything in one token, once for each choice."""

    def answer(request: Any, _context: Any) -> Iterator[Any]:
        n = json.loads(inputs(request)["sampling_parameters"]).get("n", 1)
        yield piece(*["a"] * n, reasons=["stop"] * n, tokens=[1] * n)

    running = run(Service(answer=answer))
    yield running
    running.server.stop(None)


@pytest.fixture(scope="module")
def gateway(chatty: Path, triton: Running) -> Iterator[Gateway]:
    with open_gateway([chatty], triton.url) as running:
        assert running.post("/v1/completions", TEXT).status_code == 200
        yield running


def error_of(reply: httpx2.Response, status: int = 400) -> dict[str, Any]:
    assert reply.status_code == status, reply.text
    body = reply.json()
    assert set(body) == {"error"}
    assert set(body["error"]) == {"message", "type", "param", "code"}
    message = body["error"]["message"]
    assert "\n" not in message
    assert not [word for word in ("secret", "127.0.0.1", "/home", "/work", "/tmp") if word in message]
    return dict(body["error"])


def refused(gateway: Gateway, triton: Running, kind: str, more: dict[str, Any]) -> dict[str, Any]:
    path, body = ROUTES[kind]
    before = len(triton.service.requests)
    error = error_of(gateway.post(path, {**body, **more}))
    assert error["type"] == "invalid_request_error"
    assert len(triton.service.requests) == before
    return error


NUMBERS: dict[str, list[Any]] = {
    "temperature": [-0.1, 2.1, "1", True],
    "top_p": [-0.1, 1.1, [0.5]],
    "presence_penalty": [-2.1, 2.1],
    "frequency_penalty": [-2.1, 2.1, {}],
    "repetition_penalty": [0, 101],
    "min_p": [-1, 1.5],
    "n": [-1, 0, 17, 2**31, 2**63, 1.5, "2", True],
    "max_tokens": [-1, 0, 2**31, 2**63, 1.5, "8", True],
    "min_tokens": [-1, 2**31, 2**63],
    "top_k": [-2, 2**31, 2**63, 0.5],
    "seed": [2**63, -(2**63) - 1, "7", 1.0],
    "priority": [2**31, 2**63, -(2**31) - 1],
    "stop": [[""], "", ["a"] * 17, 5, [5], {"a": 1}],
    "stop_token_ids": [[-1], [1, 1], "5", [320], [2**63], list(range(65))],
    "bad_words": ["a", [""], ["a"] * 65, [1]],
    "logit_bias": [{"320": 1}, {"-1": 1}, {"a": 1}, {"5": 101}, {"5": "1"}, {"5": True}, [5], {"5": 1, "05": 1}],
    "user": [5, "x" * 257],
    "stream": ["true", 1],
    "ignore_eos": ["true", 0],
    "stream_options": [{"include_usage": "yes"}, {"more": True}, True],
    "chat_template": ["{{ messages }}"],
}


@pytest.mark.parametrize(("field", "value"), [(field, value) for field, values in NUMBERS.items() for value in values])
def test_a_value_that_cannot_be_is_refused_by_its_name(
    gateway: Gateway, triton: Running, field: str, value: Any
) -> None:
    kind = "chat" if field == "chat_template" else "text"
    error = refused(gateway, triton, kind, {field: value})
    assert field in error["message"].split(": ")[0 if "unrecognized" not in error["message"] else 1]
    assert error["param"].split(".")[0] == field


@pytest.mark.parametrize("text", ["NaN", "Infinity", "-Infinity", "1e999", "1" * 400])
def test_numbers_that_json_has_not_are_refused(gateway: Gateway, text: str) -> None:
    body = f'{{"model": "chatty", "prompt": "a", "temperature": {text}}}'
    reply = gateway.http.post("/v1/completions", content=body, headers={"content-type": "application/json"})
    error_of(reply)


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (b"", "missing"),
        (b"[]", "must be a JSON object"),
        (b"null", "must be a JSON object"),
        (b"{", "not valid JSON"),
        (b'{"model": "chatty", "prompt": "\xff"}', "not valid JSON"),
        (rb'{"model": "chatty", "prompt": "\ud800"}', "not valid JSON"),
        (b'{"model": "chatty", "prompt": ' + b"[" * 300 + b"]" * 300 + b"}", "not valid JSON"),
    ],
)
def test_a_body_that_is_no_json_object_is_refused(gateway: Gateway, body: bytes, said: str) -> None:
    reply = gateway.http.post("/v1/completions", content=body, headers={"content-type": "application/json"})
    assert said in error_of(reply)["message"]


@pytest.mark.parametrize(
    "prompt",
    [
        None,
        "",
        [],
        [""],
        [[]],
        [1, "a"],
        ["a", 1],
        [[1], 5],
        [-1],
        [True],
        [1.5],
        [2**63],
        [320],
        {"a": 1},
        ["a"] * 129,
    ],
)
def test_prompts_of_other_shapes_are_refused(gateway: Gateway, triton: Running, prompt: Any) -> None:
    assert refused(gateway, triton, "text", {"prompt": prompt})["param"] == "prompt"


@pytest.mark.parametrize(
    ("more", "word"),
    [
        ({"best_of": 2}, "best_of"),
        ({"n": 2, "best_of": 3}, "best_of"),
        ({"suffix": "end"}, "suffix"),
        ({"echo": True, "logprobs": 1}, "echo"),
        ({"logprobs": 21}, "logprobs"),
        ({"logprobs": True}, "logprobs"),
        ({"min_tokens": 20}, "min_tokens"),
        ({"stream_options": {"include_usage": True}}, "stream_options"),
        ({"guided_json": {}}, "unrecognized request argument supplied: guided_json"),
        ({"prompt": ["a"] * 100, "n": 2}, "128"),
    ],
)
def test_what_completions_cannot_do_is_refused(
    gateway: Gateway, triton: Running, more: dict[str, Any], word: str
) -> None:
    assert word in refused(gateway, triton, "text", more)["message"]


@pytest.mark.parametrize(
    ("more", "word"),
    [
        ({"messages": []}, "messages"),
        ({"messages": "Hello"}, "messages"),
        ({"messages": [{"role": "robot", "content": "a"}]}, "messages[0].role"),
        ({"messages": [{"role": "user"}]}, "messages[0]"),
        ({"messages": [{"role": "user", "content": 5}]}, "messages[0].content"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}]}, "image_url"),
        ({"logprobs": 1}, "logprobs"),
        ({"top_logprobs": 2}, "logprobs"),
        ({"logprobs": True, "top_logprobs": 21}, "top_logprobs"),
        ({"tools": [{"type": "function"}]}, "tools[0]"),
        ({"tool_choice": "required"}, "tool_choice"),
        ({"tool_choice": {"type": "function", "function": {"name": "time"}}}, "tool_choice"),
        ({"response_format": {"type": "json_object"}}, "response_format"),
        ({"response_format": {"type": "json_schema", "json_schema": {"name": "a"}}}, "response_format"),
        ({"max_tokens": 4, "max_completion_tokens": 5}, "max_completion_tokens"),
        ({"chat_template_kwargs": {"messages": []}}, "messages"),
        ({"chat_template_kwargs": {"range": 1}}, "range"),
        ({"add_generation_prompt": True, "continue_final_message": True}, "continue_final_message"),
        ({"functions": []}, "functions"),
        ({"reasoning_effort": "high"}, "reasoning_effort"),
        ({"modalities": ["audio"]}, "modalities"),
        ({"store": True}, "store"),
        ({"prompt": "a"}, "unrecognized request argument supplied: prompt"),
    ],
)
def test_what_chats_cannot_do_is_refused(gateway: Gateway, triton: Running, more: dict[str, Any], word: str) -> None:
    assert word in refused(gateway, triton, "chat", more)["message"]


@pytest.mark.parametrize("kind", ["text", "chat"])
def test_null_is_as_good_as_nothing(gateway: Gateway, triton: Running, kind: str) -> None:
    path, body = ROUTES[kind]
    schema = gateway.get("/openapi.json").json()["components"]["schemas"]
    fields = schema["CompletionRequest" if kind == "text" else "ChatRequest"]
    nothing = dict.fromkeys(set(fields["properties"]) - set(fields["required"]))
    assert len(nothing) > 20
    assert gateway.post(path, {**nothing, **body}).status_code == 200


def test_fields_that_change_no_answer_are_taken(gateway: Gateway) -> None:
    more = {"metadata": {"a": "b"}, "store": False, "service_tier": "auto", "parallel_tool_calls": True}
    more |= {"response_format": {"type": "text"}, "modalities": ["text"], "safety_identifier": "me"}
    assert gateway.post("/v1/chat/completions", {**CHAT, **more}).status_code == 200


def test_triton_gets_tokens_and_every_parameter(gateway: Gateway, triton: Running) -> None:
    more = {"n": 2, "temperature": 0.5, "top_p": 0.9, "top_k": 4, "min_p": 0.1, "seed": -1, "stop": "x", "user": "me"}
    more |= {"presence_penalty": 1, "frequency_penalty": -1, "repetition_penalty": 1.1, "logit_bias": {"5": 2}}
    more |= {"min_tokens": 1, "ignore_eos": True, "stop_token_ids": [7], "bad_words": ["no"], "priority": 3}
    reply = gateway.post("/v1/completions", {**TEXT, **more, "logprobs": 2, "max_tokens": 9})
    assert reply.status_code == 200, reply.text
    sent = inputs(triton.service.requests[-1])
    parameters = json.loads(sent.pop("sampling_parameters"))
    tokens = gateway.post("/tokenize", TEXT).json()["tokens"]
    assert sent.pop("input_ids") == tokens
    assert not {"text_input", "messages"} & sent.keys()
    expected = {**more, "stop": ["x"], "seed": 2**63 - 1, "client": "me", "logprobs": 2, "max_tokens": 9}
    del expected["user"]
    assert parameters == expected


def test_a_caller_s_trace_reaches_triton_unless_it_is_none(gateway: Gateway, triton: Running) -> None:
    trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    for value, sent in ((trace.encode(), trace), (b"\xe4", ""), (b"a" * 9000, "")):
        reply = gateway.http.post("/v1/completions", json=TEXT, headers={b"traceparent": value})
        assert reply.status_code == 200
        assert triton.service.requests[-1].parameters["traceparent"].string_param == sent


def test_a_prompt_is_checked_before_it_is_tokenized_when_it_cannot_fit(gateway: Gateway, triton: Running) -> None:
    error = refused(gateway, triton, "text", {"prompt": "a " * 200_000})
    assert error["code"] == "context_length_exceeded"
    assert "at least" in error["message"]


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/v1/nothing", 404),
        ("POST", "/", 404),
        ("GET", "/v1/completions", 405),
        ("DELETE", "/v1/models", 405),
        # No redirects: their address would be without TLS, whatever stands in front.
        ("POST", "/v1/completions/", 404),
        ("GET", "/health/", 404),
    ],
)
def test_other_routes_and_methods_get_error_objects(gateway: Gateway, method: str, path: str, status: int) -> None:
    reply = gateway.http.request(method, path)
    error_of(reply, status)
    assert status != 405 or reply.headers["allow"]


@pytest.mark.parametrize("kind", ["text/plain", "application/x-www-form-urlencoded", None])
def test_another_content_type_is_refused(gateway: Gateway, kind: str | None) -> None:
    headers = {"content-type": kind} if kind else {}
    reply = gateway.http.post("/v1/completions", content=json.dumps(TEXT), headers=headers)
    assert "application/json" in error_of(reply, 415)["message"]


@pytest.mark.parametrize("path", ["/v1/completions", "/v1/chat/completions", "/tokenize", "/detokenize"])
def test_an_unknown_model_is_not_found(gateway: Gateway, path: str) -> None:
    bodies: dict[str, Any] = {
        "/tokenize": {"prompt": "a"},
        "/detokenize": {"tokens": [5]},
        "/v1/completions": {"prompt": "a"},
    }
    error = error_of(gateway.post(path, {"model": "other", **bodies.get(path, {"messages": HELLO})}), 404)
    assert (error["code"], error["param"]) == ("model_not_found", "model")


@pytest.mark.parametrize("tokens", [[-1], [320], [True], "5", [2**63]])
def test_tokens_that_are_none_have_no_text(gateway: Gateway, tokens: Any) -> None:
    assert error_of(gateway.post("/detokenize", {"model": "chatty", "tokens": tokens}))["param"].startswith("tokens")


def test_a_list_of_messages_is_named_once(gateway: Gateway, triton: Running) -> None:
    for messages, said in (([], "messages is empty"), ([{"role": "user"}], "messages[0] has no content")):
        error = refused(gateway, triton, "chat", {"messages": messages})
        assert error["message"].startswith(said)
        assert error["param"] == "messages"


def test_a_variable_that_is_the_model_s_own_is_named_by_its_field(gateway: Gateway, triton: Running) -> None:
    error = refused(gateway, triton, "chat", {"chat_template_kwargs": {"range": 1}})
    assert error["param"] == "chat_template_kwargs"


@pytest.mark.parametrize("path", ["/chat/completions", "/completions", "/models"])
def test_a_base_url_without_v1_is_told_so(gateway: Gateway, path: str) -> None:
    assert "begin with /v1, and so the base URL" in error_of(gateway.post(path, {}), 404)["message"]
