"""Prompts to tokens, and answers to text piece by piece, on each kind of tokenizer."""

from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest
from checkpoints import make_tokenizer
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

from deploykit.engine.text import Codec, Detokenizer, StopGate, read_prompt
from deploykit.errors import ArtifactError, RequestError

SPECIALS = ["<unk>", "<s>", "</s>"]
BYTES = [f"<0x{byte:02X}>" for byte in range(256)]
WORDS = ["hello", "world", "the", "of", "Grüße", "a", "b", "c"]


def byte_level() -> Tokenizer:
    """As GPT-2, Llama 3 and Qwen."""
    tokenizer: Tokenizer = make_tokenizer().backend_tokenizer
    return tokenizer


def byte_fallback() -> Tokenizer:
    """As Llama 2 and Mistral: spaces are `▁`, one is put before a text, unknown characters are byte tokens."""
    letters = sorted({"▁", *"".join(WORDS)})
    vocabulary = {token: place for place, token in enumerate([*SPECIALS, *BYTES, *letters, "he", "▁w", "▁the"])}
    merges = [("h", "e"), ("▁", "w"), ("▁", "t")][:2]
    model = models.BPE(vocabulary, merges, unk_token="<unk>", byte_fallback=True, fuse_unk=True)
    tokenizer = Tokenizer(model)
    tokenizer.add_special_tokens(SPECIALS)
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    return tokenizer


def metaspace() -> Tokenizer:
    """As T5 and Gemma's kin: Unigram, decoded by Metaspace, no bytes."""
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    trainer = trainers.UnigramTrainer(vocab_size=60, special_tokens=SPECIALS, unk_token="<unk>", show_progress=False)
    tokenizer.train_from_iterator([" ".join(WORDS)] * 5, trainer)
    return tokenizer


KINDS = [byte_level, byte_fallback, metaspace]


@cache
def codec_of(kind: Callable[[], Tokenizer]) -> Codec:
    return Codec(kind())


@cache
def size_of(kind: Callable[[], Tokenizer]) -> int:
    return kind().get_vocab_size()


def pieces(codec: Codec, prompt: list[int], answer: list[int]) -> list[str]:
    """Return the text that each token gave, and at last what was held back."""
    detokenizer = Detokenizer(codec, prompt)
    return [*map(detokenizer.push, answer), detokenizer.finish()]


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=300, deadline=None)
@given(data=st.data())
def test_pieces_are_what_decoding_the_whole_adds(kind: Callable[[], Tokenizer], data: st.DataObject) -> None:
    codec, ids = codec_of(kind), st.lists(st.integers(0, size_of(kind) - 1), max_size=25)
    text = data.draw(st.sampled_from(["", "a", "hello", " hello ", "你好", "Grüße 👋", "of the \ufffd"]))
    prompt, answer = codec.encode(text), data.draw(ids)
    before, whole = codec.decode(prompt), codec.decode([*prompt, *answer])
    # A wrong byte right behind the prompt's own bytes changes how the prompt reads: nothing can be added to that.
    assume(whole.startswith(before))
    assert "".join(pieces(codec, prompt, answer)) == whole[len(before) :]


@pytest.mark.parametrize("kind", [byte_level, byte_fallback])
@settings(max_examples=200, deadline=None)
@given(text=st.text(st.characters(codec="utf-8", exclude_characters="\ufffd▁"), max_size=20))
@example(text="你好，世界")
@example(text="👨‍👩‍👧 family")
def test_never_splits_a_character(kind: Callable[[], Tokenizer], text: str) -> None:
    codec = codec_of(kind)
    prompt = codec.encode("a")
    answer = codec.encode("a" + text)[len(prompt) :]
    assume(codec.decode([*prompt, *answer]) == "a" + text)
    parts = pieces(codec, prompt, answer)
    assert "".join(parts) == text
    for part in parts:
        assert "\ufffd" not in part
        part.encode()


@given(text=st.text(st.characters(codec="utf-8", exclude_characters="\ufffd"), min_size=1, max_size=20))
def test_byte_level_text_is_given_as_soon_as_its_character_is_whole(text: str) -> None:
    codec = codec_of(byte_level)
    assert pieces(codec, [], codec.encode(text))[-1] == ""


def test_a_run_of_byte_tokens_ends_with_the_next_other_token() -> None:
    codec = codec_of(byte_fallback)
    prompt = codec.encode("a")
    answer = codec.encode("a你b")[len(prompt) :]
    assert pieces(codec, prompt, answer) == ["", "", "", "你b", ""]


def test_an_answer_keeps_the_space_that_joins_it_to_its_prompt() -> None:
    codec = codec_of(byte_fallback)
    prompt = codec.encode("hello")
    answer = codec.encode("world")[1:]
    assert codec.decode(answer) == "world"
    assert "".join(pieces(codec, prompt, answer)) == " world"
    assert "".join(pieces(codec, [1], answer)) == "world", "nothing stands before it"


def test_completes_a_character_that_a_prompt_of_tokens_began() -> None:
    codec = codec_of(byte_level)
    tokens = codec.encode("世")
    assert len(tokens) == 3, "the tokenizer must not know the character whole"
    for begun in (1, 2):
        assert "".join(pieces(codec, [*codec.encode("a"), *tokens[:begun]], tokens[begun:])) == "世"


def test_ids_past_the_tokenizers_own_have_no_text() -> None:
    """Vocabularies are padded: the model can choose a token that the tokenizer doesn't know."""
    codec = codec_of(byte_level)
    assert pieces(codec, [], [size_of(byte_level) + 5, *codec.encode("a")]) == ["", "a", ""]


STOPS = st.lists(st.text("ab\n", min_size=1, max_size=4), max_size=3).map(tuple)


@settings(max_examples=500)
@given(stops=STOPS, chunks=st.lists(st.text("ab\n", max_size=4), max_size=12))
def test_stop_strings_are_found_across_chunks(stops: tuple[str, ...], chunks: list[str]) -> None:
    whole = "".join(chunks)
    ends = [whole.find(stop) + len(stop) for stop in stops if stop in whole]
    first = min(ends, default=None)
    expected = whole
    if first is not None:
        start = min(first - len(stop) for stop in stops if whole[:first].endswith(stop))
        expected = whole[:start]
    gate, given_out = StopGate(stops), ""
    for chunk in chunks:
        given_out += gate.push(chunk)
        assert expected.startswith(given_out), "nothing is given out that must be taken back"
        if gate.closed:
            break
    given_out += gate.finish("")
    assert given_out == expected
    assert gate.closed == (first is not None)


def test_holds_back_only_what_may_begin_a_stop_string() -> None:
    gate = StopGate(("\n\n", "END"))
    assert [gate.push(text) for text in ("a\n", "b", "EN", "d", "x\n")] == ["a", "\nb", "", "ENd", "x"]
    assert gate.finish("") == "\n"


def test_prompts_get_the_tokenizers_own_specials_and_no_padding() -> None:
    tokenizer = byte_fallback()
    tokenizer.enable_truncation(3)
    tokenizer.enable_padding(length=30)
    codec = Codec(tokenizer)
    tokens = codec.encode("hello the world")
    assert tokens[0] == 1
    assert 3 < len(tokens) < 30
    assert codec.decode(tokens) == "hello the world"


@pytest.mark.parametrize(
    ("prompt", "message"),
    [
        ("", "the prompt is empty"),
        ([], "the prompt is empty"),
        ("a\ud800b", "the prompt is not valid text: a lone surrogate at character 1; send it as UTF-8"),
        ("a" * 20, "the prompt has 20 tokens, but the context of 20 leaves room for 19; shorten it"),
        (list(range(20)), "the prompt has 20 tokens, but the context of 20 leaves room for 19; shorten it"),
        ("a" * 10**6, "the prompt has at least [0-9]+ tokens, but the context of 20 leaves room for 19"),
        ([3, 318], "token id 318 is not one of the model's; ids are 0 to 317"),
        ([-1, 3], "token id -1 is not one of the model's; ids are 0 to 317"),
        ([2**63], "token id 9223372036854775808 is not one"),
        ([3, True], "token ids must be integers, got bool"),
        ([3.0], "token ids must be integers, got float"),
    ],
)
def test_refuses_prompts_with_one_line(prompt: str | list[int], message: str) -> None:
    with pytest.raises(RequestError, match=message) as caught:
        read_prompt(prompt, codec_of(byte_level), vocab_size=318, context=20)
    assert "\n" not in str(caught.value)


def test_a_model_without_a_tokenizer_takes_tokens_only() -> None:
    assert read_prompt([1, 2], None, vocab_size=3, context=20) == [1, 2]
    with pytest.raises(RequestError, match="has no tokenizer; send the prompt as token ids"):
        read_prompt("a", None, vocab_size=3, context=20)


def test_nul_is_text_like_any_other() -> None:
    codec = codec_of(byte_level)
    assert codec.decode(codec.encode("a\0b")) == "a\0b"


def test_names_a_damaged_tokenizer(tmp_path: Path) -> None:
    file = tmp_path / "tokenizer.json"
    file.write_text("{}")
    with pytest.raises(ArtifactError, match=r"tokenizer.json can't be read: .*; export the checkpoint again"):
        Codec.open(file)
