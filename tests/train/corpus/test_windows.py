"""Running text cut into windows."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from torch import Tensor

from deploykit.train.config import AugmentConfig
from deploykit.train.corpus.augment import Augmenter
from deploykit.train.corpus.store import Store, StoreWriter
from deploykit.train.corpus.windows import Windows
from deploykit.train.parts import Batch
from deploykit.train.tokenizer import UNK, train_tokenizer


def windows(folder: Path, tokens: range, *, length: int, size: int, bos: int | None = 0) -> Windows:
    with StoreWriter(folder / "train", np.uint16) as writer:
        writer.add(list(tokens))
    return Windows(
        store=Store(folder / "train", np.uint16), start=0, end=len(tokens), length=length, size=size, bos=bos, seed=7
    )


def rows(batches: Iterator[Batch]) -> list[list[int]]:
    return [row for batch in batches for row in batch.labels.tolist()]


def test_labels_are_what_follows(tmp_path: Path) -> None:
    first = next(windows(tmp_path, range(10, 110), length=8, size=2).in_order())
    assert first.inputs["input_ids"].tolist() == [[0, *range(10, 17)], [0, *range(18, 25)]]
    assert first.labels.tolist() == [list(range(10, 18)), list(range(18, 26))]
    assert set(first.inputs) == {"input_ids"}
    assert (first.tokens, first.places, first.rows) == (16, 16, 2)
    assert first.inputs["input_ids"].dtype.itemsize == first.labels.dtype.itemsize == 8


def test_without_bos_the_first_token_is_the_text_s_own(tmp_path: Path) -> None:
    some = windows(tmp_path, range(10, 27), length=8, size=4, bos=None)
    (batch,) = some.in_order()
    assert batch.inputs["input_ids"].tolist() == [list(range(10, 18)), list(range(18, 26))]
    assert batch.labels.tolist() == [list(range(11, 19)), list(range(19, 27))]
    # One token fewer leaves nothing to follow the last.
    assert len(windows(tmp_path, range(16), length=8, size=4, bos=None)) == 1


def test_in_order_reads_each_window_once_and_no_more_than_asked(tmp_path: Path) -> None:
    some = windows(tmp_path, range(103), length=10, size=3)
    assert [token for row in rows(some.in_order()) for token in row] == list(range(100))
    assert [token for row in rows(some.in_order(4)) for token in row] == list(range(40))
    assert len(list(some.in_order())) == some.steps() == 4


def test_an_epoch_reads_without_repeats_at_an_offset_of_its_own(tmp_path: Path) -> None:
    some = windows(tmp_path, range(1, 106), length=10, size=3)
    epochs = [rows(some.epoch(number)) for number in range(6)]
    for epoch in epochs:
        tokens = [token for row in epoch for token in row]
        assert len(set(tokens)) == len(tokens) == 100
    assert len({min(min(row) for row in epoch) for epoch in epochs}) > 1
    assert len({str(epoch) for epoch in epochs}) == 6


def test_an_epoch_is_the_same_again_and_can_be_entered_anywhere(tmp_path: Path) -> None:
    some = windows(tmp_path, range(200), length=10, size=3)
    whole = rows(some.epoch(5))
    assert rows(some.epoch(5)) == whole
    assert rows(some.epoch(5, skip=2)) == whole[6:]
    assert not list(some.epoch(5, skip=some.steps()))


def test_only_what_is_read_is_masked_and_only_in_training(tmp_path: Path) -> None:
    plain = windows(tmp_path, range(4, 404), length=10, size=4)
    noise = Augmenter(
        config=AugmentConfig(token_dropout=0.3),
        tokenizer=train_tokenizer(["a"], 300),
        unk=UNK,
        kept=frozenset(range(4)),
    )
    some = Windows(store=plain.store, start=0, end=400, length=10, size=4, bos=0, seed=7, augmenter=noise)

    def read(batches: Iterator[Batch]) -> list[Tensor]:
        return [batch.inputs["input_ids"] for batch in batches]

    masked, clean = read(some.epoch(0)), read(plain.epoch(0))
    hits = [(one != other) for one, other in zip(masked, clean, strict=True)]
    assert sum(int(hit.sum()) for hit in hits) / 400 == pytest.approx(0.27, abs=0.06)
    assert all((one[hit] == UNK).all() for one, hit in zip(masked, hits, strict=True))
    assert rows(some.epoch(0)) == rows(plain.epoch(0))
    assert all((one == other).all() for one, other in zip(masked, read(some.epoch(0)), strict=True))
    assert all((one == other).all() for one, other in zip(masked[3:], read(some.epoch(0, skip=3)), strict=True))
    assert all((one == other).all() for one, other in zip(read(some.in_order()), read(plain.in_order()), strict=True))
