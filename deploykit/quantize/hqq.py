"""HQQ: scales and zero points that leave few large errors, found from the weights alone.

Badri and Shaji, "Half-Quadratic Quantization of Large Machine Learning Models" (2023): the p-norm of the errors, which
tolerates a few outliers (p < 1), is minimised by turns over the errors and the levels' places. Theirs solves for zero
points that are no whole numbers; ONNX Runtime's fast kernels take whole ones only (with others a product takes 12 to
120 times as long), so the scale is solved for too and the zero point rounded, from the best of a search.
"""

from typing import Final

import numpy as np

from deploykit.quantize.blocks import Bits, FloatArray
from deploykit.quantize.grid import Grid, choose, searched

_ROUNDS: Final = 10
"""Turns; theirs takes at most 20."""
_NORM: Final = 0.7
"""p, theirs."""
_BETA: Final = 8.0
"""Weight of the errors' distance in the first turn, with errors in steps; theirs is 10, with errors in weights."""
_GROWTH: Final = 1.05
"""What it is multiplied by each turn; theirs is 1.01, in twice the turns."""


def half_quadratic(weights: FloatArray, bits: Bits, *, symmetric: bool) -> Grid:
    """Return the levels of a slab whose errors have the least p-norm, of those met on the way."""
    best = grid = searched(weights, bits, symmetric=symmetric)
    least = _norm(grid, weights)
    for turn in range(_ROUNDS):
        grid = _solve(grid, weights, _BETA * _GROWTH**turn, symmetric=symmetric)
        norm = _norm(grid, weights)
        best = choose(norm < least, grid, best)
        least = np.minimum(norm, least)
    return best


def _solve(grid: Grid, weights: FloatArray, beta: float, *, symmetric: bool) -> Grid:
    """Return the scale and zero point that fit best, in squares, what is left after the outliers' errors."""
    levels = grid.levels(weights)
    aims = weights * grid.inverse
    errors = aims - (levels - grid.zeros)
    aims -= _shrunk(errors, beta)
    zeros = grid.zeros
    if not symmetric:
        zeros = np.clip(np.rint((levels - aims).mean(axis=1, keepdims=True)), 0, grid.top)
    levels -= zeros
    squares = np.einsum("bkn,bkn->bn", levels, levels)[:, None]
    fit = np.einsum("bkn,bkn->bn", levels, aims)[:, None]
    ratio = np.divide(fit, squares, out=np.ones_like(fit), where=squares > 0)
    return Grid(bits=grid.bits, scales=grid.scales * ratio, zeros=zeros)


def _shrunk(errors: FloatArray, beta: float) -> FloatArray:
    """Return the proximal point of the p-norm: small errors become zero, large ones stay nearly as they are."""
    sizes = np.abs(errors)
    threshold = np.power(sizes + np.float32(1e-8), np.float32(_NORM - 1)) / np.float32(beta)
    return np.asarray(np.sign(errors) * np.maximum(sizes - threshold, 0), np.float32)


def _norm(grid: Grid, weights: FloatArray) -> FloatArray:
    moved = grid.values(grid.levels(weights))
    moved -= weights
    return np.asarray(np.power(np.abs(moved), np.float32(_NORM)).sum(axis=1, keepdims=True), np.float32)
