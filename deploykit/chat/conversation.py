"""What was said so far."""

from dataclasses import dataclass, field
from typing import Any, Final

STOPPED: Final = "stopped"
"""Marks an answer that was broken off; templates never see it."""


@dataclass(kw_only=True)
class Conversation:
    """A system message, and turns: a user's message and its answer."""

    system: str = ""
    messages: list[dict[str, Any]] = field(default_factory=list)
    forgotten: int = 0
    """Messages at the beginning that the model no longer gets, since its context is full."""

    def ask(self, text: str) -> None:
        """Add a user's message."""
        self.messages.append({"role": "user", "content": text})

    def answer(self, text: str, *, stopped: bool = False) -> None:
        """Add the answer to the last message."""
        self.messages.append({"role": "assistant", "content": text, **({STOPPED: True} if stopped else {})})

    def undo(self) -> str | None:
        """Take the last turn back and return what the user said; None where nothing was said."""
        while self.messages:
            message = self.messages.pop()
            if message["role"] == "user":
                self.forgotten = min(self.forgotten, len(self.messages))
                return str(message["content"])
        return None

    def settle(self) -> None:
        """Take back a message that will not be answered any more."""
        if self.messages and self.messages[-1]["role"] == "user":
            self.undo()

    def reset(self) -> None:
        """Forget all turns, and keep the system message."""
        self.messages.clear()
        self.forgotten = 0

    def forget(self) -> bool:
        """Keep the oldest turn from the model from now on; False where it is the one that waits for an answer."""
        later = range(self.forgotten + 1, len(self.messages))
        following = next((number for number in later if self.messages[number]["role"] == "user"), None)
        if following is None:
            return False
        self.forgotten = following
        return True

    def sent(self) -> list[dict[str, Any]]:
        """Return the messages that the model gets."""
        opening = [{"role": "system", "content": self.system}] if self.system else []
        kept = [{k: v for k, v in message.items() if k != STOPPED} for message in self.messages[self.forgotten :]]
        return [*opening, *kept]

    def texts(self) -> list[str]:
        """Return what the user said, in order."""
        return [str(message["content"]) for message in self.messages if message["role"] == "user"]


def as_text(messages: list[dict[str, Any]]) -> str:
    """Return messages as one running text, for a model that continues texts.

    Each begins on a line of its own, but an answer goes on where the message before it ends.
    """
    text = ""
    for message in messages:
        if message["role"] != "assistant" and text and not text.endswith("\n"):
            text += "\n"
        text += str(message["content"])
    return text
