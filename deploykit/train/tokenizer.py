"""A byte-level BPE of the user's own text."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers

SPECIALS: Final = {"bos_token": "<bos>", "eos_token": "<eos>", "pad_token": "<pad>", "unk_token": "<unk>"}
"""Ids 0 to 3, in this order."""
BOS, EOS, PAD, UNK = range(4)


def train_tokenizer(texts: Iterable[str], vocab_size: int) -> Tokenizer:
    """Return a byte-level BPE trained on `texts`, which writes `<bos>` before what it encodes.

    Every byte has an entry, so any text can be encoded and `<unk>` never occurs.

    Args:
        texts: the text, in pieces.
        vocab_size: entries at most, specials included; fewer where the text has no more pairs to merge.
    """
    tokenizer = Tokenizer(models.BPE(unk_token=SPECIALS["unk_token"]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=list(SPECIALS.values()),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    bos = SPECIALS["bos_token"]
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{bos} $A", pair=f"{bos} $A $B:1", special_tokens=[(bos, BOS)]
    )
    return tokenizer


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
