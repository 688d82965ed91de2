"""Where a conversation is read and written: a terminal, or a script's pipes."""

import os
import signal
import sys
import unicodedata
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from types import FrameType
from typing import Final, Protocol

import click

from deploykit.errors import DeploykitError, RequestError

_PROMPT: Final = "> "
_MORE: Final = ". "
_OVERRIDES: Final = frozenset("\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")
"""They change the direction of what follows, so that a line reads as another than it is."""


class Screen(Protocol):
    """What reads and writes."""

    interactive: bool
    """Whether a person is there: failures and Ctrl-C then end an answer, and not the conversation."""

    def read(self) -> str | None:
        """Return the next line, or None at the end."""

    def write(self, text: str) -> None:
        """Show a piece of an answer."""

    def end(self) -> None:
        """End an answer."""

    def note(self, text: str) -> None:
        """Show what is no part of the conversation."""

    def fail(self, error: DeploykitError) -> None:
        """Show why there is no answer."""


class Pipe:
    """Lines in, answers out, nothing else: notes go to stderr."""

    interactive = False

    def read(self) -> str | None:
        """Return the next line as it is."""
        line = sys.stdin.readline()
        return line.removesuffix("\n").removesuffix("\r") if line else None

    def write(self, text: str) -> None:
        """Write a piece of an answer."""
        # As it is: a terminal at the end of a pipe is that program's business.
        sys.stdout.write(shown(text) if sys.stdout.isatty() else text)
        sys.stdout.flush()

    def end(self) -> None:
        """End the answer's line."""
        self.write("\n")

    def note(self, text: str) -> None:
        """Write to stderr."""
        click.echo(shown(text), err=True)

    def fail(self, error: DeploykitError) -> None:
        """End the conversation, and with it the command."""
        raise error


class Terminal:
    """A person at a terminal, with line editing."""

    interactive = True

    def __init__(self, commands: Sequence[str], earlier: Sequence[str] = ()) -> None:
        """Set up line editing.

        Args:
            commands: completed by the tabulator key.
            earlier: lines that the arrow keys bring back.
        """
        self._within = False
        self._color = None if not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb" else False
        # Python may have been built without it; lines are then edited as the terminal does.
        with suppress(ImportError):
            import readline

            readline.set_completer_delims("")
            readline.set_completer(partial(_completion, commands))
            readline.parse_and_bind("tab: complete")
            for line in earlier:
                readline.add_history(line)

    def read(self) -> str | None:
        """Return what was typed, lines joined that end in a backslash."""
        lines: list[str] = []
        while True:
            try:
                line = input(_MORE if lines else _PROMPT)
            except EOFError:
                click.echo()
                return None
            if not line.endswith("\\"):
                return "\n".join([*lines, line])
            lines.append(line[:-1])

    def write(self, text: str) -> None:
        """Show a piece of an answer, harmless to the terminal."""
        made = shown(text)
        self._within = not made.endswith("\n") if made else self._within
        sys.stdout.write(made)
        sys.stdout.flush()

    def end(self) -> None:
        """Leave a line empty after an answer."""
        click.echo("\n" if self._within else "")
        self._within = False

    def note(self, text: str) -> None:
        """Show in a weaker colour."""
        click.secho(shown(text), dim=True, color=self._color)

    def fail(self, error: DeploykitError) -> None:
        """Show the error, as a command's own."""
        line = " ".join(str(error).split())
        click.echo(f"{click.style('error:', fg='red', bold=True)} {shown(line)}", color=self._color)


def _completion(commands: Sequence[str], text: str, number: int) -> str | None:
    """Return the command that may be meant by what was typed so far, of several the one with this number."""
    meant = [f"{name} " for name in commands if text.startswith("/") and name.startswith(text)]
    return meant[number] if number < len(meant) else None


def shown(text: str) -> str:
    """Return a text without what a terminal would obey; line ends and tabulators stay."""
    return "".join(_harmless(char) for char in text if char != "\r")


def _harmless(char: str) -> str:
    if char in "\n\t" or " " <= char <= "~":
        return char
    return "\ufffd" if char in _OVERRIDES or unicodedata.category(char) in ("Cc", "Cs") else char


def check_line(line: str) -> None:
    """Pass a line that is text.

    Raises:
        RequestError: bytes in it were no UTF-8.
    """
    try:
        line.encode()
    except UnicodeEncodeError as error:
        raise RequestError(f"the line isn't UTF-8 at character {error.start}; check the terminal's encoding") from None


class Interruption:
    """Whether Ctrl-C was heard."""

    def __init__(self) -> None:
        self.heard = False


@contextmanager
def one_interrupt() -> Iterator[Interruption]:
    """Have Ctrl-C raise a KeyboardInterrupt until it is marked as heard, and be ignored from then on.

    Whoever presses it twice means the answer, too, and not the whole conversation.
    """
    interruption = Interruption()

    def hear(_number: int, _frame: FrameType | None) -> None:
        if not interruption.heard:
            raise KeyboardInterrupt

    before = signal.signal(signal.SIGINT, hear)
    try:
        yield interruption
    finally:
        signal.signal(signal.SIGINT, before)
