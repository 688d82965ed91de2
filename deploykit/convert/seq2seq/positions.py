"""Positions that no checkpoint holds: sinusoids, in the orders that families lay them out, and T5's buckets."""

import numpy as np
from numpy.typing import NDArray

from deploykit.convert.seq2seq.description import Relative
from deploykit.convert.weights import FloatArray

_BASE = 10_000.0
"""Of the wavelengths: Vaswani et al. 2017, section 3.5."""


def interleaved(rows: int, width: int) -> FloatArray:
    """Return sinusoids [rows, width], sines on even and cosines on odd places: the paper's own order."""
    angles = _angles(rows, np.arange(0, width, 2) / width)
    table = np.empty((rows, width), np.float32)
    table[:, 0::2] = np.sin(angles)
    table[:, 1::2] = np.cos(angles)[:, : width // 2]
    return table


def halves(rows: int, width: int) -> FloatArray:
    """Return sinusoids [rows, width], all sines before all cosines: Marian's and Pegasus' order."""
    angles, sines = _angles(rows, np.arange(0, width, 2) / width), (width + 1) // 2
    table = np.empty((rows, width), np.float32)
    table[:, :sines], table[:, sines:] = np.sin(angles), np.cos(angles)[:, : width // 2]
    return table


def stretched(rows: int, width: int, *, first: int) -> FloatArray:
    """Return sinusoids [rows, width] of positions from `first` on, all sines first: fairseq's and M2M100's.

    The wavelengths reach their end one step sooner than the paper's, and an odd last place stays 0.
    """
    half = width // 2
    angles = _angles(first + rows, np.arange(half) / max(1, half - 1))[first:]
    table = np.zeros((rows, width), np.float32)
    table[:, :half], table[:, half : 2 * half] = np.sin(angles), np.cos(angles)
    return table


def _angles(rows: int, powers: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.arange(rows)[:, None] / _BASE ** powers[None]


def buckets(relative: Relative) -> NDArray[np.int64]:
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
