"""Examples of like length run together."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from deploykit.train.corpus import batching
from deploykit.train.corpus.batching import Indices, blocks, by_length, by_places, by_rows

LENGTHS = st.lists(st.tuples(st.integers(1, 40), st.integers(0, 40)), min_size=1, max_size=60)


def places(batch: Indices, sources: Indices, targets: Indices) -> int:
    return int((sources[batch].max() + targets[batch].max()) * len(batch))


@settings(max_examples=60, deadline=None)
@given(LENGTHS, st.integers(1, 300))
def test_each_example_is_in_one_batch_that_is_no_larger_than_allowed(lengths: list[tuple[int, int]], most: int) -> None:
    sources, targets = np.array(lengths).T
    order = by_length(sources, targets)
    batches = by_places(order, sources, targets, most)
    assert sorted(np.concatenate(batches).tolist()) == list(range(len(lengths)))
    for batch in batches:
        assert len(batch) == 1 or places(batch, sources, targets) <= most


def test_sources_ascend_and_targets_do_not_jump() -> None:
    sources, targets = np.array([3, 3, 1, 1, 2, 2]), np.array([5, 9, 4, 8, 7, 6])
    order = by_length(sources, targets)
    assert list(zip(sources[order], targets[order], strict=True)) == [(1, 4), (1, 8), (2, 7), (2, 6), (3, 5), (3, 9)]


def test_equal_lengths_stay_as_they_came() -> None:
    same = np.full(9, 4)
    assert by_length(same, same).tolist() == list(range(9))


def test_little_of_a_batch_is_padding() -> None:
    # As in translation: lengths lognormal, targets about as long as their sources, give or take a fifth.
    chance = np.random.default_rng(0)
    sources = np.clip(chance.lognormal(3.2, 0.5, 40_000).astype(int), 2, 128)
    targets = np.clip((sources * chance.normal(1.05, 0.2, 40_000)).astype(int), 2, 128)
    padded, count = 0, 0
    for items in blocks(chance.permutation(40_000)):
        for batch in by_places(by_length(sources[items], targets[items]), sources[items], targets[items], 4096):
            padded += places(batch, sources[items], targets[items])
            count += 1
    tokens = int(sources.sum() + targets.sum())
    assert tokens / padded > 0.95
    # Ending batches early for that doesn't make them small.
    assert count < 1.35 * tokens / 4096


def test_batches_of_rows_and_blocks_hold_everything() -> None:
    assert [batch.tolist() for batch in by_rows(np.arange(5), 2)] == [[0, 1], [2, 3], [4]]
    many = np.arange(2 * batching.BLOCK + 1)
    sizes = [len(block) for block in blocks(many)]
    assert sum(sizes) == len(many)
    assert max(sizes) - min(sizes) <= 1
    assert max(sizes) <= batching.BLOCK
