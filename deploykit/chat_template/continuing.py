"""Prompts that end within the last message, so that the model goes on with it."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, Self

from deploykit.errors import RequestError

_MARK: Final = "\ue0c7continue\ue0c7"
"""Stands where the last message ends, since only the template knows where that is. Of a private area of Unicode."""


@dataclass(frozen=True, kw_only=True)
class Continuation:
    """Messages with a mark at their end."""

    messages: list[dict[str, Any]]
    last: str

    @classmethod
    def of(cls, messages: Sequence[dict[str, Any]]) -> Self:
        """Return messages with the mark.

        Raises:
            RequestError: the last message has no text.
        """
        last = messages[-1].get("content")
        if not isinstance(last, str) or not last:
            raise RequestError("continue_final_message goes on with the last message's text, and it has none")
        if any(_MARK in str(message.get("content")) for message in messages):
            raise RequestError("the messages hold the mark by which the last one's end is found; leave it out")
        # A space behind it shows whether the template trims.
        return cls(messages=[*messages[:-1], {**messages[-1], "content": f"{last}{_MARK} "}], last=last)

    def cut(self, text: str) -> str:
        """Return a rendered text up to the mark.

        Raises:
            RequestError: the template has left the last message out, or changed it.
        """
        place = text.rfind(_MARK)
        if place < 0 or self.last.strip() not in text:
            raise RequestError("the model's chat template doesn't show the last message as it is, so it can't go on")
        before = text[:place]
        return before if text[place:].startswith(f"{_MARK} ") else before.rstrip()
