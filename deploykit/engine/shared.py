"""The cache in place: past and present are one memory, and a step writes its keys and values where they stay."""

import mmap
from typing import Any

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from deploykit.engine.scheduler import Batch, Job, Move
from deploykit.errors import ConfigError
from deploykit.spec import ATTENTION_MASK, INPUT_IDS, LOGITS, LOGITS_TO_KEEP, DecoderSpec

FloatArray = NDArray[np.float32]


class SharedDecoder:
    """Rows of one pool, each of its own length, padded on the right.

    A binding is by bare pointer, which is what a view of neighbouring rows needs; it keeps nothing alive, so every
    array bound is held here. The pool never moves, so the binding of the same rows serves for good.
    """

    def __init__(self, session: Any, spec: DecoderSpec, *, rows: int, capacity: int) -> None:
        self._session = session
        self._spec = spec
        self._pool = [
            _zeros(np.dtype(spec.cache_dtype), rows, layer.heads, capacity, size)
            for layer in spec.layers
            for size in (layer.key_dim, layer.value_dim)
        ]
        """Keys and values of each layer, [rows, K, capacity, D], in graph order."""
        self._logits = np.empty(rows * spec.vocab_size, np.float32)
        self._one = ort.OrtValue.ortvalue_from_numpy(np.array(1, np.int64))
        self._bindings: dict[tuple[int, int], Any] = {}

    @property
    def cache_bytes(self) -> int:
        """Memory set aside for keys and values; pages that no token has reached yet are only promised."""
        return sum(array.nbytes for array in self._pool)

    def run(self, batch: Batch) -> FloatArray:
        """Return the logits of each row's last token, [B, V]; they hold until the next run."""
        rows, total = len(batch.jobs), max(batch.totals)
        ids = np.array(batch.ids, np.int64)
        mask = (np.arange(total) < np.array(batch.totals)[:, None]).astype(np.int64)
        logits = self._logits_of(rows, batch.new)
        binding = self._binding(batch.first_row, rows)
        binding.bind_input(INPUT_IDS, *_place(ids))
        binding.bind_input(ATTENTION_MASK, *_place(mask))
        binding.bind_output(LOGITS, *_place(logits))
        self._session.run_with_iobinding(binding)
        return logits[:, -1]

    def forget(self, job: Job, moves: list[Move]) -> None:  # noqa: ARG002 -- the other cache goes by job
        """Close up the rows; what lies in a free row is overwritten by the next that gets it."""
        for move in moves:
            for array in self._pool:
                array[move.target, :, : move.length] = array[move.source, :, : move.length]

    def _logits_of(self, rows: int, new: int) -> FloatArray:
        """Return memory for the logits of a batch, [B, N, V]."""
        shape = (rows, 1 if self._spec.logits_to_keep else new, self._spec.vocab_size)
        if self._logits.size < np.prod(shape):
            self._logits = np.empty(int(np.prod(shape)), np.float32)
        return self._logits[: np.prod(shape)].reshape(shape)

    def _binding(self, first: int, rows: int) -> Any:
        """Return a binding whose past and present are rows `first` and up of the pool."""
        if (first, rows) not in self._bindings:
            binding = self._session.io_binding()
            if self._spec.logits_to_keep:
                # As a value of ONNX Runtime's own: bind_input refuses an input that has a default.
                binding.bind_ortvalue_input(LOGITS_TO_KEEP, self._one)
            for past, present, array in zip(self._spec.past(), self._spec.present(), self._pool, strict=True):
                place = _place(array[first : first + rows])
                binding.bind_input(past.name, *place)
                binding.bind_output(present.name, *place)
            self._bindings[first, rows] = binding
        return self._bindings[first, rows]


def _place(array: NDArray[Any]) -> tuple[str, int, Any, tuple[int, ...], int]:
    """Return device, device number, type, shape and address of an array, as bindings take them."""
    assert array.flags.c_contiguous
    return "cpu", 0, array.dtype.type, array.shape, array.ctypes.data


def _zeros(dtype: np.dtype[Any], *shape: int) -> NDArray[Any]:
    """Return zeros that cost memory only once they are written to.

    numpy's own would ask for huge pages, and then a row's first token brings in its neighbours' room as well.
    """
    size = dtype.itemsize * int(np.prod(shape))
    try:
        memory = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    except (OSError, OverflowError):
        raise ConfigError(
            f"no room for a cache of {shape[0]} rows of {shape[2]} tokens ({size:,} bytes a tensor); "
            "lower max_rows or max_context"
        ) from None
    return np.frombuffer(memory, dtype).reshape(shape)
