"""Rows of numbers on disk: written in a stream, read where they are needed, so that memory doesn't grow with the text.

A store is two files: the numbers one after the other, and where each row ends.
"""

import errno
import mmap
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Final, Self

import numpy as np
import numpy.typing as npt

from deploykit.errors import OutputError

Numbers = npt.NDArray[Any]

TOUCHES: Final = 2048
"""Rows after which pages are let go. Linux maps 64 KB around what is read (mm/memory.c, fault_around_bytes): 128 MB."""
_FLUSH: Final = 1 << 20  # numbers kept until they are written


def token_type(vocab_size: int) -> type[np.uint16] | type[np.uint32]:
    """Return the smallest type that holds every id of a vocabulary."""
    return np.uint16 if vocab_size <= 1 << 16 else np.uint32


@contextmanager
def room(folder: Path) -> Iterator[None]:
    """Return a context in which a full disk is an error of the user's.

    Raises:
        OutputError: the disk is full.
    """
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise OutputError(f"{folder}: no space left for the tokens of the text; free some") from error


class StoreWriter:
    """A store being written; a context manager."""

    def __init__(self, path: Path, kind: type[Any]) -> None:
        self._path = path
        self._kind = kind
        self._rows: list[Numbers] = []
        self._held = 0
        self._end = 0
        self._files = (_numbers(path).open("wb"), _ends(path).open("wb"))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        try:
            if kind is None:
                self._flush()
        finally:
            for file in self._files:
                # All was flushed, or is given up.
                with suppress(OSError):
                    file.close()

    def add(self, row: Sequence[int] | Numbers) -> None:
        """Append a row.

        Raises:
            OutputError: the disk is full.
        """
        self._rows.append(np.asarray(row, dtype=self._kind))
        self._held += len(row)
        if self._held + len(self._rows) > _FLUSH:
            self._flush()

    def _flush(self) -> None:
        ends = self._end + np.cumsum([len(row) for row in self._rows], dtype=np.int64)
        if self._rows:
            with room(self._path.parent):
                self._files[0].write(np.concatenate(self._rows).data)
                self._files[1].write(ends.data)
                for file in self._files:
                    file.flush()
            self._end = int(ends[-1])
        self._rows, self._held = [], 0


class Store:
    """N rows of numbers, mapped from disk."""

    def __init__(self, path: Path, kind: type[Any]) -> None:
        """Open what a `StoreWriter` wrote under the same name and type."""
        self.numbers: Numbers
        """All rows, one after the other."""
        self.numbers, self._maps = _mapped(_numbers(path), kind)
        self._ends, ends = _mapped(_ends(path), np.int64)
        self._maps += ends
        self._touched = 0

    def __len__(self) -> int:
        """Return N."""
        return len(self._ends)

    def lengths(self, rows: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """Return how many numbers some rows have."""
        starts = np.where(rows > 0, self._ends[rows - 1], 0)
        lengths: npt.NDArray[np.int64] = self._ends[rows] - starts
        return lengths

    def row(self, index: int) -> Numbers:
        """Return a copy of one row."""
        start = int(self._ends[index - 1]) if index else 0
        return self.slice(start, int(self._ends[index]))

    def slice(self, start: int, end: int) -> Numbers:
        """Return a copy of `numbers[start:end]`."""
        self._touched += 1
        if self._touched % TOUCHES == 0:
            self._let_go()
        return self.numbers[start:end].copy()

    def _let_go(self) -> None:
        # The pages stay in the kernel's cache, but count no longer as memory of this process.
        for one in self._maps:
            one.madvise(mmap.MADV_DONTNEED)


def _numbers(path: Path) -> Path:
    return path.with_name(f"{path.name}.bin")


def _ends(path: Path) -> Path:
    return path.with_name(f"{path.name}.idx")


def _mapped(file: Path, kind: type[Any]) -> tuple[Numbers, list[mmap.mmap]]:
    """Return the numbers in `file` without reading them, and what maps them."""
    # An empty file can't be mapped.
    if not file.stat().st_size:
        return np.zeros(0, dtype=kind), []
    with file.open("rb") as stream:
        data = mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ)
    return np.frombuffer(data, dtype=kind), [data]
