"""The tokenizer: any text and back, for `tokenizers` and for `transformers`."""

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_training import VERSE
from transformers import AutoTokenizer

from deploykit.train import TrainResult
from deploykit.train.config import Task, TokenizerKind
from deploykit.train.tokenizer import BACK, BOS, EOS, SPECIALS, UNK, save_tokenizer, train_tokenizer

TOKENIZER = train_tokenizer([VERSE] * 4, 320)

TEXTS = ["你好，世界", "👩‍👩‍👧 🇺🇦", "Grüße\r\n\t  x", "a\0b", "def f(x):\n        return x", " leading", "trailing  "]


def test_specials_come_first() -> None:
    assert [TOKENIZER.token_to_id(token) for token in SPECIALS.values()] == [0, 1, 2, 3]
    assert list(SPECIALS.values()) == ["<bos>", "<eos>", "<pad>", "<unk>"]


@pytest.mark.parametrize("text", TEXTS)
def test_text_comes_back(text: str) -> None:
    assert TOKENIZER.decode(TOKENIZER.encode(text).ids) == text


@settings(deadline=None)
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


PROSE = "Hello, (world): the cat's foo_bar, 你好世界! 2024-01-05, Grüße … \u0e2a\u0e27\u0e31\u0e2a"
WORDS = train_tokenizer([f"{PROSE}\n\t {PROSE}"] * 3, 5000, kind="word", task="text2text-generation")


def test_words_come_back_with_single_spaces() -> None:
    ids = WORDS.encode(f"  {PROSE} \n the\tcat ").ids
    assert UNK not in ids
    assert WORDS.decode(ids) == f"{PROSE} the cat"
    assert [WORDS.id_to_token(one) for one in WORDS.encode("the (world): 你好").ids] == [
        *("▁the", "▁", "(", "world", ")", ":", "▁", "你", "好"),
        "<eos>",
    ]


def test_an_unknown_word_is_unk_and_the_most_frequent_are_known() -> None:
    tokenizer = train_tokenizer(["a a a b b c"], 6, kind="word")
    assert tokenizer.get_vocab() == {**dict(zip(SPECIALS.values(), range(4), strict=True)), "▁a": 4, "▁b": 5}
    assert tokenizer.encode("a c b d").ids == [BOS, 4, UNK, 5, UNK]


@pytest.mark.parametrize("kind", ["bpe", "word"])
@pytest.mark.parametrize(
    ("task", "before", "behind"),
    [
        ("text-generation", [BOS], []),
        ("text2text-generation", [], [EOS]),
        ("text-classification", [BOS], [EOS]),
        ("text-regression", [BOS], [EOS]),
    ],
)
def test_a_task_says_what_is_put_round_a_text(
    kind: TokenizerKind, task: Task, before: list[int], behind: list[int]
) -> None:
    tokenizer = train_tokenizer([VERSE] * 4, 320, kind=kind, task=task, extra=[BACK])
    assert tokenizer.token_to_id(BACK) == 4
    bare = tokenizer.encode("for item", add_special_tokens=False).ids
    assert tokenizer.encode("for item").ids == [*before, *bare, *behind]
    assert tokenizer.encode("for item", "basket").ids[: len(before) + len(bare)] == [*before, *bare]
    assert bare
    assert tokenizer.encode(BACK, add_special_tokens=False).ids == [4]


def test_numbers_of_examples_are_digits_and_those_of_running_text_are_not() -> None:
    text = ["in 2024 and 2024"] * 9
    assert train_tokenizer(text, 400).encode(" 2024").tokens == ["<bos>", "Ġ2024"]
    assert train_tokenizer(text, 400, task="text2text-generation").encode("2024").tokens == [*"2024", "<eos>"]


@pytest.mark.parametrize("kind", ["bpe", "word"])
def test_transformers_reads_each_kind(kind: TokenizerKind, tmp_path: Path) -> None:
    tokenizer = train_tokenizer([PROSE], 400, kind=kind, task="text2text-generation", extra=[BACK])
    save_tokenizer(tokenizer, tmp_path, max_context=50)
    loaded = AutoTokenizer.from_pretrained(tmp_path)
    for text in [PROSE, f"{BACK} the cat", "zzz"]:
        assert loaded(text).input_ids == tokenizer.encode(text).ids
        assert loaded.decode(loaded(text).input_ids, skip_special_tokens=True) == tokenizer.decode(
            tokenizer.encode(text).ids
        )


def test_training_is_the_same_each_time() -> None:
    for kind in ("bpe", "word"):
        once, again = (train_tokenizer([VERSE, PROSE], 330, kind=kind).to_str() for _ in range(2))
        assert once == again
