"""Text on disk to batches."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tiny_training import VERSE, write_data

from deploykit.errors import TrainError
from deploykit.train import data as data_module
from deploykit.train.data import blocks, encode, in_order, read_texts, shuffled
from deploykit.train.tokenizer import BOS, EOS, train_tokenizer


@pytest.mark.parametrize(
    ("train", "match"),
    [
        (b"", r"train\.txt: holds no text"),
        (b" \n\t\n", r"train\.txt: holds no text"),
        (b"abc\xff\xfe", r"train\.txt: not UTF-8 at byte 3 \(0xff, invalid start byte\).*iconv"),
        ("é".encode("latin-1"), r"train\.txt: not UTF-8 at byte 0 \(0xe9"),
        ("ab你".encode()[:-1], r"train\.txt: not UTF-8 at byte 2 \(0xe4, unexpected end of data"),
    ],
)
def test_text_that_can_not_be_read_is_named(tmp_path: Path, train: bytes, match: str) -> None:
    with pytest.raises(TrainError, match=match):
        read_texts(write_data(tmp_path, train=train))


def test_a_missing_folder_or_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(TrainError, match="nowhere: no such folder"):
        read_texts(tmp_path / "nowhere")
    write_data(tmp_path)
    (tmp_path / "val.txt").unlink()
    with pytest.raises(TrainError, match=r"val\.txt: no such file"):
        read_texts(tmp_path)


def test_a_byte_order_mark_is_no_text(tmp_path: Path) -> None:
    assert read_texts(write_data(tmp_path, train=b"\xef\xbb\xbfabc")).train == "abc"


@given(st.text(alphabet="ab\n", max_size=200))
def test_blocks_are_the_text(text: str) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(data_module, "_BLOCK", 16)
        pieces = list(blocks(text))
    assert "".join(pieces) == text
    assert all(0 < len(piece) <= 16 for piece in pieces)


def test_documents_end_with_eos() -> None:
    ids = encode(VERSE * 3, train_tokenizer([VERSE], 300))
    assert np.count_nonzero(ids == EOS) == 3
    assert BOS not in ids


def test_labels_are_the_inputs_one_on() -> None:
    ids = np.arange(10, 110, dtype=np.uint32)
    batch = next(in_order(ids, bos=0, rows=2, length=8))
    assert batch.input_ids.tolist() == [[0, *range(10, 17)], [0, *range(18, 25)]]
    assert batch.labels.tolist() == [list(range(10, 18)), list(range(18, 26))]


def test_in_order_reads_each_window_once() -> None:
    ids = np.arange(103, dtype=np.uint32)
    rows = [row for batch in in_order(ids, bos=0, rows=3, length=10) for row in batch.labels.tolist()]
    assert [token for row in rows for token in row] == list(range(100))


def test_shuffled_reads_an_epoch_without_repeats_and_differs_by_epoch() -> None:
    ids = np.arange(1, 101, dtype=np.uint32)
    batches = shuffled(ids, bos=0, rows=2, length=7, generator=np.random.default_rng(0))
    epochs = [[next(batches).labels.flatten().tolist() for _ in range(7)] for _ in range(3)]
    for epoch in epochs:
        tokens = [token for batch in epoch for token in batch]
        assert len(set(tokens)) == len(tokens) == 98
    assert epochs[0] != epochs[1] != epochs[2]


def test_one_batch_is_enough_to_go_on_for_ever() -> None:
    batches = shuffled(np.arange(8, dtype=np.uint32), bos=0, rows=2, length=4, generator=np.random.default_rng(0))
    assert [next(batches).labels.numel() for _ in range(4)] == [8] * 4
