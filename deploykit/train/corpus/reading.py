"""The files of a data folder, as they are: pieces of running text, or rows of fields.

Everything is read as a stream, and what can't be read is named by file and line.
"""

import csv
import json
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Final

from deploykit.errors import TrainError

SUFFIXES: Final = (".txt", ".tsv", ".jsonl", ".csv")
PIECE: Final = 1 << 16
"""Bytes of running text encoded at once: bounds the memory of the tokenizer's own records."""
_TOLD_EVERY: Final = 4096  # lines
_MARK: Final = b"\xef\xbb\xbf"  # UTF-8's byte order mark, which is no text

Told = Callable[[int], None]


@dataclass(frozen=True, kw_only=True)
class Row:
    """One line, or one record, of a file."""

    line: int
    """Number of its first line, from 1."""
    values: tuple[str, ...]
    """The fields asked for; none where the line has no tab, though it needs one."""
    extra: bool = False
    """Whether the line has more fields than were asked for."""


def find(folder: Path, split: str) -> Path | None:
    """Return the file of `split` ("train", "val") in `folder`, None where there is none.

    Raises:
        TrainError: there is no such folder, or there are two such files.
    """
    # Not `Path.is_dir`, which raises where a name is too long.
    if not os.path.isdir(folder):  # noqa: PTH112
        raise TrainError(f"{folder}: no such folder; --data names a folder with train.txt and val.txt")
    found = [file for suffix in SUFFIXES if (file := folder / f"{split}{suffix}").exists()]
    if len(found) > 1:
        names = " and ".join(file.name for file in found)
        raise TrainError(f"{folder}: holds {names}; keep the one to train on")
    return found[0] if found else None


def pieces(file: Path) -> Iterator[tuple[str, int]]:
    """Yield running text in pieces of at most 64 KB, and the bytes read so far.

    A piece ends with a line wherever one ends in its second half, and else with a word if it can.

    Raises:
        TrainError: the file can't be read, or isn't UTF-8.
    """
    with _opened(file) as stream:
        line, read, rest = 1, 0, b""
        while block := stream.read(PIECE - len(rest)):
            read += len(block)
            data = block.removeprefix(_MARK) if read == len(block) else rest + block
            end = _cut(data) if len(rest) + len(block) == PIECE else len(data)
            if data:
                yield _decoded(data[:end], file, line), read
            line, rest = line + data.count(b"\n", 0, end), data[end:]
        if rest:
            yield _decoded(rest, file, line), read


def _cut(data: bytes) -> int:
    """Return where a piece may end: behind a line, else behind a space, else between two characters."""
    half = len(data) // 2
    if end := data.rfind(b"\n", half) + 1 or data.rfind(b" ", half) + 1:
        return end
    # At most three bytes continue a character: whatever more there are is an error, which decoding names.
    end = len(data)
    while end > len(data) - 4 and data[end - 1] & 0xC0 == 0x80:
        end -= 1
    return end - 1 if data[end - 1] >= 0xC0 else len(data)


def rows(file: Path, names: Sequence[str], *, spare_tabs: bool = False, told: Told = lambda _: None) -> Iterator[Row]:
    """Yield the rows of a file with the fields `names`, in this order.

    Lines of `.txt` and `.tsv` are fields between tabs; a `.tsv` whose first line holds all the names is read by them.

    Args:
        file: what is read, in the format that its name's end says.
        names: of the fields wanted, in CSV, JSON Lines, or the heading of a `.tsv`.
        spare_tabs: whether tabs behind the last field wanted are part of it.
        told: told the bytes read so far, now and then.

    Raises:
        TrainError: the file can't be read, isn't UTF-8, or a line isn't what the format says.
    """
    lines = _lines(file, told)
    if file.suffix == ".jsonl":
        return _json_rows(file, lines, names)
    if file.suffix == ".csv":
        return _csv_rows(file, lines, names)
    return _tab_rows(file, lines, names, spare_tabs=spare_tabs)


def _opened(file: Path) -> BinaryIO:
    try:
        return file.open("rb")
    except FileNotFoundError:
        raise TrainError(f"{file}: no such file; a data folder holds train.txt and val.txt") from None
    except OSError as error:
        raise TrainError(f"{file}: can't be read: {error.strerror}") from error


def _lines(file: Path, told: Told) -> Iterator[str]:
    with _opened(file) as stream:
        for number, raw in enumerate(stream, 1):
            if number % _TOLD_EVERY == 0:
                told(stream.tell())
            yield _decoded(raw.removeprefix(_MARK) if number == 1 else raw, file, number)


def _decoded(data: bytes, file: Path, line: int) -> str:
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        number = line + data.count(b"\n", 0, error.start)
        column = error.start - (data.rfind(b"\n", 0, error.start) + 1)
        raise TrainError(
            f"{file} line {number}: not UTF-8 at byte {column} of the line (0x{data[error.start]:02x}, "
            f"{error.reason}); convert the file with iconv"
        ) from None


def _tab_rows(file: Path, lines: Iterator[str], names: Sequence[str], *, spare_tabs: bool) -> Iterator[Row]:
    pick: Callable[[list[str]], tuple[str, ...]] | None = None
    for number, line in enumerate(lines, 1):
        fields = line.rstrip("\r\n").split("\t")
        if number == 1 and file.suffix == ".tsv" and (len(names) == 1 or set(names) <= set(fields)):
            pick = _picker(file, fields, names)
        elif pick:
            yield Row(line=number, values=_picked(file, number, fields, names, pick))
        elif not line.strip():
            yield Row(line=number, values=("",) * len(names))
        else:
            wanted = line.rstrip("\r\n").split("\t", len(names) - 1) if spare_tabs else fields
            values = tuple(wanted[: len(names)]) if len(wanted) >= len(names) else ()
            yield Row(line=number, values=values, extra=len(wanted) > len(names))


def _csv_rows(file: Path, lines: Iterator[str], names: Sequence[str]) -> Iterator[Row]:
    reader = csv.reader(lines, strict=True)
    pick, first = None, 1
    try:
        for fields in reader:
            if pick is None:
                pick = _picker(file, fields, names)
            elif fields:
                yield Row(line=first, values=_picked(file, first, fields, names, pick))
            else:
                yield Row(line=first, values=("",) * len(names))
            first = reader.line_num + 1
    except csv.Error as error:
        raise TrainError(f'{file} line {first}: not CSV: {error}; quote fields with ", or give JSON Lines') from None


def _picker(file: Path, heading: list[str], names: Sequence[str]) -> Callable[[list[str]], tuple[str, ...]]:
    for name in names:
        if heading.count(name) > 1:
            raise TrainError(f"{file} line 1: {heading.count(name)} columns are named {name!r}; name them apart")
        if name not in heading:
            raise TrainError(
                f"{file} line 1: no column {name!r} among {', '.join(map(repr, heading))}; "
                "name the columns with --text-field, --target-field or --label-field"
            )
    places = [heading.index(name) for name in names]
    return lambda fields: tuple(fields[place] for place in places)


def _picked(
    file: Path, line: int, fields: list[str], names: Sequence[str], pick: Callable[[list[str]], tuple[str, ...]]
) -> tuple[str, ...]:
    try:
        return pick(fields)
    except IndexError:
        raise TrainError(
            f"{file} line {line}: {len(fields)} fields are too few for {', '.join(map(repr, names))}; "
            "give each line every column of line 1"
        ) from None


def _json_rows(file: Path, lines: Iterator[str], names: Sequence[str]) -> Iterator[Row]:
    for number, line in enumerate(lines, 1):
        if not line.strip():
            yield Row(line=number, values=("",) * len(names))
            continue
        try:
            record = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise TrainError(f"{file} line {number}: not JSON: {error}; a line holds one JSON object") from None
        if not isinstance(record, dict):
            raise TrainError(f"{file} line {number}: {line.strip()[:40]!r} is no JSON object")
        yield Row(line=number, values=tuple(_value(file, number, record, name) for name in names))


def _value(file: Path, line: int, record: dict[str, Any], name: str) -> str:
    if name not in record:
        raise TrainError(
            f"{file} line {line}: no field {name!r} among {', '.join(map(repr, record))}; "
            "name the fields with --text-field, --target-field or --label-field"
        )
    value = record[name]
    if not isinstance(value, str | int | float):
        raise TrainError(f"{file} line {line}: field {name!r} is {json.dumps(value)[:40]}, not text")
    text = value if isinstance(value, str) else json.dumps(value)
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        raise TrainError(f"{file} line {line}: field {name!r} holds half a surrogate pair, which is no text") from None
    return text
