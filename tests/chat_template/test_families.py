"""What our renderer makes of a template is what transformers makes of it, in every family's format."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from chat_families import FAMILIES
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from jinja2 import TemplateError

from deploykit.chat_template import ChatTemplate, check_messages, check_tools
from deploykit.errors import RequestError

Saved = Callable[[str], tuple[Path, Any]]
Opened = Callable[[str], ChatTemplate]

WEATHER = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "Say how the weather is.\nTakes & gives <metric> units, and 'quotes'.",
        "parameters": {
            "type": "object",
            "properties": {
                "place": {"type": "string", "description": "Such as Zürich or 東京"},
                "days": {"type": "integer"},
                "units": {"type": "array", "items": {"type": "string", "enum": ["C", "F"]}},
                "where": {"type": "object", "properties": {"lat": {"type": "number"}}, "required": ["lat"]},
            },
            "required": ["place"],
        },
    },
}
CLOCK = {"type": "function", "function": {"name": "clock", "description": "Say how late it is."}}


def call(number: int, name: str, arguments: object) -> dict[str, Any]:
    return {"id": f"call{number:05d}", "type": "function", "function": {"name": name, "arguments": arguments}}


SYSTEM = {"role": "system", "content": "  You are terse, <b>&amp; exact.\n"}
QUESTION = {"role": "user", "content": "Wie spät ist es in 東京? 👋 \n"}
ANSWER = {"role": "assistant", "content": ' It\'s "late" there.\n'}
THOUGHT = {"role": "assistant", "content": "<think>\nTokyo is far.\n</think>\n\nLate."}
REASONED = {"role": "assistant", "content": "Late.", "reasoning": "Tokyo is far."}
CALLING = {"role": "assistant", "content": None, "tool_calls": [call(1, "clock", '{"zone": "Asia/Tokyo", "a": [1]}')]}
CALLED = {"role": "tool", "tool_call_id": "call00001", "content": '{"hour": 23}'}
TWICE = {
    "role": "assistant",
    "content": "Both.",
    "tool_calls": [call(2, "weather", {"place": "Zürich", "days": 2, "where": None}), call(3, "clock", {})],
}
CONVERSATIONS: dict[str, list[dict[str, Any]]] = {
    "question": [QUESTION],
    "system": [SYSTEM, QUESTION],
    "turns": [QUESTION, ANSWER, QUESTION],
    "system and turns": [SYSTEM, QUESTION, ANSWER, QUESTION, ANSWER, QUESTION],
    "answered": [SYSTEM, QUESTION, ANSWER],
    "thoughts": [SYSTEM, QUESTION, THOUGHT, QUESTION, REASONED],
    "called": [SYSTEM, QUESTION, CALLING, CALLED],
    "called and answered": [QUESTION, CALLING, CALLED, ANSWER, QUESTION],
    "two calls": [QUESTION, TWICE, CALLED, {**CALLED, "content": "sunny"}, ANSWER],
    "two users": [QUESTION, QUESTION],
    "assistant first": [ANSWER, QUESTION],
    "parts": [{"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": " b"}]}],
    "empty": [{"role": "user", "content": ""}],
}
CALLERS = ("command", "deepseek", "glm", "granite", "harmony", "llama3", "mistral", "qwen")
"""Families that know tools."""


def theirs(tokenizer: Any, messages: list[dict[str, Any]], **options: Any) -> str | None:
    """Return what transformers renders, or None where the template fails."""
    try:
        return str(tokenizer.apply_chat_template(messages, tokenize=False, **options))
    except (TemplateError, TypeError, ValueError):
        return None


def ours(template: ChatTemplate, messages: list[dict[str, Any]], **options: Any) -> str | None:
    try:
        return template.render(messages, **options)
    except RequestError:
        return None


def compare(saved: Saved, opened: Opened, family: str, messages: list[dict[str, Any]], **options: Any) -> str | None:
    """Return the text that both agree on."""
    messages = check_messages(messages)
    tokenizer, template = saved(family)[1], opened(family)
    found = ours(template, messages, **options)
    expected = theirs(tokenizer, messages, **options)
    if found != expected and found is not None:
        # Some templates write the date, which may have changed between the two.
        found = ours(template, messages, **options)
    assert found == expected
    return found


@pytest.mark.parametrize("prompted", [True, False], ids=["prompted", "ended"])
@pytest.mark.parametrize("tools", [None, check_tools([WEATHER, CLOCK])], ids=["plain", "tools"])
@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_comes_out_as_from_transformers(
    saved: Saved, opened: Opened, family: str, tools: list[dict[str, Any]] | None, prompted: bool
) -> None:
    texts = {
        name: compare(saved, opened, family, messages, tools=tools, add_generation_prompt=prompted)
        for name, messages in CONVERSATIONS.items()
    }
    assert all(texts[name] for name in ("question", "turns"))
    assert all("東京" in (texts[name] or "") for name in ("question", "turns"))
    if family == "gemma":
        assert texts["system"] is texts["two users"] is texts["assistant first"] is None
    else:
        assert all(texts[name] for name in ("system", "system and turns", "answered", "parts", "empty"))
    if tools and family in CALLERS:
        assert all("clock" in (texts[name] or "") for name in ("called", "called and answered"))


@pytest.mark.parametrize(
    ("family", "variables"),
    [
        ("qwen", {"enable_thinking": False}),
        ("harmony", {"reasoning_effort": "high"}),
        ("llama3", {"date_string": "1 Apr 2030"}),
        ("granite", {"controls": {"length": "short"}}),
        ("granite", {"documents": [{"title": "b", "text": "two"}, {"title": "a", "text": "one"}]}),
    ],
)
def test_variables_reach_the_template(saved: Saved, opened: Opened, family: str, variables: dict[str, Any]) -> None:
    messages = [SYSTEM, QUESTION]
    found = compare(saved, opened, family, messages, add_generation_prompt=True, **variables)
    assert found
    assert found != compare(saved, opened, family, messages, add_generation_prompt=True)


@pytest.mark.parametrize("last", [ANSWER, {"role": "assistant", "content": "The answer"}, QUESTION])
@pytest.mark.parametrize("family", FAMILIES)
def test_a_message_is_continued_as_by_transformers(
    saved: Saved, opened: Opened, family: str, last: dict[str, Any]
) -> None:
    messages = [QUESTION, ANSWER, last] if last is QUESTION else [QUESTION, last]
    expected = theirs(saved(family)[1], messages, continue_final_message=True)
    found = ours(opened(family), messages, continue_final_message=True)
    assert found == expected
    assert found is not None
    assert found.rstrip().endswith(last["content"].strip())


TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=20) | st.sampled_from(
    ["<|im_end|>", "{{ 1 }}", "{% raw %}", "</think>", "###", " \n"]
)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-9, 9) | st.floats(-1, 1) | TEXT,
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(TEXT, inner, max_size=2),
    max_leaves=4,
)
CALLS = st.lists(
    st.builds(call, st.integers(0, 9), st.sampled_from(["clock", "weather"]), st.dictionaries(TEXT, VALUES)), max_size=2
)
MESSAGE = st.one_of(
    st.builds(lambda role, text: {"role": role, "content": text}, st.sampled_from(["user", "assistant"]), TEXT),
    st.builds(lambda text, calls: {"role": "assistant", "content": text, "tool_calls": calls}, TEXT, CALLS),
    st.builds(lambda text: {"role": "tool", "tool_call_id": "call00001", "content": text}, TEXT),
    st.builds(lambda text, why: {"role": "assistant", "content": text, "reasoning_content": why}, TEXT, TEXT),
)
TURNS = st.lists(st.tuples(TEXT, TEXT), max_size=2).map(
    lambda pairs: [
        {"role": role, "content": text}
        for pair in pairs
        for role, text in zip(("user", "assistant"), pair, strict=True)
    ]
)
OPENING = st.sampled_from([[], [SYSTEM]])


@pytest.mark.parametrize("family", FAMILIES)
@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(OPENING, TURNS, st.lists(MESSAGE, max_size=4), st.booleans(), st.booleans())
def test_any_conversation_comes_out_as_from_transformers(
    saved: Saved,
    opened: Opened,
    family: str,
    opening: list[dict[str, Any]],
    turns: list[dict[str, Any]],
    rest: list[dict[str, Any]],
    with_tools: bool,
    prompted: bool,
) -> None:
    tools = check_tools([WEATHER]) if with_tools else None
    messages = [*opening, *turns, *rest] or [QUESTION]
    compare(saved, opened, family, messages, tools=tools, add_generation_prompt=prompted)
