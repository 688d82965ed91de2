"""Keys and values of jobs that run together, in tensors that a concatenating graph takes and gives back longer."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from deploykit.engine.job import Batch, Job
from deploykit.spec import TensorSpec

FloatArray = NDArray[np.float32]


@dataclass(frozen=True)
class Block:
    """Keys and values of jobs that last ran together, padded on the left to one length."""

    jobs: tuple[Job, ...]
    tensors: tuple[Any, ...]
    """OrtValues [B, K, P, D], in graph order."""
    length: int
    """P, in tokens."""

    def parts(self, job: Job, length: int) -> Iterator[NDArray[Any]]:
        """Yield a job's tokens, layer by layer and head by head, each in one piece, to be read or written."""
        for number in range(len(self.tensors)):
            yield from self.tokens(number, job, length)

    def tokens(self, number: int, job: Job, length: int) -> NDArray[Any]:
        """Return a job's tokens in one tensor, [K, P, D]."""
        tensor: NDArray[Any] = self.tensors[number].numpy()[self.jobs.index(job)]
        return tensor[:, self.length - length :]


class Blocks:
    """Which block holds a job's keys and values; rows stay in one as long as they run together."""

    def __init__(self, past: Sequence[TensorSpec]) -> None:
        self._past = past
        self._of: dict[Job, Block] = {}

    def size(self, without: Sequence[Job] = ()) -> int:
        """Return how many tokens the blocks hold, padding included; those that only `without` need don't count."""
        # Asked for by other threads too: the list is made in one go.
        held = {id(block): block for job, block in list(self._of.items()) if job not in without}
        return sum(len(block.jobs) * block.length for block in held.values())

    def run(self, batch: Batch, room: int, run: Callable[[Batch], tuple[FloatArray, Block]]) -> FloatArray:
        """Return the logits of each row's last token, [B, V], and hold what has grown.

        Args:
            batch: the rows; they run in as few groups as find room for their padding.
            room: tokens that all blocks may hold.
            run: runs rows together; it may fail.
        """
        others = self.size(without=batch.jobs)
        parts = [Batch(first_row=0, jobs=jobs, new=batch.new) for jobs in grouped(batch, room - others)]
        # All of them first, since any may fail: the rows then run again, one by one, on what they had.
        done = [run(part) for part in parts]
        for _, grown in done:
            self._of.update(dict.fromkeys(grown.jobs, grown))
        if len(done) == 1:
            return done[0][0]
        rows = {job: row for logits, grown in done for job, row in zip(grown.jobs, logits, strict=True)}
        return np.stack([rows[job] for job in batch.jobs])

    def together(self, jobs: tuple[Job, ...]) -> Block:
        """Return the past of jobs: as the last step left it, if they all ran together in this order."""
        block = self._of.get(jobs[0])
        if block and block.jobs == jobs:
            return block
        length = max(job.cached for job in jobs)
        tensors = tuple(value(self._gathered(number, jobs, length)) for number in range(len(self._past)))
        return Block(jobs, tensors, length)

    def keep(self, block: Block) -> None:
        """Hold what its jobs have from now on."""
        self._of.update(dict.fromkeys(block.jobs, block))

    def pop(self, job: Job) -> Block:
        """Return the block that holds a job, which is held no longer."""
        return self._of.pop(job)

    def drop(self, job: Job) -> None:
        """Let go of a job, if it is held."""
        self._of.pop(job, None)

    def empty(self, job: Job, length: int) -> Block:
        """Return a block for one job, to be filled."""
        shapes = [(1, int(spec.shape[1]), length, int(spec.shape[3])) for spec in self._past]
        tensors = [value(np.empty(shape, spec.dtype)) for shape, spec in zip(shapes, self._past, strict=True)]
        return Block((job,), tuple(tensors), length)

    def _gathered(self, number: int, jobs: tuple[Job, ...], length: int) -> NDArray[Any]:
        """Return one past tensor of several jobs, [B, K, P, D], each on the right."""
        _, heads, _, size = self._past[number].shape
        gathered = np.zeros((len(jobs), int(heads), length, int(size)), self._past[number].dtype)
        for row, job in enumerate(jobs):
            if job.cached:
                gathered[row, :, length - job.cached :] = self._of[job].tokens(number, job, job.cached)
        return gathered


def grouped(batch: Batch, room: int) -> list[tuple[Job, ...]]:
    """Return a batch's jobs in groups that run one after the other, as few as find room for their padding.

    Short rows are padded to the longest of their group: a long one beside many short ones could take as much as that
    many long ones. Where all run alone nothing is padded, and that fits.
    """
    if len(batch.jobs) * max(batch.totals) <= room:
        return [batch.jobs]
    groups = [sorted(zip(batch.totals, batch.jobs, strict=True), key=lambda entry: -entry[0])]
    while sum(len(group) * group[0][0] for group in groups) > room:
        saved, place, cut = max(
            ((len(group) - cut) * (group[0][0] - group[cut][0]), place, cut)
            for place, group in enumerate(groups)
            for cut in range(len(group))
        )
        if not saved:
            break
        groups[place : place + 1] = [groups[place][:cut], groups[place][cut:]]
    return [tuple(job for _, job in group) for group in groups]


def mask(totals: Iterable[int], length: int) -> NDArray[np.int64]:
    """Return the mask of rows padded on the left to one length, [B, T]."""
    return (np.arange(length) >= length - np.array(totals)[:, None]).astype(np.int64)


def value(array: NDArray[Any]) -> Any:
    """Return an array as ONNX Runtime takes it, in the same memory."""
    return ort.OrtValue.ortvalue_from_numpy(array)
