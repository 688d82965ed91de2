"""What a file holds to learn from, cleaned: running text, or pairs, or labelled texts."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from deploykit.errors import TrainError
from deploykit.train.config import DataConfig, Task
from deploykit.train.corpus.cleaning import Counts, Tally
from deploykit.train.corpus.reading import Told, pieces, rows
from deploykit.train.tokenizer import SPECIALS

END: Final = SPECIALS["eos_token"]
"""Ends a document in running text."""


@dataclass(frozen=True, kw_only=True)
class Example:
    """A pair, or a text with its label."""

    line: int
    source: str
    """The source of a pair, or the text that has a label."""
    target: str
    """The target of a pair, or the label."""


def running(file: Path, config: DataConfig, tally: Tally, told: Told) -> Iterator[str]:
    """Yield the running text of a file in pieces; each record of CSV and JSON Lines is a document, and ends like one.

    Raises:
        TrainError: the file can't be read, or a line is bad.
    """
    if file.suffix == ".txt":
        for piece, read in pieces(file):
            tally.add("lines", piece.count("\n"))
            told(read)
            yield tally.clean(piece)
        return
    for row in rows(file, [config.text_field], told=told):
        tally.add("lines")
        text = tally.clean(row.values[0])
        if text.strip():
            yield text + END
        else:
            tally.add("empty")


def examples(file: Path, config: DataConfig, task: Task, tally: Tally, told: Told) -> Iterator[Example]:
    """Yield what a file holds to learn from, and count what it holds besides.

    Raises:
        TrainError: the file can't be read, or a line is bad.
    """
    labelled = task != "text2text-generation"
    names = [config.label_field, config.text_field] if labelled else [config.text_field, config.target_field]
    for row in rows(file, names, spare_tabs=labelled, told=told):
        tally.add("lines")
        if not row.values:
            tally.add("without_tab")
            continue
        first, second = (tally.clean(value).strip() for value in row.values)
        if not first or not second:
            tally.add("empty")
            continue
        if row.extra:
            tally.add("extra_fields")
        source, target = (second, first) if labelled else (first, second)
        yield Example(line=row.line, source=source, target=target)


def check_kept(file: Path, counts: Counts, task: Task) -> None:
    """Check that a file held anything to learn from.

    Raises:
        TrainError: it didn't.
    """
    if counts.kept:
        return
    if not counts.lines or counts.empty == counts.lines:
        raise TrainError(f"{file}: holds no text; put in it what the model should learn")
    form = "source<TAB>target" if task == "text2text-generation" else "label<TAB>text"
    raise TrainError(
        f"{file}: of {counts.lines:,} lines none can be used ({counts.empty:,} empty, {counts.without_tab:,} without a "
        f"tab, {counts.too_long:,} too long); --task {task} reads lines of {form}"
        + ("; raise --max-source-tokens or --max-target-tokens" if counts.too_long else "")
    )
