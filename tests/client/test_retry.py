"""When to ask again."""

import random

from deploykit.client.retry import BASE, TRIES, waits


def test_waits_are_few_short_and_different() -> None:
    drawn = [list(waits(random.Random(seed))) for seed in range(50)]
    assert {len(row) for row in drawn} == {TRIES - 1}
    for attempt, column in enumerate(zip(*drawn, strict=True)):
        assert 0 <= min(column) < max(column) <= BASE * 2**attempt
        assert len(set(column)) == len(column)
