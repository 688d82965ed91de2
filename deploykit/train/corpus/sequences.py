"""Pairs and labelled texts as batches of like length."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import torch

from deploykit.train.corpus.augment import Augmenter
from deploykit.train.corpus.batching import Indices, blocks, by_length, by_places, by_rows
from deploykit.train.corpus.store import Numbers, Store
from deploykit.train.parts import IGNORED, Batch
from deploykit.train.tokenizer import Specials

_TOLD_FROM = 1 << 17  # examples from which the number of batches is told


@dataclass(frozen=True, kw_only=True)
class _Block:
    """Examples that are sorted among themselves."""

    items: Indices
    """[n] their numbers; N + i is pair i turned back."""
    varied: Mapping[int, list[int]]
    """Sources that differ from what is stored, by place in the block."""
    sources: Indices
    """[n] lengths."""
    targets: Indices
    """[n] lengths; 0 for labelled texts."""


@dataclass(frozen=True, kw_only=True)
class Sequences:
    """N pairs, or N texts each with a class or a number, on disk."""

    sources: Store
    targets: Store | None
    """Of pairs; None of labelled texts."""
    values: Numbers | None
    """[N] classes (int64) or numbers (float32) of texts; None of pairs."""
    specials: Specials
    size: int
    """Texts in a batch; of pairs, positions in one."""
    seed: int = 0
    augmenter: Augmenter | None = None
    texts: Store | None = None
    """Sources in UTF-8, where letters are to be varied."""
    turnable: Indices | None = None
    """Pairs that may be turned back, where some are."""
    turned: int = 0
    """How many of them are in each epoch."""
    back: tuple[int, int] = (0, 0)
    """The token that begins a source made of a target, and the place in it where it stands."""
    max_source: int
    """Tokens that a varied source may grow to."""

    def __len__(self) -> int:
        """Return how many examples an epoch has, pairs that are turned back counted again."""
        return len(self.sources) + self.turned

    def steps(self) -> int:
        """Return how many batches an epoch has: epochs differ a little, and of a large file only a part is counted."""
        order = self._order(np.random.default_rng([self.seed, 0]))[:_TOLD_FROM]
        batches = sum(len(self._cut(self._lengths(items, {}))) for items in blocks(order))
        return max(1, round(batches * len(self) / len(order)))

    def epoch(self, number: int, *, skip: int = 0) -> Iterator[Batch]:
        """Yield the batches of an epoch, shuffled and varied by the seed and its number; the first `skip` left out."""
        order = self._order(np.random.default_rng([self.seed, number]))
        for place, items in enumerate(blocks(order)):
            chance = np.random.default_rng([self.seed, number, place])
            block = self._lengths(items, self._varied(items, chance))
            batches = self._cut(block)
            for index in chance.permutation(len(batches)).tolist():
                skip -= 1
                if skip < 0:
                    yield self._batch(block, batches[index], np.random.default_rng([self.seed, number, place, index]))

    def in_order(self, limit: int | None = None) -> Iterator[Batch]:
        """Yield the first `limit` examples once, unvaried, like lengths together; the first one's batch comes first."""
        count = min(len(self.sources), len(self.sources) if limit is None else limit)
        for items in blocks(np.arange(count)):
            block = self._lengths(items, {})
            for places in sorted(self._cut(block), key=lambda places: int(places.min())):
                yield self._batch(block, places, None)

    def _order(self, chance: np.random.Generator) -> Indices:
        items = np.arange(len(self.sources))
        if self.turnable is not None:
            again = chance.choice(self.turnable, self.turned, replace=False)
            items = np.concatenate([items, len(self.sources) + again])
        return chance.permutation(items)

    def _varied(self, items: Indices, chance: np.random.Generator) -> dict[int, list[int]]:
        """Return the tokens of the sources in which letters are varied, by place; one grown too long stays as it is."""
        if not self.augmenter or not self.texts:
            return {}
        places, texts = [], []
        for place in np.flatnonzero(items < len(self.sources)).tolist():
            text = self.texts.row(int(items[place])).tobytes().decode("utf-8")
            if (varied := self.augmenter.varied(text, chance)) != text:
                places.append(place)
                texts.append(varied)
        ids = self.augmenter.encoded(texts)
        return {place: row for place, row in zip(places, ids, strict=True) if len(row) <= self.max_source}

    def _lengths(self, items: Indices, varied: Mapping[int, list[int]]) -> _Block:
        turned, own = items >= len(self.sources), items % len(self.sources)
        sources = self.sources.lengths(own)
        targets = self.targets.lengths(own) if self.targets else np.zeros_like(sources)
        sources, targets = np.where(turned, targets + 1, sources), np.where(turned, sources, targets)
        for place, row in varied.items():
            sources[place] = len(row)
        return _Block(items=items, varied=varied, sources=sources, targets=targets)

    def _cut(self, block: _Block) -> list[Indices]:
        """Return batches of places in `block`."""
        if self.targets is None:
            return by_rows(by_length(block.sources, block.targets), self.size)
        return by_places(block.sources, block.targets, self.size)

    def _batch(self, block: _Block, places: Indices, chance: np.random.Generator | None) -> Batch:
        rows = [self._source(block, place) for place in places.tolist()]
        ids = padded(rows, self.specials.pad)
        lengths = np.array([len(row) for row in rows])
        if self.augmenter and chance:
            ids = self.augmenter.masked(ids, chance)
        inputs = {"input_ids": torch.from_numpy(ids)}
        if lengths.min() < ids.shape[1]:
            inputs["attention_mask"] = torch.from_numpy((np.arange(ids.shape[1]) < lengths[:, None]).astype(np.int64))
        if self.targets is None:
            assert self.values is not None
            labels = torch.from_numpy(self.values[block.items[places]])
            return Batch(inputs=inputs, labels=labels, tokens=int(lengths.sum()), places=ids.size)
        targets = [self._target(int(block.items[place])) for place in places.tolist()]
        follow, read = padded(targets, IGNORED), padded(targets, self.specials.pad)
        read = np.concatenate([np.full((len(read), 1), self.specials.start), read[:, :-1]], axis=1)
        return Batch(
            inputs={**inputs, "decoder_input_ids": torch.from_numpy(read)},
            labels=torch.from_numpy(follow),
            tokens=int(lengths.sum()) + sum(len(row) for row in targets),
            places=ids.size + follow.size,
        )

    def _source(self, block: _Block, place: int) -> Numbers:
        if place in block.varied:
            return np.array(block.varied[place])
        item = int(block.items[place])
        if item < len(self.sources):
            return self.sources.row(item)
        assert self.targets is not None
        token, where = self.back
        return np.insert(self.targets.row(item - len(self.sources)).astype(np.int64), where, token)

    def _target(self, item: int) -> Numbers:
        assert self.targets is not None
        return self.targets.row(item) if item < len(self.sources) else self.sources.row(item - len(self.sources))


def padded(rows: list[Numbers], filler: int) -> Numbers:
    """Return rows of numbers as one array [B, longest], with `filler` behind the shorter ones."""
    array = np.full((len(rows), max(len(row) for row in rows)), filler, dtype=np.int64)
    for index, row in enumerate(rows):
        array[index, : len(row)] = row
    return array
