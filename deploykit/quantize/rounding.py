"""Rounds one weight, a few megabytes at a time and on several cores."""

import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Final

import numpy as np

from deploykit.config import Rounding
from deploykit.errors import ArtifactError
from deploykit.quantize.blocks import Bits, Blocks, FloatArray
from deploykit.quantize.gptq import Factor, compensated
from deploykit.quantize.grid import FindGrid, nearest, searched
from deploykit.quantize.hqq import half_quadratic

_CHUNK: Final = 1 << 18
"""Weights worked on at once: each array in between is 1 MiB and stays in a core's cache, however large the tensor."""
_COMPENSATED_CHUNK: Final = 1 << 21
"""The same for GPTQ, which goes through K one by one: the more rows beside each other, the less that costs."""
_THREADS: Final = 4
"""Most cores used: each holds a chunk, and memory's bandwidth ends what more would bring."""


@dataclass(frozen=True, kw_only=True)
class Scheme:
    """How a weight is stored and rounded."""

    bits: Bits
    block: int
    symmetric: bool
    rounding: Rounding = "rtn"

    def finder(self) -> FindGrid:
        """Return what finds the levels of a slab."""
        find = half_quadratic if self.rounding == "hqq" else nearest if self.bits == 8 else searched
        return partial(find, bits=self.bits, symmetric=self.symmetric)


@dataclass(frozen=True, kw_only=True)
class Rounded:
    """A weight as it is stored, and what that cost."""

    blocks: Blocks
    error: float
    """Sum of the squared errors of the product's outputs where the Hessian is known, else of the weights."""
    power: float
    """Sum of the squares of the same."""
    compensated: bool
    """Whether they are the outputs'."""


def quantize_weight(
    weight: FloatArray,
    scheme: Scheme,
    *,
    name: str,
    factor: Factor | None = None,
) -> Rounded:
    """Return a weight [N, K] rounded in blocks along K.

    Args:
        weight: may be a transposed view of a mapped file, of which a few rows are read at a time.
        scheme: bits, block and rounding.
        name: the tensor's name, for errors.
        factor: of the Hessian of the product's inputs, for GPTQ.

    Raises:
        ArtifactError: the tensor holds NaN or Inf.
    """
    rows, columns = weight.shape
    count = -(-columns // scheme.block)
    padded = count * scheme.block
    out = Blocks.empty(rows, count, scheme.block, scheme.bits, symmetric=scheme.symmetric)
    find = scheme.finder()
    step = max(1, (_CHUNK if factor is None else _COMPENSATED_CHUNK) // padded)

    def work(start: int) -> tuple[float, float]:
        place = slice(start, min(rows, start + step))
        part = np.zeros((padded, place.stop - start), np.float32)
        part[:columns] = weight[place].T
        if not np.isfinite(part).all():
            raise ArtifactError(f"weight {name!r} holds NaN or Inf; the checkpoint is damaged")
        slab = part.reshape(count, scheme.block, -1)
        if factor is not None:
            levels, found, cost = compensated(slab, factor, find)
        else:
            found = find(slab)
            levels = found.levels(slab)
            cost = _squares(found.values(levels) - slab), _squares(slab)
        out.fill(place, levels.astype(np.uint8), found.scales[:, 0], found.zeros[:, 0])
        return cost

    with ThreadPoolExecutor(min(_THREADS, len(os.sched_getaffinity(0)))) as pool:
        sums = np.array(list(pool.map(work, range(0, rows, step)))).sum(axis=0)
    return Rounded(blocks=out, error=float(sums[0]), power=float(sums[1]), compensated=factor is not None)


def _squares(values: FloatArray) -> float:
    """Return the sum of squares: a dot product, whose sums are short enough for single precision."""
    return float(np.vdot(values, values))
