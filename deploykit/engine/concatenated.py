"""The cache by concatenation: each step returns past and new as new tensors. For graphs traced from PyTorch."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from deploykit.engine.job import Batch, Change, Drop, Job, Load, Move, Save
from deploykit.engine.spill import Spill
from deploykit.spec import ATTENTION_MASK, INPUT_IDS, LOGITS, LOGITS_TO_KEEP, DecoderSpec

FloatArray = NDArray[np.float32]


@dataclass(frozen=True)
class _Block:
    """Keys and values of jobs that last ran together, padded on the left to one length."""

    jobs: tuple[Job, ...]
    tensors: tuple[Any, ...]
    """OrtValues [B, K, P, D], in graph order."""
    length: int
    """P, in tokens."""


class ConcatenatedDecoder:
    """Rows in one tensor as long as they stay together; it is put together anew when one joins or leaves.

    A row's padding can change then, so the graph must count positions over the mask's ones, as traced graphs do.
    """

    def __init__(
        self,
        session: Any,
        spec: DecoderSpec,
        *,
        rows: int,  # noqa: ARG002 -- grows as needed
        capacity: int,  # noqa: ARG002
        cache_bytes: int,
    ) -> None:
        self._session = session
        self._past = list(spec.past())
        self._keep = {LOGITS_TO_KEEP: _value(np.array(1, np.int64))} if spec.logits_to_keep else {}
        self._outputs = [LOGITS, *(tensor.name for tensor in spec.present())]
        self._bytes_per_token = spec.cache_bytes_per_token()
        self._room = cache_bytes // self._bytes_per_token
        """Tokens that all blocks may hold, padding included."""
        self._spill = Spill()
        self._blocks: dict[Job, _Block] = {}
        """The block that holds a job's keys and values."""

    @property
    def cache_bytes(self) -> int:
        """Memory that keys and values take now."""
        # Asked for by other threads too: the list is made in one go.
        return _size(list(self._blocks.values())) * self._bytes_per_token

    def run(self, batch: Batch) -> FloatArray:
        """Return the logits of each row's last token, [B, V]."""
        others = _size(block for job, block in list(self._blocks.items()) if job not in batch.jobs)
        parts = [Batch(first_row=0, jobs=jobs, new=batch.new) for jobs in grouped(batch, self._room - others)]
        # All of them first, since any may fail: the rows then run again, one by one, on what they had.
        done = [self._run(part) for part in parts]
        for _, grown in done:
            self._blocks.update(dict.fromkeys(grown.jobs, grown))
        if len(done) == 1:
            return done[0][0]
        rows = {job: row for logits, grown in done for job, row in zip(grown.jobs, logits, strict=True)}
        return np.stack([rows[job] for job in batch.jobs])

    def _run(self, batch: Batch) -> tuple[FloatArray, _Block]:
        """Return the logits of rows that run together, [B, V], and their keys and values."""
        block = self._block_of(batch.jobs)
        total = block.length + batch.new
        mask = (np.arange(total) >= total - np.array(batch.totals)[:, None]).astype(np.int64)
        feeds = {
            INPUT_IDS: _value(np.array(batch.ids, np.int64)),
            ATTENTION_MASK: _value(mask),
            **self._keep,
            **{spec.name: tensor for spec, tensor in zip(self._past, block.tensors, strict=True)},
        }
        logits, *present = self._session.run_with_ort_values(self._outputs, feeds)
        return logits.numpy()[:, -1], _Block(batch.jobs, tuple(present), total)

    def apply(self, change: Change) -> int:
        """Set a row aside, bring it back, or let go of it; see `Decoder.apply`."""
        match change:
            case Move():
                # Blocks go by job: the next batch is put together in its new order.
                return 0
            case Save():
                block = self._blocks.pop(change.job)
                saved = self._spill.save(change.job, _parts(block, change.job, change.length))
                return change.length if saved else 0
            case Load():
                block = _Block((change.job,), tuple(self._empty(change.length)), change.length)
                if not self._spill.load(change.job, _parts(block, change.job, change.length)):
                    return 0
                self._blocks[change.job] = block
                return change.length
            case Drop():
                self._spill.drop(change.job)
                self._blocks.pop(change.job, None)
                return 0

    def _block_of(self, jobs: tuple[Job, ...]) -> _Block:
        """Return the past of a batch's jobs: as the last step left it, if they all ran together in this order."""
        block = self._blocks.get(jobs[0])
        if block and block.jobs == jobs:
            return block
        length = max(job.cached for job in jobs)
        tensors = tuple(_value(self._gathered(number, jobs, length)) for number in range(len(self._past)))
        return _Block(jobs, tensors, length)

    def _gathered(self, number: int, jobs: tuple[Job, ...], length: int) -> NDArray[Any]:
        """Return one past tensor of several jobs, [B, K, P, D], each on the right."""
        _, heads, _, size = self._past[number].shape
        gathered = np.zeros((len(jobs), int(heads), length, int(size)), self._past[number].dtype)
        for row, job in enumerate(jobs):
            if job.cached:
                gathered[row, :, length - job.cached :] = _tokens(self._blocks[job], number, job, job.cached)
        return gathered

    def _empty(self, length: int) -> Iterator[Any]:
        """Yield past tensors for one job, to be filled."""
        for spec in self._past:
            _, heads, _, size = spec.shape
            yield _value(np.empty((1, int(heads), length, int(size)), spec.dtype))


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


def _size(blocks: Iterable[_Block]) -> int:
    """Return how many tokens blocks hold, padding included; a block that comes twice counts once."""
    return sum(len(block.jobs) * block.length for block in {id(block): block for block in blocks}.values())


def _parts(block: _Block, job: Job, length: int) -> Iterator[NDArray[Any]]:
    """Yield a job's tokens, layer by layer and head by head, each in one piece, to be read or written."""
    for number in range(len(block.tensors)):
        yield from _tokens(block, number, job, length)


def _tokens(block: _Block, number: int, job: Job, length: int) -> NDArray[Any]:
    """Return a job's tokens in one tensor of a block, [K, P, D]."""
    tensor: NDArray[Any] = block.tensors[number].numpy()[block.jobs.index(job)]
    return tensor[:, block.length - length :]


def _value(array: NDArray[Any]) -> Any:
    return ort.OrtValue.ortvalue_from_numpy(array)
