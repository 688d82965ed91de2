"""GPTQ: rounding that makes up, in the weights still to come, for what the ones before it have cost.

Frantar et al., "GPTQ: Accurate Post-Training Quantization for Generative Pre-trained Transformers" (2022). What counts
is the error of a product's outputs, d H d' for a row's error d and H = X'X over calibration text. With H = U diag(v) U'
and U unit upper triangular, that is the sum of v[k] (d U)[k]^2: rounding the k-th weight after adding
(what the earlier ones have moved) U[:k, k] makes each term as small as the levels allow. This is GPTQ's result without
an inverse (Chee et al., "QuIP", 2023, theorem 6).
"""

from dataclasses import dataclass
from typing import Final

import numpy as np

from deploykit.quantize.blocks import FloatArray
from deploykit.quantize.grid import FindGrid, Grid

_DAMPING: Final = 0.01
"""Share of the mean of H's diagonal that is added to it, GPTQ's own."""


@dataclass(frozen=True, kw_only=True)
class Factor:
    """H = U diag(v) U' of a product's inputs, filled up to whole blocks with inputs that are always zero."""

    upper: FloatArray
    """U, [K, K], unit upper triangular."""
    weights: FloatArray
    """v, [K]."""


def factorize(hessian: FloatArray, size: int) -> Factor:
    """Return the factor of a Hessian [K, K], which is overwritten, for K filled up to `size`."""
    inputs = len(hessian)
    if size > inputs:
        hessian = np.pad(hessian, (0, size - inputs))
    diagonal = np.einsum("kk->k", hessian)
    mean = float(diagonal[:inputs].mean()) or 1.0
    # Inputs that are always zero would make H singular; their weights are free.
    diagonal[diagonal == 0] = mean
    damping = _DAMPING
    while True:
        diagonal += np.float32(damping * mean)
        try:
            # From the last input to the first, so that the factor is upper triangular.
            root = np.linalg.cholesky(hessian[::-1, ::-1])[::-1, ::-1]
            break
        except np.linalg.LinAlgError:
            damping *= 10
    scale = np.einsum("kk->k", root).copy()
    return Factor(upper=np.ascontiguousarray(root / scale), weights=np.square(scale))


def compensated(slab: FloatArray, factor: Factor, find: FindGrid) -> tuple[FloatArray, Grid, tuple[float, float]]:
    """Return a slab's levels, their grid, and sums over the product's outputs: squared errors, and squares."""
    count, block, rows = slab.shape
    weights = slab.reshape(-1, rows)
    moved, levels = np.zeros_like(weights), np.empty_like(weights)
    grids: list[Grid] = []
    error = 0.0
    for number in range(count):
        start = number * block
        place = slice(start, start + block)
        wanted = weights[place] + factor.upper[:start, place].T @ moved[:start]
        grid = find(wanted[None])
        for j in range(block):
            at = start + j
            target = wanted[j] + factor.upper[start:at, at] @ moved[start:at]
            levels[at] = grid.levels(target)[0, 0]
            values = grid.values(levels[at])[0, 0]
            moved[at] = weights[at] - values
            error += float(factor.weights[at]) * float(np.square(target - values).sum())
        grids.append(grid)
    found = Grid(
        bits=grids[0].bits,
        scales=np.concatenate([grid.scales for grid in grids]),
        zeros=np.concatenate([grid.zeros for grid in grids]),
    )
    power = float(np.einsum("nk,nk->k", whole := weights.T @ factor.upper, whole) @ factor.weights)
    return levels.reshape(slab.shape), found, (error, power)
