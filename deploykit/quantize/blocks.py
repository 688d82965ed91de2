"""Weights in blocks that share a scale: ONNX Runtime's layout for MatMulNBits and GatherBlockQuantized.

A row of K weights is cut into blocks of `block` weights, the last one filled up with zeros. A weight is
`(q - 2^(bits-1)) * scale`; q takes a byte (8 bits), or a nibble, the even one in the low half of its byte (4 bits).
"""

from typing import Final, Literal

import numpy as np
from numpy.typing import NDArray

from deploykit.errors import ArtifactError

Bits = Literal[4, 8]
FloatArray = NDArray[np.float32]
ByteArray = NDArray[np.uint8]

_CHUNK: Final = 1 << 18
"""Weights worked on at once: each array in between is 1 MiB and stays in a core's cache, however large the tensor."""
_SMALLEST: Final = 1e-30
"""A block without a larger weight is zero: its scale would be subnormal."""


def quantize_weight(weight: FloatArray, bits: Bits, block: int, *, name: str) -> tuple[ByteArray, FloatArray]:
    """Return the weights rounded to nearest, [N, blocks, block * bits / 8], and their scales, [N, blocks].

    Args:
        weight: [N, K]; may be a transposed view of a mapped file, of which a few rows are read at a time.
        bits: how many bits a weight keeps.
        block: weights that share a scale, along K.
        name: the tensor's name, for errors.

    Raises:
        ArtifactError: the tensor holds NaN or Inf.
    """
    rows, columns = weight.shape
    blocks = -(-columns // block)
    packed = np.empty((rows, blocks, block * bits // 8), np.uint8)
    scales = np.empty((rows, blocks), np.float32)
    step = max(1, _CHUNK // (blocks * block))
    for start in range(0, rows, step):
        part = np.zeros((min(step, rows - start), blocks * block), np.float32)
        part[:, :columns] = weight[start : start + step]
        if not np.isfinite(part).all():
            raise ArtifactError(f"weight {name!r} holds NaN or Inf; the checkpoint is damaged")
        levels, scale = _round(part.reshape(-1, blocks, block), bits)
        packed[start : start + step] = _pack(levels, bits)
        scales[start : start + step] = scale
    return packed, scales


def dequantize(packed: ByteArray, scales: FloatArray, bits: Bits, columns: int) -> FloatArray:
    """Return the weights that `packed` stands for, [N, columns]."""
    levels = packed if bits == 8 else np.stack([packed & 15, packed >> 4], axis=-1).reshape(*packed.shape[:2], -1)
    weights = (levels.astype(np.float32) - 2 ** (bits - 1)) * scales[..., None]
    return np.asarray(weights.reshape(len(packed), -1)[:, :columns], np.float32)


def _round(weights: FloatArray, bits: Bits) -> tuple[ByteArray, FloatArray]:
    """Return levels [N, blocks, block] and scales: the weight farthest from zero becomes the lowest level exactly.

    Symmetric levels are lopsided (-8 to 7): giving the far end to the largest weight, whatever its sign, uses them all.
    """
    half = 2 ** (bits - 1)
    farthest = np.abs(weights).argmax(axis=-1, keepdims=True)
    extreme = np.take_along_axis(weights, farthest, axis=-1)
    extreme[np.abs(extreme) < _SMALLEST] = 0
    scales = extreme / -half
    inverse = np.divide(1, scales, out=np.zeros_like(scales), where=scales != 0)
    levels = np.rint(weights * inverse) + half
    return np.clip(levels, 0, 2 * half - 1).astype(np.uint8), scales[..., 0]


def _pack(levels: ByteArray, bits: Bits) -> ByteArray:
    return levels if bits == 8 else np.asarray(levels[..., 0::2] | (levels[..., 1::2] << 4), np.uint8)
