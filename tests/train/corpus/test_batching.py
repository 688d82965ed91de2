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
    batches = by_places(sources, targets, most)
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


def padding(batches: list[Indices], sources: Indices, targets: Indices) -> float:
    """Return the part of all positions that is padding."""
    return 1 - int(sources.sum() + targets.sum()) / sum(places(batch, sources, targets) for batch in batches)


def lognormal(chance: np.random.Generator, mean: float, count: int) -> Indices:
    lengths: Indices = np.clip(chance.lognormal(mean, 0.5, count).astype(np.int64), 2, 128)
    return lengths


def test_little_of_a_batch_is_padding_and_batches_are_full() -> None:
    # As in translation: targets about as long as their sources, give or take a fifth.
    chance = np.random.default_rng(0)
    sources = lognormal(chance, 3.2, 40_000)
    targets = np.clip((sources * chance.normal(1.05, 0.2, 40_000)).astype(np.int64), 2, 128)
    for most, full in ((4096, 1.2), (16384, 1.35)):
        batches = []
        for items in blocks(chance.permutation(40_000)):
            batches += [items[batch] for batch in by_places(sources[items], targets[items], most)]
        assert padding(batches, sources, targets) < 0.05
        assert len(batches) < full * int(sources.sum() + targets.sum()) / most


def test_little_is_padding_where_sources_do_not_tell_targets() -> None:
    # In the order of sources alone a third of this is padding.
    chance = np.random.default_rng(0)
    sources, targets = lognormal(chance, 2.4, 2800), lognormal(chance, 2.6, 2800)
    for most, allowed in ((4096, 0.16), (1024, 0.07), (512, 0.05)):
        batches = by_places(sources, targets, most)
        assert padding(batches, sources, targets) < allowed
        assert len(batches) < 1.8 * int(sources.sum() + targets.sum()) / most


def test_batches_are_full_where_targets_are_all_alike() -> None:
    sources = np.random.default_rng(0).integers(8, 35, 20_000)
    targets = np.full(20_000, 11)
    batches = by_places(sources, targets, 2048)
    assert len(batches) < 1.03 * int(sources.sum() + targets.sum()) / 2048
    assert padding(batches, sources, targets) < 0.01


def test_batches_of_rows_and_blocks_hold_everything() -> None:
    assert [batch.tolist() for batch in by_rows(np.arange(5), 2)] == [[0, 1], [2, 3], [4]]
    many = np.arange(2 * batching.BLOCK + 1)
    sizes = [len(block) for block in blocks(many)]
    assert sum(sizes) == len(many)
    assert max(sizes) - min(sizes) <= 1
    assert max(sizes) <= batching.BLOCK
