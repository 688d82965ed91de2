"""Which examples run together: those of like length, so that little is spent on padding."""

from collections.abc import Iterator
from typing import Final

import numpy as np
import numpy.typing as npt

Indices = npt.NDArray[np.int64]

BLOCK: Final = 1 << 16
"""Examples that are sorted among themselves; blocks are drawn from all of them, in random order."""
PRICE: Final = 0.02
"""What a batch costs besides its positions, as a part of the most it may hold: so that there are few, and full ones."""


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


def by_places(sources: Indices, targets: Indices, places: int) -> list[Indices]:
    """Return batches [n] of at most `places` positions of source and target each, padding included.

    Where one side tells the other, as in translation, or hardly varies, a batch can be a piece of the order by length.
    Where the two have little to do with each other, targets of such a piece are of all lengths: there the examples are
    cut in two, by source or by target, until what is left fits. What costs less is returned. An example longer than
    `places` is a batch of its own.
    """
    ways = [_in_a_row(sources, targets, places), _cut_in_two(sources, targets, places)]
    return min(
        ways,
        key=lambda batches: sum(_width(batch, sources, targets) * len(batch) + PRICE * places for batch in batches),
    )


def _in_a_row(sources: Indices, targets: Indices, places: int) -> list[Indices]:
    """Return the order by length, cut where the next example would be too much."""
    order = by_length(sources, targets)
    batches: list[Indices] = []
    first = widest = longest = 0
    for index, (source, target) in enumerate(zip(sources[order].tolist(), targets[order].tolist(), strict=True)):
        widest, longest = max(widest, source), max(longest, target)
        if index > first and (widest + longest) * (index + 1 - first) > places:
            batches.append(order[first:index])
            first, widest, longest = index, source, target
    return [*batches, order[first:]] if len(order) else batches


def _cut_in_two(sources: Indices, targets: Indices, places: int) -> list[Indices]:
    """Return all examples, cut in two again and again: each time where it costs least."""
    batches: list[Indices] = []
    rest = [np.arange(len(sources))] if len(sources) else []
    while rest:
        items = rest.pop()
        if len(items) == 1 or _width(items, sources, targets) * len(items) <= places:
            batches.append(items)
            continue
        orders = [items[np.argsort(side[items], kind="stable")] for side in (sources, targets)]
        cuts = [_cheapest(sources[order], targets[order], places) for order in orders]
        order, (_, end) = min(zip(orders, cuts, strict=True), key=lambda way: way[1])
        rest += [order[end:], order[:end]]
    return batches


def _cheapest(sources: Indices, targets: Indices, places: int) -> tuple[float, int]:
    """Return the cost of the best place to cut two or more examples that are in order, and that place.

    Neither part gets less than a quarter: else small batches would be cut off one after another.
    """
    count = len(sources)
    least = max(1, count // 4)
    ends = np.arange(least, count - least + 1)
    before = sum(np.maximum.accumulate(side)[ends - 1] for side in (sources, targets)) * ends
    behind = sum(np.maximum.accumulate(side[::-1])[::-1][ends] for side in (sources, targets)) * (count - ends)
    costs = before + behind + PRICE * places * (-(-before // places) - (-behind // places))
    best = int(costs.argmin())
    return float(costs[best]), int(ends[best])


def _width(batch: Indices, sources: Indices, targets: Indices) -> int:
    """Return the positions of each row of a batch."""
    return int(sources[batch].max() + targets[batch].max())
