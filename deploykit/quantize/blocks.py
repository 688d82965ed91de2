"""Weights in blocks that share a scale: ONNX Runtime's layout for MatMulNBits and GatherBlockQuantized.

A row of K weights is cut into blocks of `block` weights, the last one filled up. A weight is `(q - zero) * scale`; q
takes a byte (8 bits), or a nibble, the even one in the low half of its byte (4 bits). Zero points are stored like q,
each row in whole bytes; without them zero is the middle, 2^(bits-1).
"""

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

Bits = Literal[4, 8]
FloatArray = NDArray[np.float32]
ByteArray = NDArray[np.uint8]


@dataclass(frozen=True, kw_only=True)
class Blocks:
    """A weight [N, K] as it is stored."""

    bits: Bits
    data: ByteArray
    """[N, blocks, block * bits / 8]"""
    scales: FloatArray
    """[N, blocks]"""
    zeros: ByteArray | None
    """[N, ceil(blocks * bits / 8)]; None where every zero point is the middle."""

    @classmethod
    def empty(cls, rows: int, blocks: int, block: int, bits: Bits, *, symmetric: bool) -> "Blocks":
        """Return the storage of a weight, to be filled row by row."""
        return cls(
            bits=bits,
            data=np.empty((rows, blocks, block * bits // 8), np.uint8),
            scales=np.empty((rows, blocks), np.float32),
            zeros=None if symmetric else np.empty((rows, zero_bytes(blocks, bits)), np.uint8),
        )

    def fill(self, rows: slice, levels: ByteArray, scales: FloatArray, zeros: NDArray[Any]) -> None:
        """Store some rows.

        Args:
            rows: which of the N.
            levels: q, with the weights of a row below each other: [blocks, block, n].
            scales: [blocks, n].
            zeros: [blocks, n], whole numbers; any value where zero points aren't stored.
        """
        packed = pack(levels.reshape(-1, levels.shape[-1]), self.bits)
        self.data[rows] = packed.T.reshape(self.data[rows].shape)
        self.scales[rows] = scales.T
        if self.zeros is not None:
            self.zeros[rows] = pack(zeros.astype(np.uint8), self.bits).T

    def weights(self, columns: int) -> FloatArray:
        """Return the weights that are stored, [N, K]."""
        levels = unpack(self.data.reshape(len(self.data), -1), self.bits).reshape(*self.scales.shape, -1)
        zeros: NDArray[Any] | float = 2.0 ** (self.bits - 1)
        if self.zeros is not None:
            zeros = unpack(self.zeros, self.bits)[:, : self.scales.shape[1], None].astype(np.float32)
        weights = (levels.astype(np.float32) - zeros) * self.scales[..., None]
        return np.asarray(weights.reshape(len(self.data), -1)[:, :columns], np.float32)


def zero_bytes(blocks: int, bits: Bits) -> int:
    """Return how many bytes the zero points of a row take."""
    return -(-blocks * bits // 8)


def pack(levels: ByteArray, bits: Bits) -> ByteArray:
    """Return levels as bytes, along the first axis: pairs of nibbles, the last one filled up, or the levels."""
    if bits == 8:
        return levels
    packed = levels[0::2].copy()
    packed[: len(levels) // 2] |= np.left_shift(levels[1::2], 4, dtype=np.uint8)
    return packed


def unpack(packed: ByteArray, bits: Bits) -> ByteArray:
    """Return the levels in `packed`, along the last axis."""
    if bits == 8:
        return packed
    pairs = np.stack([packed & 15, packed >> 4], axis=-1)
    return np.asarray(pairs.reshape(*packed.shape[:-1], -1), np.uint8)
