"""Keys and values of what an encoder has read: written once a request, in the row that its answer runs in."""

from collections.abc import Iterable, Iterator, Sequence
from itertools import chain
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deploykit.engine.blocks import value
from deploykit.engine.job import Job
from deploykit.engine.pool import HostMemory
from deploykit.engine.scheduler import stepped
from deploykit.spec import ENCODER_MASK, TensorSpec


class Sources:
    """Rows of one tensor for each layer's keys and values, padded on the right to the longest source there is.

    A step is given neighbouring rows where they lie. Only what was written takes memory: padding is pages that nobody
    has touched. Where the width changes, or rows hold more of the dead than there is room for, all move house.
    """

    def __init__(self, past: Sequence[TensorSpec], *, rows: int, room: int) -> None:
        """Take no memory yet.

        Args:
            past: the graph's inputs, [B, K, S', D] each.
            rows: requests that run at once.
            room: tokens that may take memory; the living alone always find it.
        """
        self._past = past
        self._room = room
        self._jobs: list[Job | None] = [None] * rows
        """Whose source lives in each row."""
        self._touched = [0] * rows
        """Tokens whose memory each row has taken."""
        self._width = 0
        """S', in tokens."""
        self._memories: list[HostMemory] = []
        self._fed: tuple[tuple[int, ...], dict[str, Any]] = ((), {})
        """What the last step was given, and of which rows."""

    @property
    def tokens(self) -> int:
        """How many tokens take memory now."""
        return sum(self._touched)

    def find(self, source: tuple[int, ...]) -> int | None:
        """Return a row that holds the very source of another answer to the same request, if there is one."""
        return next((row for row, job in enumerate(self._jobs) if job and job.source is source), None)

    def put(self, job: Job, row: int, tensors: Iterable[Any]) -> None:
        """Keep a source that was read, [1, K, S', D] of each tensor, as ONNX Runtime gives it."""
        self._take(job, row)
        for memory, tensor in zip(self._memories, tensors, strict=True):
            memory.rows(row, 1)[:, :, : len(job.source)] = tensor.numpy()

    def copy(self, job: Job, source: int, target: int) -> None:
        """Give a job what another row holds."""
        self._take(job, target)
        for memory in self._memories:
            memory.copy(source, target, len(job.source))

    def move(self, source: int, target: int) -> None:
        """Put a row's source into a free one."""
        job = self._jobs[source]
        assert job
        self.copy(job, source, target)
        self._jobs[source] = None

    def free(self, row: int) -> None:
        """Note that nothing lives in a row any more."""
        self._jobs[row] = None

    def parts(self, row: int) -> Iterator[NDArray[Any]]:
        """Yield a row's source, layer by layer and head by head, each in one piece, to be read or written."""
        job = self._jobs[row]
        assert job
        return chain.from_iterable(memory.parts(row, len(job.source)) for memory in self._memories)

    def empty(self, job: Job, row: int) -> Iterator[NDArray[Any]]:
        """Yield the parts of a row that a job is about to get, to be filled."""
        self._take(job, row)
        return self.parts(row)

    def feeds(self, rows: tuple[int, ...]) -> dict[str, Any]:
        """Return what the graph is given of some rows, in that order: the mask, [B, S'], and the cache."""
        if self._fed[0] != rows:
            lengths = np.array([len(job.source) if (job := self._jobs[row]) else 0 for row in rows])
            mask = (np.arange(self._width) < lengths[:, None]).astype(np.int64)
            tensors = [value(self._rows(memory, rows)) for memory in self._memories]
            named = {spec.name: tensor for spec, tensor in zip(self._past, tensors, strict=True)}
            self._fed = rows, {ENCODER_MASK: value(mask), **named}
        return self._fed[1]

    @staticmethod
    def _rows(memory: HostMemory, rows: tuple[int, ...]) -> NDArray[Any]:
        """Return rows of a tensor: themselves where they are neighbours, copies elsewhere."""
        first, last = rows[0], rows[-1]
        if rows == tuple(range(first, last + 1)):
            return memory.rows(first, len(rows))
        return memory.rows(0, max(rows) + 1)[list(rows)]

    def _take(self, job: Job, row: int) -> None:
        """Give a job a free row, with room for its source and nothing behind it."""
        self._fed = (), {}
        length, before = len(job.source), self._touched[row]
        width = stepped(max(length, *(len(other.source) for other in self._jobs if other), 0))
        tight = self.tokens + max(0, length - before) > self._room
        if not width <= self._width <= 2 * width or tight:
            self._lay_out(width)
            before = 0
        self._jobs[row] = job
        for memory in self._memories if before > length else ():
            # Of the dead: a NaN among it would reach the living through a weight of zero.
            memory.rows(row, 1)[:, :, length:before] = 0
        self._touched[row] = max(before, length)

    def _lay_out(self, width: int) -> None:
        """Put what lives into memory of another width, which holds nothing else: one tensor after the other."""
        lengths = [len(job.source) if job else 0 for job in self._jobs]
        for number, spec in enumerate(self._past):
            _, heads, _, size = spec.shape
            memory = HostMemory(np.dtype(spec.dtype), len(self._jobs), int(heads), width, int(size))
            for row, length in enumerate(lengths):
                if length:
                    memory.rows(row, 1)[:, :, :length] = self._memories[number].rows(row, 1)[:, :, :length]
            self._memories[number : number + 1] = [memory]
        self._width, self._touched = width, lengths
