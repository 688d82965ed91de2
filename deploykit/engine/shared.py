"""The cache in place: past and present are one memory, and a step writes its keys and values where they stay."""

from typing import Any, Final

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from deploykit.engine.job import Batch, Change, Drop, Load, Move, Save
from deploykit.engine.pool import Pool
from deploykit.engine.spill import Spill
from deploykit.spec import ATTENTION_MASK, INPUT_IDS, LOGITS, LOGITS_TO_KEEP, DecoderSpec

FloatArray = NDArray[np.float32]

_MASK_STEP: Final = 32
"""Tokens by which the mask of a decode step grows. Its shape then changes, and it is bound anew, every so many steps;
zeros past the longest row cost nothing that can be measured."""


class SharedDecoder:
    """Rows of one pool, each of its own length, padded on the right."""

    def __init__(self, session: Any, spec: DecoderSpec, *, rows: int, capacity: int, cache_bytes: int) -> None:
        self._session = session
        self._spec = spec
        self._capacity = capacity
        self._pool = Pool(spec, rows=rows, capacity=capacity, budget=cache_bytes)
        self._spill = Spill()
        self._logits = np.empty((rows, 1, spec.vocab_size), np.float32)
        self._lanes: dict[tuple[int, int], _Lane] = {}

    @property
    def cache_bytes(self) -> int:
        """Memory that keys and values take now, in whole pages."""
        return self._pool.bytes

    def run(self, batch: Batch) -> FloatArray:
        """Return the logits of each row's last token, [B, V]; they hold until the next run."""
        totals = batch.totals
        longest = max(totals)
        # A piece of a prompt is bound anew anyway, and gets a mask of its own length.
        width = min(-(-longest // _MASK_STEP) * _MASK_STEP, self._capacity) if batch.new == 1 else longest
        self._pool.hold(batch.first_row, totals)
        lane = self._lane(batch.first_row, len(totals))
        lane.shape(batch.new, width)
        lane.ids[:] = batch.ids
        np.less(lane.places, np.array(totals)[:, None], out=lane.mask)
        self._session.run_with_iobinding(lane.binding)
        return lane.logits[:, -1]

    def apply(self, change: Change) -> int:
        """Move a row, set one aside, bring it back, or let go of it; see `Decoder.apply`."""
        match change:
            case Move():
                self._pool.move(change.source, change.target, change.length)
            case Save():
                saved = self._spill.save(change.job, self._pool.parts(change.row, change.length))
                self._pool.free(change.row)
                return change.length if saved else 0
            case Load():
                self._pool.hold(change.row, [change.length])
                return change.length if self._spill.load(change.job, self._pool.parts(change.row, change.length)) else 0
            case Drop():
                self._spill.drop(change.job)
                if change.row is not None:
                    self._pool.free(change.row)
        return 0

    def _lane(self, first: int, rows: int) -> "_Lane":
        """Return what runs rows `first` and up. The pool never moves, so it serves for good."""
        if (first, rows) not in self._lanes:
            lane = _Lane(self._session.io_binding(), self._logits[:rows], keeps_last=self._spec.logits_to_keep)
            for past, present, memory in zip(self._spec.past(), self._spec.present(), self._pool.memories, strict=True):
                place = memory.place(first, rows)
                lane.binding.bind_input(past.name, *place)
                lane.binding.bind_output(present.name, *place)
            self._lanes[first, rows] = lane
        return self._lanes[first, rows]


class _Lane:
    """Neighbouring rows, bound once: their tokens, mask and logits are written where the last step's were.

    A binding is by bare pointer, which is what a view of neighbouring rows needs; it keeps nothing alive, so every
    array bound is held here.
    """

    def __init__(self, binding: Any, logits: FloatArray, *, keeps_last: bool) -> None:
        self.binding = binding
        self.logits = logits
        """[B, N, V]"""
        self.ids = self.mask = np.empty((0, 0), np.int64)
        """[B, S] and [B, T]"""
        self.places = np.empty(0, np.int64)
        """0 … T-1"""
        self._keeps_last = keeps_last
        if keeps_last:
            # As a value of ONNX Runtime's own: bind_input refuses an input that has a default.
            self._one = ort.OrtValue.ortvalue_from_numpy(np.array(1, np.int64))
            binding.bind_ortvalue_input(LOGITS_TO_KEEP, self._one)
            binding.bind_output(LOGITS, *_place(logits))

    def shape(self, new: int, width: int) -> None:
        """Make room for so many new tokens and places in the mask, where that isn't what there is."""
        rows, _, vocabulary = self.logits.shape
        if self.ids.shape[1] != new:
            self.ids = np.empty((rows, new), np.int64)
            self.binding.bind_input(INPUT_IDS, *_place(self.ids))
            if not self._keeps_last:
                self.logits = np.empty((rows, new, vocabulary), np.float32)
                self.binding.bind_output(LOGITS, *_place(self.logits))
        if self.mask.shape[1] != width:
            self.mask, self.places = np.empty((rows, width), np.int64), np.arange(width)
            self.binding.bind_input(ATTENTION_MASK, *_place(self.mask))


def _place(array: NDArray[Any]) -> tuple[str, int, Any, tuple[int, ...], int]:
    """Return device, device number, type, shape and address of an array, as bindings take them."""
    return "cpu", 0, array.dtype.type, array.shape, array.ctypes.data
