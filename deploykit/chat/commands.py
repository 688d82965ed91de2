"""The lines that begin with a slash."""

import json
import shlex
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from deploykit.chat.saving import save
from deploykit.errors import ConfigError

if TYPE_CHECKING:
    from deploykit.chat.talk import Talk

SETTINGS: Final = (
    *("max_tokens", "temperature", "top_k", "top_p", "min_p", "repetition_penalty", "presence_penalty"),
    *("frequency_penalty", "bad_words", "seed", "stop", "min_tokens", "ignore_eos"),
)
"""Sampling options that a conversation can change."""


@dataclass(frozen=True, kw_only=True)
class Command:
    """What a line does."""

    usage: str
    help: str
    run: Callable[["Talk", str], None]


def _help(talk: "Talk", _rest: str) -> None:
    width = max(len(command.usage) for command in COMMANDS.values())
    lines = [f"{command.usage:<{width}}  {command.help}" for command in COMMANDS.values()]
    keys = (
        "Ctrl-C stops an answer, Ctrl-D leaves. \\ at a line's end goes on in the next; // begins a line with a slash."
    )
    talk.screen.note("\n".join([*lines, "", keys]))


def _reset(talk: "Talk", _rest: str) -> None:
    talk.conversation.reset()
    talk.screen.note("a new conversation begins")


def _undo(talk: "Talk", _rest: str) -> None:
    said = talk.conversation.undo()
    talk.screen.note("there is nothing to take back" if said is None else f"taken back: {_short(said)}")


def _retry(talk: "Talk", _rest: str) -> None:
    said = talk.conversation.undo()
    if said is None:
        talk.screen.note("there is nothing to answer again")
    else:
        talk.say(said)


def _system(talk: "Talk", rest: str) -> None:
    if rest:
        talk.conversation.system = "" if rest in ('""', "''") else rest
        talk.screen.note(
            "the model is told so from the next answer on" if talk.conversation.system else "no system message any more"
        )
    else:
        talk.screen.note(
            talk.conversation.system or 'no system message; /system TEXT sets one, and /system "" takes it away'
        )


def _set(talk: "Talk", rest: str) -> None:
    name, _, value = rest.partition(" ")
    name = name.replace("-", "_").removeprefix("__")
    if not name:
        chosen = [f"{option} {json.dumps(talk.sampling[option], ensure_ascii=False)}" for option in talk.sampling]
        talk.screen.note("\n".join(chosen) or f"all as the model has it; /set NAME VALUE, of {', '.join(SETTINGS)}")
        return
    if name not in SETTINGS:
        raise ConfigError(f"there is no option {name!r}; there are {', '.join(SETTINGS)}")
    changed = {option: given for option, given in talk.sampling.items() if option != name}
    if value.strip():
        changed[name] = _value(name, value.strip())
    talk.model.check(changed)
    talk.sampling = changed
    talk.screen.note(
        f"{name} is {json.dumps(changed[name], ensure_ascii=False)}"
        if name in changed
        else f"{name} is the model's own"
    )


def _history(talk: "Talk", _rest: str) -> None:
    conversation = talk.conversation
    if conversation.system:
        talk.screen.note(f"system: {conversation.system}")
    for number, message in enumerate(conversation.messages):
        left_out = " (left out: the context is full)" if number < conversation.forgotten else ""
        mark = " (stopped)" if message.get("stopped") else ""
        talk.screen.note(f"{message['role']}{left_out}{mark}: {message['content']}")
    if not conversation.messages:
        talk.screen.note("nothing was said yet")


def _save(talk: "Talk", rest: str) -> None:
    file = Path(rest).expanduser() if rest else talk.file or Path(time.strftime("chat-%Y%m%d-%H%M%S.json"))
    save(file, talk.conversation, model=talk.model.name, sampling=talk.sampling)
    talk.file = file
    command = shlex.join(["deploykit", "chat", talk.target, "--resume", str(file)])
    talk.screen.note(f"saved in {file}; to go on with it: {command}")


def _exit(talk: "Talk", _rest: str) -> None:
    talk.over = True


def _value(name: str, text: str) -> object:
    try:
        value: object = json.loads(text)
    except ValueError:
        value = text
    if name in ("stop", "bad_words"):
        return value if isinstance(value, list) else [value if isinstance(value, str) else text]
    return value


def _short(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= 60 else f"{line[:59]}…"


COMMANDS: Final = {
    "/help": Command(usage="/help", help="what can be typed here", run=_help),
    "/reset": Command(usage="/reset", help="begin a new conversation", run=_reset),
    "/retry": Command(usage="/retry", help="have the last message answered again", run=_retry),
    "/undo": Command(usage="/undo", help="take the last message and its answer back", run=_undo),
    "/system": Command(usage="/system [TEXT]", help="show or set the system message", run=_system),
    "/set": Command(usage="/set [NAME [VALUE]]", help="show, change or drop an option such as temperature", run=_set),
    "/history": Command(usage="/history", help="show what was said", run=_history),
    "/save": Command(usage="/save [FILE]", help="write the conversation to a file", run=_save),
    "/exit": Command(usage="/exit", help="leave", run=_exit),
}
ALIASES: Final = {"/quit": "/exit", "/bye": "/exit", "/?": "/help", "/clear": "/reset"}


def run_command(talk: "Talk", line: str) -> None:
    """Do what a line says.

    Raises:
        DeploykitError: there is no such command, or it can't be done.
    """
    name, _, rest = line.partition(" ")
    command = COMMANDS.get(ALIASES.get(name, name))
    if command is None:
        raise ConfigError(f"there is no {name}; /help says what there is, and // begins a message with a slash")
    command.run(talk, rest.strip())
