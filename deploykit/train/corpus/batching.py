"""Which examples run together: those of like length, so that little is spent on padding."""

from collections.abc import Iterator
from typing import Final

import numpy as np
import numpy.typing as npt

Indices = npt.NDArray[np.int64]

BLOCK: Final = 1 << 15
"""Examples that are sorted among themselves; blocks are drawn from all of them, in random order."""
WASTE: Final = 0.05
"""Part of a batch that may be padding, if that can be."""


def blocks(order: Indices) -> Iterator[Indices]:
    """Yield `order` in blocks of nearly one size, at most `BLOCK` long."""
    yield from np.array_split(order, max(1, -(-len(order) // BLOCK)))


def by_length(sources: Indices, targets: Indices) -> Indices:
    """Return an order [N] in which neighbours are alike in both lengths.

    Sources ascend; among sources of one length targets rise and fall by turns, so that there is no jump where the
    length of the source changes. Examples alike in both stay as they came: shuffled before, they meet others each time.
    """
    _, group = np.unique(sources, return_inverse=True)
    order: Indices = np.lexsort((np.where(group % 2, -targets, targets), sources))
    return order


def by_rows(order: Indices, rows: int) -> list[Indices]:
    """Return `order` cut into batches of `rows`."""
    return [order[first : first + rows] for first in range(0, len(order), rows)]


def by_places(order: Indices, sources: Indices, targets: Indices, places: int) -> list[Indices]:
    """Return `order` cut into batches of at most `places` positions of source and target, padding included.

    A batch that is at least half full ends early where the next example would make more than `WASTE` of it padding. An
    example longer than `places` is a batch of its own.
    """
    batches: list[Indices] = []
    first = widest = longest = tokens = 0
    for index, (source, target) in enumerate(zip(sources[order].tolist(), targets[order].tolist(), strict=True)):
        wide, long, real = max(widest, source), max(longest, target), tokens + source + target
        padded = (wide + long) * (index + 1 - first)
        half = 2 * (widest + longest) * (index - first) >= places
        if index > first and (padded > places or (half and padded - real > WASTE * padded)):
            batches.append(order[first:index])
            first, wide, long, real = index, source, target, source + target
        widest, longest, tokens = wide, long, real
    return [*batches, order[first:]] if len(order) else batches
