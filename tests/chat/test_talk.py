"""What a line does, with a model whose answers are known."""

import os
import re
import signal
from collections.abc import Generator, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from deploykit.chat import Conversation, Talk
from deploykit.chat.models import Piece, TooLongError
from deploykit.chat.screen import one_interrupt, shown
from deploykit.chat.talk import LEAVING
from deploykit.errors import ConfigError, DeploykitError, EngineError, RequestError


class Parrot:
    """Repeats the last message, a word at a time; its context holds so many messages."""

    name, about = "parrot", "repeats"

    def __init__(self, room: int = 99) -> None:
        self.room = room
        self.got: list[list[str]] = []
        self.options: list[dict[str, Any]] = []

    def answer(
        self, messages: list[dict[str, Any]], sampling: Mapping[str, Any], *, tight: bool = False
    ) -> Generator[Piece, None, None]:
        if len(messages) > self.room and not tight:
            raise TooLongError("too long")
        self.got.append([message["content"] for message in messages])
        self.options.append(dict(sampling))
        for word in messages[-1]["content"].split():
            if word == "INTERRUPT":
                os.kill(os.getpid(), signal.SIGINT)
            if word == "FAIL":
                raise EngineError("it failed")
            yield Piece(text=f"{word} ", tokens=1)
        yield Piece(text="", tokens=7, finish_reason="length" if "LONG" in messages[-1]["content"] else "stop")

    def check(self, sampling: Mapping[str, Any]) -> None:
        if sampling.get("temperature") == 1000:
            raise RequestError("too hot")

    def close(self) -> None:
        pass


class Script:
    """A screen that reads from a list."""

    def __init__(self, *lines: str | type[KeyboardInterrupt], interactive: bool = True) -> None:
        self.interactive = interactive
        self._lines: Iterator[Any] = iter(lines)
        self.answers = [""]
        self.notes: list[str] = []
        self.errors: list[str] = []

    def read(self) -> str | None:
        line = next(self._lines, None)
        if line is KeyboardInterrupt:
            raise KeyboardInterrupt
        return line if isinstance(line, str) else None

    def write(self, text: str) -> None:
        self.answers[-1] += text

    def end(self) -> None:
        self.answers.append("")

    def note(self, text: str) -> None:
        self.notes.append(text)

    def fail(self, error: DeploykitError) -> None:
        if not self.interactive:
            raise error
        self.errors.append(str(error))


def talk(*lines: str | type[KeyboardInterrupt], room: int = 99, **options: Any) -> tuple[Parrot, Script, Talk]:
    model, screen = Parrot(room), Script(*lines)
    held = Talk(model, options.pop("conversation", Conversation()), screen, **options)
    held.run()
    return model, screen, held


def test_each_answer_is_part_of_the_next_request() -> None:
    model, screen, _ = talk("hello there", "  ", "again")
    assert model.got == [["hello there"], ["hello there", "hello there ", "again"]]
    assert screen.answers == ["hello there ", "again ", ""]


def test_a_stopped_answer_is_kept_and_marked() -> None:
    model, screen, held = talk("one INTERRUPT two", "next")
    assert held.conversation.messages[1] == {"role": "assistant", "content": "one ", "stopped": True}
    assert model.got[1] == ["one INTERRUPT two", "one ", "next"]
    assert screen.notes == ["(stopped)"]


def test_an_answer_stopped_before_it_began_takes_the_message_back() -> None:
    model, screen, _ = talk("INTERRUPT", "next")
    assert model.got[1] == ["next"]
    assert screen.notes == ["(stopped; the message is taken back)"]


def test_ctrl_c_at_the_prompt_says_how_to_leave() -> None:
    model, screen, _ = talk(KeyboardInterrupt, KeyboardInterrupt, "hello")
    assert [note.strip() for note in screen.notes] == ["Ctrl-D or /exit leaves, /help says what else there is"] * 2
    assert model.got == [["hello"]]


def test_a_ctrl_c_between_two_answers_ends_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    heard: list[str] = []

    def note(self: Script, text: str) -> None:
        self.notes.append(text)
        if text == "(stopped)" and not heard:
            heard.append(text)
            signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(Script, "note", note)
    model, screen, _ = talk("one INTERRUPT two", "next")
    assert [text.strip() for text in screen.notes] == ["(stopped)", LEAVING]
    assert model.got[1] == ["one INTERRUPT two", "one ", "next"]


def test_a_message_that_nobody_will_answer_is_taken_back(monkeypatch: pytest.MonkeyPatch) -> None:
    def ask(self: Conversation, text: str) -> None:
        self.messages.append({"role": "user", "content": text})
        if text == "lost":
            raise KeyboardInterrupt

    monkeypatch.setattr(Conversation, "ask", ask)
    assert talk("lost", "next")[0].got == [["next"]]


def test_without_a_person_ctrl_c_and_failures_end_it() -> None:
    for line, error in (("INTERRUPT", KeyboardInterrupt), ("FAIL", EngineError), ("/nope", ConfigError)):
        with pytest.raises(error):
            Talk(Parrot(), Conversation(), Script(line, "more", interactive=False)).run()


def test_a_failure_is_shown_and_the_message_is_not_said() -> None:
    model, screen, held = talk("a", "FAIL", "half FAIL", "b")
    assert screen.errors == ["it failed", "it failed"]
    assert model.got[-1] == ["a", "a ", "half FAIL", "half ", "b"]
    assert held.conversation.messages[3]["stopped"] is True


def test_the_oldest_turns_are_left_out_when_the_context_is_full() -> None:
    model, screen, held = talk("a", "b", "c", "d", room=3)
    assert model.got[-1] == ["c", "c ", "d"]
    assert screen.notes == ["(the context is full: the oldest messages are left out from now on)"]
    assert len(held.conversation.messages) == 8


def test_a_message_that_fills_the_context_alone_is_answered_in_what_room_is_left() -> None:
    model, screen, _ = talk("a", "b", room=0)
    assert model.got == [["a"], ["b"]]
    assert screen.errors == []


def test_why_an_answer_was_cut_is_said() -> None:
    assert talk("LONG", "short")[1].notes == ["(cut at 7 tokens: max_tokens)"]


def test_commands_change_what_the_model_gets() -> None:
    model, screen, held = talk("/system Be brief.", "a", "/retry", "/undo", "/system", '/system ""', "b", "/reset", "c")
    assert model.got == [["Be brief.", "a"], ["Be brief.", "a"], ["b"], ["c"]]
    assert "Be brief." in screen.notes
    assert screen.errors == []
    assert not held.over


def test_there_may_be_nothing_to_undo() -> None:
    _, screen, _ = talk("/undo", "/retry", "/history")
    assert screen.notes == [
        "there is nothing to take back",
        "there is nothing to answer again",
        "nothing was said yet",
    ]


def test_options_are_set_shown_checked_and_dropped() -> None:
    model, screen, _ = talk(
        "/set temperature 0.5", "/set --top-p 0.9", "/set stop END", '/set bad-words ["x", "y"]', "a",
        "/set", "/set temperature 1000", "/set colour red", "/set stop", "/set bad_words", "b",
    )  # fmt: skip
    assert model.options[0] == {"temperature": 0.5, "top_p": 0.9, "stop": ["END"], "bad_words": ["x", "y"]}
    assert model.options[1] == {"temperature": 0.5, "top_p": 0.9}
    assert any("temperature 0.5\ntop_p 0.9" in note for note in screen.notes)
    assert screen.errors[0] == "too hot"
    assert screen.errors[1].startswith("there is no option 'colour'; there are max_tokens, temperature")


def test_slashes_begin_commands_and_two_a_message() -> None:
    model, screen, _ = talk("/etc/hosts is what?", "//etc/hosts is what?", "/quit", "never")
    assert screen.errors == ["there is no /etc/hosts; /help says what there is, and // begins a message with a slash"]
    assert model.got == [["/etc/hosts is what?"]]


def test_help_names_every_command() -> None:
    _, screen, _ = talk("/help")
    for name in ("/help", "/reset", "/retry", "/undo", "/system", "/set", "/history", "/save", "/exit", "Ctrl-C"):
        assert name in screen.notes[0]


def test_saving_again_needs_no_name(tmp_path: Path) -> None:
    file = tmp_path / "talk.json"
    _, screen, held = talk(f"/save {file}", "a", "/save", target="my model")
    assert held.file == file
    assert screen.notes == [f"saved in {file}; to go on with it: deploykit chat 'my model' --resume {file}"] * 2
    assert '"content": "a"' in file.read_text()


def test_saving_without_a_name_makes_one_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    talk("a", "/save", "/save")
    (made,) = tmp_path.iterdir()
    assert re.fullmatch(r"chat-\d{8}-\d{6}\.json", made.name)


def test_a_line_that_is_no_text_is_refused() -> None:
    _, screen, _ = talk("a\udcff")
    assert screen.errors == ["the line isn't UTF-8 at character 1; check the terminal's encoding"]


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("\x1b[2Jclear", "�[2Jclear"),
        ("\x1b]0;title\x07", "�]0;title�"),
        ("a\rb\r\nc\td", "ab\nc\td"),
        ("\x9b31m", "�31m"),
        ("\u202egnp.exe", "�gnp.exe"),
        ("👨\u200d👩\u200d👧 نمی\u200cخواهم\xa0é", "👨\u200d👩\u200d👧 نمی\u200cخواهم\xa0é"),
        ("\ud83d", "�"),
        ("\x7f\x08\x00", "���"),
    ],
)
def test_a_terminal_is_shown_nothing_that_it_would_obey(text: str, wanted: str) -> None:
    assert shown(text) == wanted


def test_a_second_ctrl_c_is_no_second_interruption() -> None:
    before = signal.getsignal(signal.SIGINT)
    with one_interrupt() as interruption:
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
        interruption.heard = True
        signal.raise_signal(signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is before
