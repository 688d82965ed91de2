"""What augmentation changes, how much of it, and what it leaves alone."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deploykit.train.config import AugmentConfig
from deploykit.train.corpus.augment import SPAN, Augmenter, misspelt, spans
from deploykit.train.tokenizer import UNK, train_tokenizer

TOKENIZER = train_tokenizer(["a b c"], 300, task="text2text-generation")


def augmenter(**options: float) -> Augmenter:
    return Augmenter(config=AugmentConfig(**options), tokenizer=TOKENIZER, unk=UNK, kept=frozenset(range(4)))


@pytest.mark.parametrize("options", [{"token_dropout": 0.2}, {"span_mask": 0.2}])
def test_the_part_asked_for_becomes_unk_and_specials_stay(options: dict[str, float]) -> None:
    ids = np.tile(np.arange(100), (2000, 1))
    masked = augmenter(**options).masked(ids, np.random.default_rng(0))
    hit = masked != ids
    assert (masked[hit] == UNK).all()
    assert not hit[:, :4].any()
    assert hit[:, 4:].mean() == pytest.approx(0.2, abs=0.01)
    assert (ids == np.arange(100)).all()


@pytest.mark.parametrize("part", [0.05, 0.15, 0.5, 0.9, 1.0])
def test_spans_are_as_long_and_as_many_as_they_should_be(part: float) -> None:
    covered = spans((20_000, 12), part, np.random.default_rng(1))
    assert covered.mean() == pytest.approx(part, rel=0.03)
    # Whichever the place.
    assert covered.mean(axis=0).tolist() == pytest.approx([part] * 12, abs=0.02)
    if part < 0.6:
        ends = covered[:, :-1] & ~covered[:, 1:]
        assert covered[:, :-1].sum() / ends.sum() == pytest.approx(SPAN, rel=0.06)


def test_nothing_is_varied_where_nothing_is_asked_for() -> None:
    ids = np.arange(20)
    plain = augmenter()
    assert plain.masked(ids, np.random.default_rng(0)) is ids
    assert plain.varied("A text", np.random.default_rng(0)) == "A text"
    assert not plain.text


def test_case_changes_in_the_part_asked_for() -> None:
    chance = np.random.default_rng(2)
    noisy = augmenter(case_noise=0.4)
    assert noisy.text
    seen = [noisy.varied("Wort", chance) for _ in range(2000)]
    assert set(seen) == {"Wort", "WORT", "wort"}
    assert seen.count("WORT") / 2000 == pytest.approx(0.2, abs=0.03)
    assert seen.count("wort") / 2000 == pytest.approx(0.2, abs=0.03)


def test_characters_are_dropped_doubled_or_swapped() -> None:
    chance = np.random.default_rng(3)
    seen = {misspelt("abcd", 0.1, chance) for _ in range(3000)}
    assert {"abcd", "bcd", "acd", "aabcd", "abccd", "bacd", "acbd"} <= seen
    text = "x" * 100_000
    noisy = misspelt(text, 0.3, np.random.default_rng(0))
    # As many are doubled as dropped.
    assert len(noisy) == pytest.approx(len(text), rel=0.02)


@settings(max_examples=60, deadline=None)
@given(st.text(max_size=30), st.floats(0, 1))
def test_noise_makes_no_new_characters(text: str, part: float) -> None:
    assert set(misspelt(text, part, np.random.default_rng(0))) <= set(text)
