"""What is done to text before it is learnt from, and the count of it."""

import re
import unicodedata
from collections import Counter
from dataclasses import asdict, dataclass, fields
from typing import Any, Final

_ENDING: Final = re.compile(r"\r\n?")
_CONTROL: Final = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]+")
"""Unicode's category Cc but for tab and line feed. What joins emoji is of another category, and kept."""


@dataclass(frozen=True, kw_only=True)
class Counts:
    """What became of one file's lines, or records."""

    lines: int = 0
    kept: int = 0
    """Lines that are learnt from; of running text all are."""
    empty: int = 0
    """Left out: nothing, or a source, target, text or label without a letter."""
    without_tab: int = 0
    """Left out: a line that should be two fields is one."""
    too_long: int = 0
    """Left out: more tokens than `max_source_tokens` or `max_target_tokens`."""
    extra_fields: int = 0
    """Kept, but more fields than two: the rest is left out."""
    composed: int = 0
    """Kept, with letters and accents put together: Unicode's form NFC. Pieces of 64 KB where the text runs."""
    control: int = 0
    """Kept, without the control characters in them. Pieces of 64 KB where the text runs."""

    @property
    def dropped(self) -> int:
        """Lines that are not learnt from."""
        return self.empty + self.without_tab + self.too_long


@dataclass(frozen=True, kw_only=True)
class Cleaning:
    """What became of a data folder's lines."""

    train: Counts = Counts()
    val: Counts = Counts()
    """All zero where validation examples were held out of the training file: it counts there."""

    def notes(self) -> list[str]:
        """Return a line for each file in which anything was left out or changed."""
        found = {"train": self.train, "val": self.val}
        return [f"{name}: {text}" for name, counts in found.items() if (text := _note(counts))]

    def to_json(self) -> dict[str, Any]:
        """Return the counts as plain values."""
        return asdict(self)

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> "Cleaning":
        """Read what `to_json` wrote."""
        return cls(train=Counts(**data["train"]), val=Counts(**data["val"]))


_WORDS: Final = {
    "empty": "empty",
    "without_tab": "without a tab",
    "too_long": "too long",
    "extra_fields": "with fields to spare",
    "composed": "brought into NFC",
    "control": "rid of control characters",
}


def _note(counts: Counts) -> str:
    parts = [f"{count:,} {words}" for name, words in _WORDS.items() if (count := getattr(counts, name))]
    kept = f"{counts.kept:,} of {counts.lines:,} lines kept"
    return ", ".join([kept, *parts]) if parts else ""


class Tally:
    """The counts of one file while it is read."""

    def __init__(self) -> None:
        self._counter = Counter[str]()

    def add(self, name: str, count: int = 1) -> None:
        """Count one more of a field of `Counts`."""
        self._counter[name] += count

    def clean(self, text: str) -> str:
        """Return `text` in NFC, lines ended by line feeds, without control characters, and count what that changed."""
        if "\r" in text:
            text = _ENDING.sub("\n", text)
        if _CONTROL.search(text):
            text = _CONTROL.sub("", text)
            self.add("control")
        if not unicodedata.is_normalized("NFC", text):
            text = unicodedata.normalize("NFC", text)
            self.add("composed")
        return text

    def counts(self) -> Counts:
        """Return the counts so far."""
        return Counts(**{item.name: self._counter[item.name] for item in fields(Counts)})
