"""Training examples varied anew in each epoch: what a model must get right although its input isn't."""

from dataclasses import dataclass
from typing import Final

import numpy as np
from tokenizers import Tokenizer

from deploykit.train.config import AugmentConfig
from deploykit.train.corpus.store import Numbers

SPAN: Final = 3
"""Mean length of a masked span, as in T5 (arXiv 1910.10683, section 3.1.4)."""
_AT_ONCE: Final = 1 << 12


@dataclass(frozen=True, kw_only=True)
class Augmenter:
    """Varies what a model reads, never what it should say."""

    config: AugmentConfig
    tokenizer: Tokenizer
    unk: int
    """Stands for a token that is dropped or masked."""
    kept: frozenset[int]
    """Tokens that stand for no text, which stay."""

    @property
    def text(self) -> bool:
        """Whether texts are varied, not only their tokens."""
        return bool(self.config.case_noise or self.config.char_noise)

    def masked(self, ids: Numbers, chance: np.random.Generator) -> Numbers:
        """Return `ids`, of any shape, with `<unk>` for some: single ones, and spans along the last axis."""
        hit = np.zeros(ids.shape, dtype=bool)
        if self.config.token_dropout:
            hit |= chance.random(ids.shape) < self.config.token_dropout
        if self.config.span_mask:
            hit |= spans(ids.shape, self.config.span_mask, chance)
        if not hit.any():
            return ids
        hit &= ~np.isin(ids, list(self.kept))
        return np.where(hit, np.asarray(self.unk, dtype=ids.dtype), ids)

    def varied(self, text: str, chance: np.random.Generator) -> str:
        """Return `text` with noise in its letters."""
        if self.config.case_noise and chance.random() < self.config.case_noise:
            text = text.upper() if chance.random() < 0.5 else text.lower()
        if self.config.char_noise:
            text = misspelt(text, self.config.char_noise, chance)
        return text

    def encoded(self, texts: list[str]) -> list[list[int]]:
        """Return the tokens of some sources, as they were encoded when they were stored."""
        # A few at a time: the tokenizer's own account of a text is many times as large as its tokens.
        parts = (texts[first : first + _AT_ONCE] for first in range(0, len(texts), _AT_ONCE))
        return [encoding.ids for part in parts for encoding in self.tokenizer.encode_batch_fast(part)]


def spans(shape: tuple[int, ...], part: float, chance: np.random.Generator) -> Numbers:
    """Return where spans lie that cover `part` of the last axis, on average: by turns a span and a gap.

    Where more than three quarters are covered, gaps of one place are all there are, and spans grow past `SPAN`.
    """
    begin = min(1.0, part / (SPAN * (1 - part))) if part < 1 else 1.0
    end = begin * (1 - part) / part
    covered = np.zeros(shape, dtype=bool)
    inside = chance.random(shape[:-1]) < part
    for place, draws in enumerate(np.moveaxis(chance.random(shape), -1, 0)):
        covered[..., place] = inside
        inside = np.where(inside, draws >= end, draws < begin)
    return covered


def misspelt(text: str, part: float, chance: np.random.Generator) -> str:
    """Return `text` with `part` of its characters dropped, doubled, or swapped with the next."""
    draws, kinds = chance.random(len(text)), chance.integers(3, size=len(text))
    letters = list(text)
    for index in np.flatnonzero(draws < part).tolist():
        if kinds[index] == 0:
            letters[index] = ""
        elif kinds[index] == 1:
            letters[index] *= 2
        elif index + 1 < len(letters):
            letters[index], letters[index + 1] = letters[index + 1], letters[index]
    return "".join(letters)
