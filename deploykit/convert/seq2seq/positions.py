"""Positions that no checkpoint holds: sinusoids, in the orders that families lay them out, and T5's buckets."""

from collections.abc import Callable, Iterator

import numpy as np
from numpy.typing import NDArray

from deploykit.convert.seq2seq.description import Relative
from deploykit.convert.weights import FloatArray

_BASE = 10_000.0
"""Of the wavelengths: Vaswani et al. 2017, section 3.5."""


_PIECE = 1 << 22
"""Elements of a table made at a time: 16 MB of fp32."""

IntArray = NDArray[np.int64]


def pieces(table: Callable[[IntArray, int], FloatArray], rows: int, width: int) -> Iterator[FloatArray]:
    """Yield the first rows of a table, [rows, width] in all, a few megabytes at a time."""
    step = max(1, _PIECE // width)
    for start in range(0, rows, step):
        yield table(np.arange(start, min(start + step, rows)), width)


def interleaved(places: IntArray, width: int) -> FloatArray:
    """Return sinusoids [places, width], sines on even and cosines on odd columns: the paper's own order."""
    angles = _angles(places, np.arange(0, width, 2) / width)
    table = np.empty((len(places), width), np.float32)
    table[:, 0::2] = np.sin(angles)
    table[:, 1::2] = np.cos(angles)[:, : width // 2]
    return table


def halves(places: IntArray, width: int) -> FloatArray:
    """Return sinusoids [places, width], all sines before all cosines: Marian's and Pegasus' order."""
    angles, sines = _angles(places, np.arange(0, width, 2) / width), (width + 1) // 2
    table = np.empty((len(places), width), np.float32)
    table[:, :sines], table[:, sines:] = np.sin(angles), np.cos(angles)[:, : width // 2]
    return table


def stretched(places: IntArray, width: int, *, first: int) -> FloatArray:
    """Return sinusoids [places, width] counted from `first` on, all sines before all cosines: fairseq's and M2M100's.

    The wavelengths reach their end one step sooner than the paper's, and an odd last column stays 0.
    """
    half = width // 2
    angles = _angles(first + places, np.arange(half) / max(1, half - 1))
    table = np.zeros((len(places), width), np.float32)
    table[:, :half], table[:, half : 2 * half] = np.sin(angles), np.cos(angles)
    return table


def _angles(places: IntArray, powers: NDArray[np.float64]) -> NDArray[np.float64]:
    return places[:, None] / _BASE ** powers[None]


def buckets(relative: Relative) -> IntArray:
    """Return the bucket of each distance key - query, from -farthest to 0, or to farthest where both ways count.

    Raffel et al. 2020, arXiv 1910.10683, section 2.1; in single precision, which decides where a bucket ends.
    """
    count, far = relative.buckets, relative.farthest
    distances = np.arange(-far, far + 1 if relative.both_ways else 1)
    after = np.zeros_like(distances)
    if relative.both_ways:
        count //= 2
        after = np.where(distances > 0, count, 0)
    steps, exact = np.abs(distances), count // 2
    grown = np.log(np.maximum(steps, 1).astype(np.float32) / np.float32(exact))
    grown = grown / np.float32(np.log(far / exact)) * np.float32(count - exact)
    wide = np.minimum(exact + grown.astype(np.int64), count - 1)
    return np.asarray(after + np.where(steps < exact, steps, wide), np.int64)
