"""The tokenizer: any text and back, for `tokenizers` and for `transformers`."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tiny_training import VERSE
from transformers import AutoTokenizer

from deploykit.train import TrainResult
from deploykit.train.tokenizer import BOS, SPECIALS, UNK, save_tokenizer, train_tokenizer

TOKENIZER = train_tokenizer([VERSE] * 4, 320)

TEXTS = ["你好，世界", "👩‍👩‍👧 🇺🇦", "Grüße\r\n\t  x", "a\0b", "def f(x):\n        return x", " leading", "trailing  "]


def test_specials_come_first() -> None:
    assert [TOKENIZER.token_to_id(token) for token in SPECIALS.values()] == [0, 1, 2, 3]
    assert list(SPECIALS.values()) == ["<bos>", "<eos>", "<pad>", "<unk>"]


@pytest.mark.parametrize("text", TEXTS)
def test_text_comes_back(text: str) -> None:
    assert TOKENIZER.decode(TOKENIZER.encode(text).ids) == text


@given(
    st.text(st.characters(exclude_categories=["Cs"])).filter(lambda text: not any(s in text for s in SPECIALS.values()))
)
def test_any_text_comes_back(text: str) -> None:
    ids = TOKENIZER.encode(text).ids
    assert ids[0] == BOS
    assert UNK not in ids
    assert TOKENIZER.decode(ids) == text


def test_transformers_reads_what_was_saved(tmp_path: Path, trained: TrainResult) -> None:
    # Beside config.json, as AutoTokenizer finds it.
    (tmp_path / "config.json").write_bytes((trained.path / "config.json").read_bytes())
    save_tokenizer(TOKENIZER, tmp_path, max_context=77)
    loaded = AutoTokenizer.from_pretrained(tmp_path)
    assert (loaded.bos_token, loaded.eos_token, loaded.pad_token, loaded.unk_token) == tuple(SPECIALS.values())
    assert loaded.model_max_length == 77
    for text in [*TEXTS, VERSE]:
        assert loaded(text).input_ids == TOKENIZER.encode(text).ids
    for text in TEXTS:
        assert loaded.decode(loaded(text).input_ids, skip_special_tokens=True) == text


def test_a_vocabulary_is_as_large_as_the_text_allows() -> None:
    assert train_tokenizer(["ab"], 5000).get_vocab_size() < 300
    assert train_tokenizer([VERSE], 280).get_vocab_size() == 280
