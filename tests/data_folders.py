"""Small data folders to prepare, in every format."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from deploykit.train.config import Task, TrainConfig
from deploykit.train.prepare import Prepared, prepare

WORDS = ["one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve"]


def sentence(number: int) -> str:
    """Return a sentence that no other number has, of 1 to 9 words."""
    return " ".join([str(number), *(WORDS[(number * 7 + place) % 12] for place in range(number % 9))])


def pair_lines(count: int, *, first: int = 0) -> str:
    """Return lines of a sentence and its words backwards."""
    return "".join(f"{sentence(n)}\t{' '.join(reversed(sentence(n).split()))}\n" for n in range(first, first + count))


def label_lines(count: int, *, first: int = 0) -> str:
    """Return lines of a label and a sentence."""
    return "".join(f"{('even', 'odd')[n % 2]}\t{sentence(n)}\n" for n in range(first, first + count))


def write(folder: Path, files: Mapping[str, str | bytes]) -> Path:
    """Write files by name and return their folder."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (folder / name).write_bytes(text if isinstance(text, bytes) else text.encode())
    return folder


def prepared(folder: Path, task: Task, options: Mapping[str, Any] | None = None, **given: Any) -> Prepared:
    """Prepare a data folder, with its token files beside it, for a vocabulary of 300."""
    config = TrainConfig().but({"vocab_size": 300, **(options or {})})
    return prepare(folder, config, task=task, cache=given.pop("cache", folder.with_name("tokens")), **given)
