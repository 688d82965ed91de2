"""What a stranger may send as messages and tools."""

import json
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deploykit.chat_template import check_messages, check_tools, read_messages, read_tools
from deploykit.errors import RequestError

USER = {"role": "user", "content": "Hello"}
CALL = {"id": "call_1", "type": "function", "function": {"name": "add", "arguments": '{"a": 1}'}}
TOOL = {"type": "function", "function": {"name": "add", "parameters": {"type": "object", "properties": {}}}}


def nested(depth: int) -> Any:
    value: Any = 1
    for _ in range(depth):
        value = [value]
    return value


@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        (USER, USER),
        ({"role": "system", "content": ""}, {"role": "system", "content": ""}),
        (
            {"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]},
            {"role": "user", "content": "a\nb"},
        ),
        ({"role": "user", "content": []}, {"role": "user", "content": ""}),
        ({"role": "user", "name": "Zoë", "content": "Hi"}, {"role": "user", "content": "Hi", "name": "Zoë"}),
        (
            {"role": "assistant", "content": None, "tool_calls": [CALL], "function_call": None, "audio": None},
            {
                "role": "assistant",
                "tool_calls": [
                    {"type": "function", "id": "call_1", "function": {"name": "add", "arguments": {"a": 1}}}
                ],
            },
        ),
        (
            {"role": "assistant", "content": None, "refusal": "No.", "annotations": [], "parsed": {"x": 1}},
            {"role": "assistant", "content": "No."},
        ),
        (
            {"role": "tool", "tool_call_id": "call_1", "content": "2"},
            {"role": "tool", "content": "2", "tool_call_id": "call_1"},
        ),
        (
            {"role": "assistant", "content": "2", "reasoning_content": "one and one"},
            {"role": "assistant", "content": "2", "reasoning_content": "one and one"},
        ),
    ],
)
def test_a_message_comes_out_as_templates_want_it(given: dict[str, Any], wanted: dict[str, Any]) -> None:
    (found,) = check_messages([given])
    assert found == wanted
    assert list(found) == list(wanted)
    assert check_messages([found]) == [found]


@pytest.mark.parametrize(
    ("arguments", "wanted"),
    [
        ('{"a": [1, null]}', {"a": [1, None]}),
        ({"a": 1.5}, {"a": 1.5}),
        ("", {}),
        (None, {}),
        ("{'a': 1", "{'a': 1"),
        ("[1]", "[1]"),
        ("[" * 100_000, "[" * 100_000),
    ],
    ids=["text", "object", "empty", "null", "broken", "list", "deep"],
)
def test_arguments_become_an_object_where_a_model_wrote_one(arguments: object, wanted: object) -> None:
    call = {"type": "function", "function": {"name": "add", "arguments": arguments}}
    (found,) = check_messages([{"role": "assistant", "tool_calls": [call]}])
    assert found["tool_calls"][0]["function"]["arguments"] == wanted


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (None, "messages is missing or null; it must be a list"),
        ({}, "messages is an object; it must be a list"),
        ([], "messages is empty"),
        ([USER] * 4097, "messages has 4097 entries; at most 4096"),
        (["Hello"], r"messages\[0\] is a text; it must be an object"),
        ([{"content": "x"}], r"messages\[0\]\.role is missing or null; it must be one of system, developer, user"),
        ([{"role": "function", "content": "x"}], r"messages\[0\]\.role is 'function'"),
        ([{"role": ["user"], "content": "x"}], r"messages\[0\]\.role is a list"),
        ([{"role": "r" * 100, "content": "x"}], r"messages\[0\]\.role is a text;"),
        ([USER, {"role": "user"}], r"messages\[1\] has no content"),
        ([{"role": "assistant", "tool_calls": []}], "has no content"),
        ([{"role": "user", "content": 1}], r"messages\[0\]\.content is a number; it must be a text or a list"),
        ([{"role": "user", "content": [{"type": "image_url", "image_url": {}}]}], "the type 'image_url', but the"),
        ([{"role": "user", "content": [{"type": "text"}]}], r"content\[0\]\.text is missing or null"),
        ([{"role": "user", "content": ["a"]}], r"content\[0\] is a text; it must be an object"),
        ([{"role": "user", "content": "a\ud800b"}], r"content is not valid text: a lone surrogate at character 1"),
        ([{**USER, "tool_calls": [CALL]}], r"tool_calls: only the assistant has any, and the role is 'user'"),
        ([{**USER, "tool_call_id": "1"}], "only a message of the role 'tool' has one"),
        ([{"role": "assistant", "content": "x", "refusal": {}}], r"messages\[0\]\.refusal is an object"),
        ([{**USER, "audio": {"id": "1"}}], r"messages\[0\]\.audio is not supported"),
        ([{**USER, "chat_template": "x"}], r"messages\[0\] has an unknown field 'chat_template'"),
        ([{"role": "assistant", "tool_calls": [{"type": "custom"}]}], r"tool_calls\[0\]\.type is 'custom'"),
        ([{"role": "assistant", "tool_calls": [{"type": "function"}]}], r"function is missing or null"),
        ([{"role": "assistant", "tool_calls": [CALL] * 129}], "tool_calls has 129 entries; at most 128"),
        (
            [{"role": "assistant", "tool_calls": [{"function": {"name": "a b"}}]}],
            r"function\.name is 'a b'; it must be 1 to 256",
        ),
        (
            [{"role": "assistant", "tool_calls": [{"function": {"name": "a", "arguments": {"x": nested(64)}}}]}],
            "arguments is nested deeper than 64 levels",
        ),
        (
            [{"role": "assistant", "tool_calls": [{"function": {"name": "a", "arguments": '{"x": NaN}'}}]}],
            "holds nan, which JSON hasn't",
        ),
        (
            [{"role": "assistant", "tool_calls": [{"function": {"name": "a", "arguments": {"x": 10**2000}}}]}],
            "holds an integer of 6644 bits; at most 4096",
        ),
        (
            [{"role": "assistant", "tool_calls": [{"function": {"name": "a", "arguments": 3}}]}],
            "arguments is a number; it must be an object, or one as JSON text",
        ),
    ],
)
def test_anything_else_is_refused_in_a_line(value: object, said: str) -> None:
    with pytest.raises(RequestError, match=said) as caught:
        check_messages(value)
    assert "\n" not in str(caught.value)


def test_all_messages_together_have_a_limit() -> None:
    half = {"role": "user", "content": "x" * (4 * 2**20 - len("user"))}
    check_messages([half, half])
    with pytest.raises(RequestError, match="8388617 characters together; at most 8388608"):
        check_messages([half, half, USER])


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ({}, "tools is an object; it must be a list"),
        ([TOOL] * 513, "tools has 513 entries; at most 512"),
        ([{"type": "retrieval"}], r"tools\[0\]\.type is 'retrieval'"),
        ([{"type": "function"}], r"tools\[0\]\.function is missing"),
        ([{"type": "function", "function": {}}], r"function\.name is missing"),
        ([{"type": "function", "function": {"name": "a", "description": 1}}], r"description is a number"),
        ([{"type": "function", "function": {"name": "a", "parameters": []}}], r"parameters is a list"),
        ([{"type": "function", "function": {"name": "a", "x": nested(80)}}], "nested deeper than 64 levels"),
        ([{"type": "function", "function": {"name": "a", "x": [0] * 100_000}}], "more than 100000 values"),
        ([{"type": "function", "function": {"name": "a", "x": {"\udc00": 1}}}], "a lone surrogate"),
        ([{"type": "function", "function": {"name": "a", "x": float("inf")}}], "holds inf"),
        ([{"type": "function", "function": {"name": "a", "x": {1: 1}}}], "a key that is no text"),
        ([{"type": "function", "function": {"name": "a", "x": {1}}}], "holds a set, which JSON hasn't"),
    ],
)
def test_bad_tools_are_refused_in_a_line(value: object, said: str) -> None:
    with pytest.raises(RequestError, match=said):
        check_tools(value)


def test_tools_keep_their_order_and_lose_their_nulls() -> None:
    function = {"parameters": {"type": "object"}, "name": "add", "description": None, "strict": None}
    (found,) = check_tools([{"function": function}])
    assert found == {"function": {"parameters": {"type": "object"}, "name": "add"}, "type": "function"}
    assert list(found["function"]) == ["parameters", "name"]


@pytest.mark.parametrize("read", [read_messages, read_tools])
@pytest.mark.parametrize(
    ("raw", "said"),
    [
        ("{", "no valid JSON"),
        (b"\xff", "not valid UTF-8"),
        ("[" * 200_000, "nested too deep"),
        ('["\\', "no valid JSON"),
        ("9" * 5000, "no valid JSON"),
    ],
)
def test_text_that_is_no_json_is_refused(read: Any, raw: str | bytes, said: str) -> None:
    with pytest.raises(RequestError, match=said):
        read(raw)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)
FIELD = st.sampled_from(["role", "content", "name", "tool_calls", "tool_call_id", "type", "function", "text", "x"])
LIKE_MESSAGES = st.lists(
    st.dictionaries(FIELD, JSON | st.sampled_from(["user", "assistant", "tool"]) | st.just([CALL])), max_size=3
)


@settings(max_examples=50)
@given(LIKE_MESSAGES | JSON)
def test_whatever_comes_is_refused_or_made_json(value: object) -> None:
    with suppress(RequestError):
        found = check_messages(value)
        assert json.loads(json.dumps(found, ensure_ascii=False).encode()) == found
        assert all(message["role"] in ("system", "developer", "user", "assistant", "tool") for message in found)
