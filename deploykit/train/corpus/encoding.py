"""Text to stores of token ids, in a stream."""

import hashlib
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from itertools import islice
from pathlib import Path
from typing import Any, Final, Self

import numpy as np
from tokenizers import Tokenizer

from deploykit.train.config import DataConfig
from deploykit.train.corpus.cleaning import Tally
from deploykit.train.corpus.examples import END, Example
from deploykit.train.corpus.store import StoreWriter, token_type

_PIECES: Final = 32
"""Pieces of running text encoded at once."""
_EXAMPLES: Final = 4096
"""Examples encoded at once."""


def write_running(texts: Iterable[str], tokenizer: Tokenizer, path: Path, *, eos: int) -> None:
    """Write the tokens of running text, a row for each piece; `<eos>` in the text becomes `eos`."""
    end = tokenizer.id_to_token(eos)
    with StoreWriter(path, token_type(tokenizer.get_vocab_size())) as writer:
        for batch in _batches(texts, _PIECES):
            own = batch if end == END else [text.replace(END, end) for text in batch]
            for encoding in tokenizer.encode_batch_fast(own, add_special_tokens=False):
                writer.add(encoding.ids)


class SequenceWriter:
    """The stores of one split's pairs or labelled texts, being written; a context manager."""

    def __init__(self, folder: Path, split: str, *, kind: type[Any], pairs: bool, texts: bool) -> None:
        self.values: list[float] = []
        """Classes or numbers of labelled texts."""
        self.count = 0
        """Examples so far."""
        self._open = ExitStack()
        self._sources = StoreWriter(folder / f"{split}.source", kind)
        self._targets = StoreWriter(folder / f"{split}.target", kind) if pairs else None
        self._texts = StoreWriter(folder / f"{split}.text", np.uint8) if texts else None

    def __enter__(self) -> Self:
        for writer in (self._sources, self._targets, self._texts):
            if writer:
                self._open.enter_context(writer)
        return self

    def __exit__(self, *error: object) -> None:
        self._open.__exit__(*error)  # type: ignore[arg-type] # passed on as they come

    def add(self, example: Example, source: list[int], target: list[int] | None) -> None:
        """Append an example by its tokens."""
        self.count += 1
        self._sources.add(source)
        if self._targets and target is not None:
            self._targets.add(target)
        if self._texts:
            self._texts.add(np.frombuffer(example.source.encode("utf-8"), dtype=np.uint8))


def encoded(
    found: Iterable[Example], tokenizer: Tokenizer, config: DataConfig, tally: Tally, *, pairs: bool
) -> Iterator[tuple[Example, list[int], list[int] | None]]:
    """Yield examples with the tokens of source and target; those that are too long are counted and left out."""
    for batch in _batches(found, _EXAMPLES):
        sources = tokenizer.encode_batch_fast([example.source for example in batch])
        targets = tokenizer.encode_batch_fast([example.target for example in batch]) if pairs else [None] * len(batch)
        for example, source, target in zip(batch, sources, targets, strict=True):
            ids = target.ids if target else None
            if len(source.ids) > config.max_source_tokens or (ids and len(ids) > config.max_target_tokens):
                tally.add("too_long")
                continue
            yield example, source.ids, ids


def held_out(text: str, *, seed: int, part: float) -> bool:
    """Return whether an example is for validation: decided by its text, so that equal ones are never on both sides."""
    if not part:
        return False
    digest = hashlib.blake2b(text.encode("utf-8"), digest_size=8, key=seed.to_bytes(8, "big")).digest()
    return int.from_bytes(digest, "big") < part * 2**64


def _batches(items: Iterable[Any], size: int) -> Iterator[list[Any]]:
    iterator = iter(items)
    while batch := list(islice(iterator, size)):
        yield batch
