"""How `deploykit` and `tritonserver` take a command line apart."""

import difflib
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Final, TypeVar

import deploykit.deploy.check.flags as flags
from deploykit.deploy.check.words import Word, is_known
from deploykit.errors import ConfigError
from deploykit.sizes import parse_bytes

Config = TypeVar("Config")
_READ: Final[Mapping[str, Callable[[str], object]]] = {"int": int, "float": float, "bytes": parse_bytes}
_MEANT: Final = {"int": "a whole number", "float": "a number", "bytes": "an amount of memory such as 512MiB"}


@dataclass(frozen=True, kw_only=True)
class Problem:
    """A word of a command line that the command refuses."""

    field: str
    """Path below the container: `args[3]`."""
    value: str
    why: str
    remedy: str


@dataclass(frozen=True, kw_only=True)
class Option:
    """A flag as it was given, the last one where there are several."""

    text: str
    """As it was written; empty for a flag that takes nothing."""
    value: Any
    """What it means: an int for a port, bytes for an amount; None where it can't be known or is refused."""
    field: str
    """Path below the container: `args[3]`."""


class Reading:
    """A command line being taken apart: its options, its operands, and what is wrong with it."""

    def __init__(self, command: str, known: Mapping[str, flags.Takes] | None) -> None:
        self.command = command
        self.known = known
        """What each flag takes; None for Triton's, which all take a text."""
        self.options: dict[str, Option] = {}
        self.operands: list[Word] = []
        self.problems: list[Problem] = []

    def refuse(self, field: str, value: str, why: str, remedy: str) -> None:
        """Note something that the command refuses."""
        self.problems.append(Problem(field=field, value=value, why=f"{self.command} {why}", remedy=remedy))

    def certain(self, flag: str) -> bool:
        """Return whether what a flag sets is known, if only its default."""
        return flag not in self.options or self.options[flag].value is not None

    def take(self, words: Sequence[Word]) -> None:
        """Take words apart: `--flag=value`, `--flag value`, `-o value`, operands, and `--` before operands alone."""
        rest = list(words)
        while rest:
            word = rest.pop(0)
            if word.text == "--":
                self.operands += rest
                return
            if word.text.startswith("-") and len(word.text) > 1:
                self._take_flag(word, rest)
            else:
                self.operands.append(word)

    def config(self, make: Callable[..., Config], settings: Mapping[str, Any]) -> Config:
        """Return a configuration of what it can be made of; what it refuses is noted and left out."""
        with suppress(ConfigError):
            return make(**settings)
        sound: dict[str, Any] = {}
        for name, value in settings.items():
            try:
                make(**{**sound, name: value})
            except ConfigError as error:
                option = next((o for flag, o in self.options.items() if flags.field(flag) == name), None)
                self.refuse(
                    option.field if option else "args", str(value), f"refuses it: {error}", "write another value"
                )
            else:
                sound[name] = value
        return make(**sound)

    def _take_flag(self, word: Word, rest: list[Word]) -> None:
        flag, equals, value = word.text.partition("=")
        if self.known is not None and not flag.startswith("--") and len(flag) > 2:
            flag, equals, value = word.text[:2], "=", word.text[2:]
        takes = self._takes(flag, word)
        if takes is None:
            return
        if takes == "nothing":
            if equals:
                self.refuse(word.field, word.text, f"takes no value for {flag}", f"write {flag} alone")
            self.options[flag] = Option(text="", value=True, field=word.field)
        elif not equals and not rest:
            self.refuse(word.field, word.text, f"wants a value for {flag}", f"write {flag}=VALUE")
        else:
            text = value if equals else rest.pop(0).text
            self.options[flag] = Option(text=text, value=self._value(flag, takes, text, word), field=word.field)

    def _takes(self, flag: str, word: Word) -> flags.Takes | None:
        """Return what a flag takes, None where there is no such flag."""
        if not is_known(flag):
            return None
        if self.known is None:
            # It takes the beginning of an option for the whole, and later releases have more of them.
            begun = any(option.startswith(flag) for option in flags.TRITON)
            near = [] if begun else difflib.get_close_matches(flag, flags.TRITON, n=1, cutoff=0.75)
            if near:
                self.refuse(word.field, word.text, f"has no option {flag}", f"write {near[0]}")
            return "nothing" if flag in flags.TRITON_SWITCHES else "text"
        if flag in self.known:
            return self.known[flag]
        near = difflib.get_close_matches(flag, self.known, n=1)
        self.refuse(
            word.field,
            word.text,
            f"has no option {flag} and ends with status 2",
            f"write {near[0]}" if near else "take it out",
        )
        return None

    def _value(self, flag: str, takes: flags.Takes, text: str, word: Word) -> Any:
        if not is_known(text):
            return None
        if takes in flags.CHOICES and text not in flags.CHOICES[takes]:
            self.refuse(
                word.field, text, f"doesn't know it for {flag}", f"write one of {', '.join(flags.CHOICES[takes])}"
            )
            return None
        if takes not in _READ:
            return text
        try:
            return _READ[takes](text)
        except (ValueError, ConfigError):
            self.refuse(word.field, text, f"wants {_MEANT[takes]} for {flag}", f"write {flag}={_MEANT[takes]}")
            return None
