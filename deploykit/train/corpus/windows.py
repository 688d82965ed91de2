"""Running text as windows of one length: no position is spent on padding."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch

from deploykit.train.corpus.augment import Augmenter
from deploykit.train.corpus.store import Numbers, Store
from deploykit.train.parts import Batch


@dataclass(frozen=True, kw_only=True)
class Windows:
    """Windows of S tokens, cut one after the other from documents packed one after the other.

    Each is read from `bos` on, which is what a prompt begins with, too.
    """

    store: Store
    start: int
    """First token of the text in `store`."""
    end: int
    """Behind its last token."""
    length: int
    """S."""
    size: int
    """Windows in a batch."""
    bos: int | None
    """Where None, a window's first token is the text's own, and nothing foretells it."""
    seed: int = 0
    augmenter: Augmenter | None = None

    def __len__(self) -> int:
        """Return how many windows the text has; a rest shorter than one is left out."""
        return (self.end - self.start - (self.bos is None)) // self.length

    def steps(self) -> int:
        """Return how many batches an epoch has."""
        return -(-len(self) // self.size)

    def epoch(self, number: int, *, skip: int = 0) -> Iterator[Batch]:
        """Yield the batches of an epoch, cut at an offset of its own, shuffled; the first `skip` are left out."""
        chance = np.random.default_rng([self.seed, number])
        spare = self.end - self.start - (self.bos is None) - len(self) * self.length
        offset = self.start + int(chance.integers(spare + 1))
        starts = offset + self.length * chance.permutation(len(self))
        for step in range(skip, self.steps()):
            inputs, labels = self._gathered(starts[step * self.size : (step + 1) * self.size])
            if self.augmenter:
                inputs = self.augmenter.masked(inputs, np.random.default_rng([self.seed, number, step]))
            yield _batch(inputs, labels)

    def in_order(self, limit: int | None = None) -> Iterator[Batch]:
        """Yield the first `limit` windows once, one after the other."""
        count = min(len(self), len(self) if limit is None else limit)
        starts = self.start + self.length * np.arange(count)
        for first in range(0, count, self.size):
            yield _batch(*self._gathered(starts[first : first + self.size]))

    def _gathered(self, starts: Numbers) -> tuple[Numbers, Numbers]:
        """Return what is read [B, S] and the tokens that follow [B, S]."""
        ahead = self.length + (self.bos is None)
        ids = np.stack([self.store.slice(start, start + ahead) for start in starts.tolist()]).astype(np.int64)
        if self.bos is None:
            return ids[:, :-1], ids[:, 1:]
        return np.concatenate([np.full((len(ids), 1), self.bos), ids[:, :-1]], axis=1), ids


def _batch(inputs: Numbers, labels: Numbers) -> Batch:
    return Batch(
        inputs={"input_ids": torch.from_numpy(np.ascontiguousarray(inputs))},
        labels=torch.from_numpy(np.ascontiguousarray(labels)),
        tokens=inputs.size,
        places=inputs.size,
    )
