"""Probabilities of a row of logits, by ONNX Runtime: two to three times as fast as NumPy's exponential."""

from functools import lru_cache
from typing import Any, Final

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

FloatArray = NDArray[np.float32]
_SAFE: Final = 200.0
"""Largest logit that single precision holds to about 1e-5, and so its exponential to as small a share."""


class Softmax:
    """Turns rows of logits into probabilities, one after another in the same memory; of one thread."""

    def __init__(self) -> None:
        self._given = self._made = np.empty(0, np.float32)
        self._session: Any = None
        self._binding: Any = None

    def __call__(self, logits: FloatArray, *, peak: float, temperature: float = 1.0) -> FloatArray:
        """Return probabilities [V], which hold until the next call and may be changed.

        Each is right but for a factor that all share, off 1 by about 1e-5, and a relative error of as much of its own;
        those of -inf are 0.

        Args:
            logits: a row, none NaN or +inf, and not all -inf.
            peak: the largest of them.
            temperature: divides them; above 0.
        """
        if self._given.size != logits.size:
            self._bind(len(logits))
        if temperature == 1:
            np.copyto(self._given, logits)
        elif abs(peak) / temperature < _SAFE:
            np.divide(logits, np.float32(temperature), out=self._given)
        else:
            # In this order no temperature overflows, and rounding stays small beside the distance to the largest.
            np.subtract(logits, np.float32(peak), out=self._given)
            self._given /= np.float32(temperature)
        self._session.run_with_iobinding(self._binding)
        return self._made

    def _bind(self, size: int) -> None:
        self._given, self._made = np.empty(size, np.float32), np.empty(size, np.float32)
        # Kept for the runs: where two threads come first at once, each opens one, and a binding fits its own alone.
        self._session = _session()
        self._binding = self._session.io_binding()
        self._binding.bind_input("x", "cpu", 0, np.float32, (size,), self._given.ctypes.data)
        self._binding.bind_output("y", "cpu", 0, np.float32, (size,), self._made.ctypes.data)


def _field(number: int, value: bytes) -> bytes:
    """Return a field of a protobuf message, for values of less than 128 bytes."""
    return bytes([number << 3 | 2, len(value)]) + value


_TENSOR: Final = _field(2, _field(1, b"\x08\x01"))
"""A value's type: a float32 tensor of any shape."""
_NODE: Final = _field(1, b"x") + _field(2, b"y") + _field(4, b"Softmax")
_GRAPH: Final = (
    _field(1, _NODE) + _field(2, b"g") + _field(11, _field(1, b"x") + _TENSOR) + _field(12, _field(1, b"y") + _TENSOR)
)
_MODEL: Final = b"\x08\x08" + _field(7, _GRAPH) + _field(8, b"\x10\x0d")
"""An ONNX model that is one Softmax over the last axis: IR version 8, operator set 13. Written out by hand, since the
package that makes models isn't there where they run."""


@lru_cache(maxsize=1)
def _session() -> ort.InferenceSession:
    options = ort.SessionOptions()
    # One row is too short to share, and threads that wait for the next would be in the model's way.
    options.intra_op_num_threads = 1
    options.enable_cpu_mem_arena = False
    return ort.InferenceSession(_MODEL, options, providers=["CPUExecutionProvider"])
