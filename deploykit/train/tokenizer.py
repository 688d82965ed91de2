"""Tokenizers of the user's own text: a byte-level BPE, or whole words."""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

from deploykit.train.config import Task, TokenizerKind

SPECIALS: Final = {"bos_token": "<bos>", "eos_token": "<eos>", "pad_token": "<pad>", "unk_token": "<unk>"}
"""Ids 0 to 3, in this order."""
BOS, EOS, PAD, UNK = range(4)
BACK: Final = "<back>"
"""Begins a source that is to be turned back: the pair's target, from which its source is learnt."""
_SPACE: Final = "\N{LOWER ONE EIGHTH BLOCK}"
"""Stands for a space at the start of a word, as in SentencePiece: what follows without one has none when decoded."""
_SINGLE: Final = (
    rf"[^\p{{L}}\p{{M}}\p{{N}}_{_SPACE}]|\p{{Han}}|\p{{Hiragana}}|\p{{Katakana}}|\p{{Thai}}|\p{{Khmer}}|\p{{Lao}}"
)
"""Words of their own: punctuation, and the letters of scripts that put no spaces between words."""


@dataclass(frozen=True, kw_only=True)
class Specials:
    """Ids of the tokens that stand for no text; in their defaults those of a tokenizer trained here."""

    bos: int | None = BOS
    """Begins a window of running text; nothing does where None."""
    eos: int = EOS
    pad: int = PAD
    unk: int | None = UNK
    """Stands for tokens that are dropped or masked."""
    start: int = BOS
    """Begins what an encoder-decoder's decoder reads."""


def train_tokenizer(
    texts: Iterable[str],
    vocab_size: int,
    *,
    kind: TokenizerKind = "bpe",
    task: Task = "text-generation",
    extra: Sequence[str] = (),
) -> Tokenizer:
    """Return a tokenizer trained on `texts`, which are read once, one after the other.

    A `bpe` has an entry for every byte, so it encodes any text and `<unk>` never occurs. `word` takes the most frequent
    words; runs of white space are one space to it.

    Args:
        texts: the text, in pieces.
        vocab_size: entries at most, specials included; fewer where the text has no more of them.
        kind: what an entry is.
        task: decides what is put around a text: `<bos>` before the start of running text, `<eos>` behind a source or a
            target, both around a text with a label.
        extra: special tokens that follow the four.
    """
    tokenizer, trainer = _KINDS[kind](vocab_size, [*SPECIALS.values(), *extra])
    if kind == "bpe" and task != "text-generation":
        # A number that was never seen is still digits that were (LLaMA, arXiv 2302.13971, section 2.1).
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
            [pre_tokenizers.Digits(individual_digits=True), tokenizer.pre_tokenizer]
        )
    tokenizer.train_from_iterator(texts, trainer)
    before = "" if task == "text2text-generation" else f"{SPECIALS['bos_token']} "
    behind = "" if task == "text-generation" else f" {SPECIALS['eos_token']}"
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{before}$A{behind}",
        pair=f"{before}$A $B:1{behind and behind + ':1'}",
        special_tokens=[(SPECIALS["bos_token"], BOS), (SPECIALS["eos_token"], EOS)],
    )
    return tokenizer


def _bpe(vocab_size: int, specials: list[str]) -> tuple[Tokenizer, trainers.Trainer]:
    tokenizer = Tokenizer(models.BPE(unk_token=SPECIALS["unk_token"]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer, trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=specials,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )


def _words(vocab_size: int, specials: list[str]) -> tuple[Tokenizer, trainers.Trainer]:
    tokenizer = Tokenizer(models.WordLevel(unk_token=SPECIALS["unk_token"]))
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.NFC(), normalizers.Replace(Regex(r"\s+"), " "), normalizers.Strip(left=False, right=True)]
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Metaspace(replacement=_SPACE, prepend_scheme="first"),
            pre_tokenizers.Split(Regex(_SINGLE), "isolated"),
        ]
    )
    tokenizer.decoder = decoders.Metaspace(replacement=_SPACE, prepend_scheme="first")
    return tokenizer, trainers.WordLevelTrainer(vocab_size=vocab_size, special_tokens=specials, show_progress=False)


_KINDS: Final = {"bpe": _bpe, "word": _words}


def save_tokenizer(tokenizer: Tokenizer, folder: Path, *, max_context: int) -> None:
    """Write the three files from which `transformers.AutoTokenizer` loads the tokenizer."""
    tokenizer.save(str(folder / "tokenizer.json"))
    settings = {
        # The name that both transformers 4 and 5 know; 5 itself would write one that 4 can't read.
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": max_context,
        "clean_up_tokenization_spaces": False,
        "add_prefix_space": False,
        **SPECIALS,
    }
    for name, data in (("tokenizer_config.json", settings), ("special_tokens_map.json", SPECIALS)):
        (folder / name).write_text(json.dumps(data, indent=2) + "\n", encoding="utf-8")
