"""The memory of the cache in place: each row's keys and values, at addresses that never change.

A pool promises each row room for the longest sequence and takes memory, a page at a time, only for tokens that have
come. What a row held before it left, or beyond what lives there now, is handed back once the pool would outgrow its
budget, and not earlier: the next row that comes uses it as it is.
"""

import contextlib
import math
import mmap
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from deploykit.errors import ConfigError
from deploykit.spec import DecoderSpec

_GIVES_BACK: Final = sys.platform == "linux"
"""Elsewhere MADV_DONTNEED is advice that may be ignored; there a row's pages stay until the next row uses them."""


class HostMemory:
    """One tensor [rows, K, capacity, D] in this machine's memory.

    All that a pool asks of a device: a GPU would need the same six, over one allocation mapped page by page (CUDA's
    virtual memory functions; its pages are 2 MiB, so several heads would share one), with `parts` copied to and fro.
    """

    def __init__(self, dtype: np.dtype[Any], rows: int, heads: int, capacity: int, size: int) -> None:
        self._memory = _promised(dtype.itemsize, rows, heads, capacity, size)
        self._array = np.frombuffer(self._memory, dtype).reshape(rows, heads, capacity, size)
        self._start = self._array.ctypes.data

    @property
    def token_bytes(self) -> int:
        """What one head keeps of one token."""
        return self._array.strides[2]

    def place(self, first: int, rows: int) -> tuple[str, int, Any, tuple[int, ...], int]:
        """Return device, device number, type, shape and address of neighbouring rows, as bindings take them."""
        array = self._array
        return "cpu", 0, array.dtype.type, (rows, *array.shape[1:]), self._start + first * array.strides[0]

    def rows(self, first: int, number: int) -> NDArray[Any]:
        """Return neighbouring rows, [B, K, capacity, D], to be read or written."""
        return self._array[first : first + number]

    def copy(self, source: int, target: int, length: int) -> None:
        """Copy a row's first tokens to another row."""
        self._array[target, :, :length] = self._array[source, :, :length]

    def parts(self, row: int, length: int) -> Iterator[NDArray[Any]]:
        """Yield a row's first tokens, each head's in one piece, to be read or written."""
        yield from self._array[row, :, :length]

    def give_back(self, row: int, length: int, until: int) -> None:
        """Hand back the pages of a row's tokens from `length` on, up to those of the first `until`."""
        first, last = pages(length * self.token_bytes), pages(until * self.token_bytes)
        if last > first:
            for head in range(self._array.shape[1]):
                start = row * self._array.strides[0] + head * self._array.strides[1]
                self._memory.madvise(mmap.MADV_DONTNEED, start + first, last - first)


class Pool:
    """Rows of keys and values, and how much memory they take."""

    def __init__(self, spec: DecoderSpec, *, rows: int, capacity: int, budget: int) -> None:
        dtype = np.dtype(spec.cache_dtype)
        sizes = [(layer.heads, size) for layer in spec.layers for size in (layer.key_dim, layer.value_dim)]
        capacity = _page_capacity(capacity, [size * dtype.itemsize for _, size in sizes])
        self.memories = [HostMemory(dtype, rows, heads, capacity, size) for heads, size in sizes]
        """Keys and values of each layer, in graph order."""
        self._kinds = Counter[int]()
        """How many heads, of all layers, keep a token in so many bytes."""
        for (heads, _), memory in zip(sizes, self.memories, strict=True):
            self._kinds[memory.token_bytes] += heads
        # Tokens that come with the same pages, where each size divides a page: a row grows once in so many steps.
        self._step = 1 if any(mmap.PAGESIZE % size for size in self._kinds) else mmap.PAGESIZE // max(self._kinds)
        self._budget = budget
        self._used = [0] * rows
        """Tokens that live in each row."""
        self._touched = [0] * rows
        """Tokens whose pages each row has: at least those that live there."""
        self.bytes = 0
        """Memory that the rows' pages take."""

    def hold(self, first: int, lengths: Sequence[int]) -> None:
        """Note that rows `first` and up are about to hold so many tokens, and make room for them."""
        self._used[first : first + len(lengths)] = lengths
        grown = [row for row, length in enumerate(lengths, first) if length > self._touched[row]]
        more = sum(self._size(self._used[row]) - self._size(self._touched[row]) for row in grown)
        if self.bytes + more > self._budget and _GIVES_BACK:
            self._give_back()
        for row in grown:
            self._touched[row] = -(-self._used[row] // self._step) * self._step
        self.bytes += more

    def free(self, row: int) -> None:
        """Note that nothing lives in a row any more."""
        self._used[row] = 0

    def move(self, source: int, target: int, length: int) -> None:
        """Copy a row to a free one, and free it."""
        self.hold(target, [length])
        tight = self.bytes > self._budget and _GIVES_BACK
        for memory in self.memories:
            memory.copy(source, target, length)
            if tight:
                # Both are held for a moment: of one tensor, not of all.
                memory.give_back(source, 0, self._touched[source])
        self.free(source)
        if tight:
            self._shrink(source)

    def parts(self, row: int, length: int) -> Iterator[NDArray[Any]]:
        """Yield a row's first tokens, layer by layer and head by head, to be read or written."""
        for memory in self.memories:
            yield from memory.parts(row, length)

    def _give_back(self) -> None:
        """Hand back what no living token needs."""
        for row, (used, touched) in enumerate(zip(self._used, self._touched, strict=True)):
            if used < touched:
                for memory in self.memories:
                    memory.give_back(row, used, touched)
                self._shrink(row)

    def _shrink(self, row: int) -> None:
        """Note that a row has no more pages than what lives there needs."""
        self.bytes -= self._size(self._touched[row]) - self._size(self._used[row])
        self._touched[row] = self._used[row]

    def _size(self, length: int) -> int:
        """Return what so many tokens of a row take, in whole pages."""
        return sum(heads * pages(length * size) for size, heads in self._kinds.items())


def pages(size: int) -> int:
    """Return a size rounded up to whole pages, in bytes."""
    return -(-size // mmap.PAGESIZE) * mmap.PAGESIZE


def _page_capacity(capacity: int, token_bytes: Sequence[int]) -> int:
    """Return the next larger capacity with which each head begins a page, so that no two ever share one."""
    step = max(mmap.PAGESIZE // math.gcd(mmap.PAGESIZE, size) for size in token_bytes)
    return -(-capacity // step) * step


def _promised(itemsize: int, *shape: int) -> mmap.mmap:
    """Return zeros that cost memory only once they are written to, a small page at a time.

    With huge pages, which numpy's own zeros ask for, a row's first token would bring in its neighbours' room as well,
    and steps are hardly faster: within 3 % at 1 to 16 rows of 128 to 1000 tokens.
    """
    size = itemsize * math.prod(shape)
    try:
        memory = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    except (OSError, OverflowError):
        raise ConfigError(
            f"no room for a cache of {shape[0]} rows of {shape[2]} tokens ({size:,} bytes a tensor); "
            "lower max_rows or max_context"
        ) from None
    # A kernel without huge pages doesn't know the word.
    with contextlib.suppress(AttributeError, OSError):
        memory.madvise(mmap.MADV_NOHUGEPAGE)
    return memory
