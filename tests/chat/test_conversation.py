"""What is remembered of a conversation, what the model gets of it, and how it lies in a file."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deploykit.chat import Conversation, load, save
from deploykit.chat.conversation import as_text
from deploykit.errors import ConfigError, OutputError


def turns(*texts: str) -> Conversation:
    conversation = Conversation()
    for number, text in enumerate(texts):
        if number % 2:
            conversation.answer(text)
        else:
            conversation.ask(text)
    return conversation


def contents(conversation: Conversation) -> list[str]:
    return [message["content"] for message in conversation.sent()]


def test_the_model_gets_the_system_message_first_and_no_marks() -> None:
    conversation = Conversation(system="Be brief.")
    conversation.ask("a")
    conversation.answer("b", stopped=True)
    assert conversation.sent() == [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "a"},
        {"role": "assistant", "content": "b"},
    ]
    assert conversation.messages[1]["stopped"] is True


def test_the_oldest_turns_are_left_out_first_and_the_last_never() -> None:
    conversation = turns("a", "b", "c", "d", "e")
    assert conversation.forget()
    assert contents(conversation) == ["c", "d", "e"]
    assert conversation.forget()
    assert contents(conversation) == ["e"]
    assert not conversation.forget()
    assert contents(conversation) == ["e"]
    assert len(conversation.messages) == 5


def test_undo_takes_a_turn_back_answered_or_not() -> None:
    conversation = turns("a", "b", "c")
    assert conversation.undo() == "c"
    assert conversation.undo() == "a"
    assert conversation.undo() is None
    conversation = turns("a", "b", "c", "d")
    conversation.forget()
    assert conversation.undo() == "c"
    assert conversation.undo() == "a"
    assert conversation.forgotten == 0


def test_a_running_text_keeps_answers_where_they_belong() -> None:
    assert as_text(turns("def f():", "\n    return 1", "def g():").sent()) == "def f():\n    return 1\ndef g():"
    assert as_text(turns("a\n", "b\n", "c").sent()) == "a\nb\nc"


TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)


@given(st.lists(TEXT, max_size=6), TEXT, st.integers(0, 6), st.booleans())
def test_a_saved_conversation_is_the_same_again(
    tmp_path_factory: pytest.TempPathFactory, texts: list[str], system: str, forgotten: int, stopped: bool
) -> None:
    file = tmp_path_factory.getbasetemp() / "conversation.json"
    conversation = turns(*texts)
    conversation.system = system
    conversation.forgotten = min(forgotten, len(conversation.messages))
    if stopped and len(texts) > 1:
        conversation.messages[1]["stopped"] = True
    save(file, conversation, model="tiny", sampling={"temperature": 0.5, "stop": ["x"]})
    assert load(file) == (conversation, {"temperature": 0.5, "stop": ["x"]}, "tiny")


def test_a_saved_conversation_is_its_owners_alone_and_replaced_whole(tmp_path: Path) -> None:
    file = tmp_path / "talk.json"
    for text in ("a" * 1000, "b"):
        save(file, turns(text), model="tiny", sampling={})
        assert load(file)[0].messages[0]["content"] == text
    assert file.stat().st_mode & 0o777 == 0o600
    assert list(tmp_path.iterdir()) == [file]


@pytest.mark.parametrize("content", ["# Notes\n", '{"mine": 1}', "[]"])
def test_what_is_no_conversation_is_never_replaced(tmp_path: Path, content: str) -> None:
    file = tmp_path / "notes"
    file.write_text(content)
    with pytest.raises(OutputError, match="is no conversation of `deploykit chat`, so it is kept"):
        save(file, turns("a"), model="tiny", sampling={})
    assert file.read_text() == content


def test_where_nothing_can_be_written_is_said(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="a folder; name a file in it"):
        save(tmp_path, turns("a"), model="tiny", sampling={})
    with pytest.raises(OutputError, match="can't be written: No such file or directory"):
        save(tmp_path / "missing" / "file", turns("a"), model="tiny", sampling={})


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"deploykit_chat": 2}, "of another version"),
        ({"messages": [{"role": "king", "content": "x"}]}, r"messages\[0\]\.role is 'king'"),
        ({"messages": 3}, r"messages\[0\] is a number"),
        ({"messages": [{"role": "user", "content": "a\ud800"}]}, "lone surrogate"),
        ({"forgotten": 9}, "was changed so that it can't be read"),
        ({"forgotten": "1"}, "was changed"),
        ({"sampling": []}, "was changed"),
        ({"system": None}, "was changed"),
    ],
)
def test_a_file_that_was_changed_is_said(tmp_path: Path, change: dict[str, Any], said: str) -> None:
    file = tmp_path / "talk.json"
    save(file, turns("a", "b"), model="tiny", sampling={})
    file.write_text(json.dumps({**json.loads(file.read_text()), **change}))
    with pytest.raises(ConfigError, match=said):
        load(file)


@pytest.mark.parametrize(("content", "said"), [(b"\xff", "not JSON in UTF-8"), (b"{", "not JSON"), (b"[1]", "no conv")])
def test_a_file_that_is_no_conversation_is_said(tmp_path: Path, content: bytes, said: str) -> None:
    file = tmp_path / "talk.json"
    file.write_bytes(content)
    with pytest.raises(ConfigError, match=said):
        load(file)
    with pytest.raises(ConfigError, match="no such file"):
        load(tmp_path / "missing")
