"""The levels that weights may take, found block by block.

Weights lie in slabs [blocks, block, n]: block by block of K, and n of the N rows side by side, so that whatever is
done along a block is done for n rows at a time.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from deploykit.quantize.blocks import Bits, FloatArray

_SMALLEST: Final = 1e-30
"""A block without a larger weight is zero: its scale would be subnormal."""
_SHRINKS: Final = (1.0, 0.94, 0.88, 0.82, 0.76)
"""Shares of a block's range that are tried."""


@dataclass(frozen=True, kw_only=True)
class Grid:
    """Levels 0 to 2^bits - 1 that stand for `(level - zero) * scale`."""

    bits: Bits
    scales: FloatArray
    """[blocks, 1, n]; zero where all weights of a block are."""
    zeros: FloatArray
    """[blocks, 1, n], whole numbers."""

    @property
    def top(self) -> int:
        """The highest level."""
        return int(2**self.bits - 1)

    @cached_property
    def inverse(self) -> FloatArray:
        """Levels for each unit of weight."""
        return np.divide(1, self.scales, out=np.zeros_like(self.scales), where=self.scales != 0)

    def levels(self, weights: FloatArray) -> FloatArray:
        """Return the nearest level of each weight, as whole numbers."""
        levels = weights * self.inverse
        np.rint(levels, out=levels)
        levels += self.zeros
        np.maximum(levels, 0, out=levels)
        return np.minimum(levels, self.top, out=levels)

    def values(self, levels: FloatArray) -> FloatArray:
        """Return the weights that levels stand for."""
        values = levels - self.zeros
        values *= self.scales
        return values

    def errors(self, weights: FloatArray) -> FloatArray:
        """Return the squared error of rounding `weights`, summed over each block, [blocks, 1, n]."""
        moved = self.values(self.levels(weights))
        moved -= weights
        return np.asarray(np.einsum("bkn,bkn->bn", moved, moved)[:, None], np.float32)


FindGrid = Callable[[FloatArray], Grid]
"""From weights [blocks, block, n] to their levels."""


def nearest(weights: FloatArray, bits: Bits, *, symmetric: bool) -> Grid:
    """Return levels that reach the weights farthest from zero."""
    low, high = _range(weights)
    if symmetric:
        return _symmetric(low, high, bits)
    return _asymmetric(low, high, _zero(low, high, bits), bits)


def searched(weights: FloatArray, bits: Bits, *, symmetric: bool) -> Grid:
    """Return, block by block, the levels whose squared error is least.

    Clipping a few large weights may cost less than wide steps for all, and the next zero point less than the nearest.
    """
    candidates = _candidates(weights, bits, symmetric=symmetric)
    best = next(candidates)
    least = best.errors(weights)
    for grid in candidates:
        errors = grid.errors(weights)
        best = choose(errors < least, grid, best)
        least = np.minimum(errors, least)
    return best


def choose(where: NDArray[Any], one: Grid, other: Grid) -> Grid:
    """Return `one` in the blocks where `where` is true, else `other`."""
    return Grid(
        bits=one.bits,
        scales=np.where(where, one.scales, other.scales),
        zeros=np.where(where, one.zeros, other.zeros),
    )


def _candidates(weights: FloatArray, bits: Bits, *, symmetric: bool) -> Iterator[Grid]:
    low, high = _range(weights)
    wide = [_symmetric(low, high, bits)]
    if not symmetric:
        zero = _zero(low, high, bits)
        moved = (np.clip(zero + shift, 0, 2**bits - 1) for shift in (0, -1, 1))
        wide = [_asymmetric(low, high, zeros, bits) for zeros in moved]
    for grid in wide:
        for shrink in _SHRINKS:
            yield Grid(bits=bits, scales=grid.scales * np.float32(shrink), zeros=grid.zeros)


def _range(weights: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Return the lowest and the highest weight of each block, and zero for those next to it."""
    low, high = weights.min(axis=1, keepdims=True), weights.max(axis=1, keepdims=True)
    low[np.abs(low) < _SMALLEST] = 0
    high[np.abs(high) < _SMALLEST] = 0
    return low, high


def _symmetric(low: FloatArray, high: FloatArray, bits: Bits) -> Grid:
    """Return levels around the middle, of which the lowest is the weight farthest from zero, whatever its sign.

    Symmetric levels are lopsided (-8 to 7): the far end goes to the largest weight, so that all are used.
    """
    half = 2 ** (bits - 1)
    scales = np.where(-low > high, low, high) / np.float32(-half)
    return Grid(bits=bits, scales=scales, zeros=np.full_like(scales, half))


def _zero(low: FloatArray, high: FloatArray, bits: Bits) -> FloatArray:
    """Return the zero point that divides the levels most nearly as zero divides the range."""
    low, high = np.minimum(low, 0), np.maximum(high, 0)
    width = high - low
    return np.asarray(np.rint(np.divide(-low * (2**bits - 1), width, out=np.zeros_like(width), where=width > 0)))


def _asymmetric(low: FloatArray, high: FloatArray, zeros: FloatArray, bits: Bits) -> Grid:
    """Return levels that reach the lowest and the highest weight on their sides of the zero point.

    A side that has no level is left out: then all its weights become zero.
    """
    above = 2**bits - 1 - zeros
    scales = np.maximum(
        np.divide(high, above, out=np.zeros_like(high), where=above > 0),
        np.divide(-low, zeros, out=np.zeros_like(low), where=zeros > 0),
    )
    return Grid(bits=bits, scales=np.maximum(scales, 0), zeros=zeros)
