"""What the trainer asks of data, and what it hands to a model: the parts that training is put together from."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final, Protocol

import torch

IGNORED: Final = -100
"""Label of a position that doesn't count, as PyTorch's cross-entropy and transformers have it."""


@dataclass(frozen=True, kw_only=True)
class Batch:
    """Examples that run together, padded on the right to one length."""

    inputs: Mapping[str, torch.Tensor]
    """What the model takes, by its own names, all int64: `input_ids` [B, S] and `attention_mask` [B, S]; for pairs also
    `decoder_input_ids` [B, T]. A batch without padding has no mask."""
    labels: torch.Tensor
    """[B, S] or [B, T] tokens that follow each position, `IGNORED` where there is none; [B] classes or numbers."""
    tokens: int
    """Tokens in it, source and target, without padding."""
    places: int
    """Positions in it, padding included."""

    @property
    def rows(self) -> int:
        """B."""
        return int(self.labels.shape[0])


class Examples(Protocol):
    """The examples of one file, as token ids on disk."""

    def __len__(self) -> int:
        """Return how many examples (windows, pairs, texts) an epoch has."""

    def steps(self) -> int:
        """Return how many batches an epoch has, as near as can be told."""

    def epoch(self, number: int, *, skip: int = 0) -> Iterator[Batch]:
        """Yield the batches of an epoch, shuffled by the seed and the epoch's number alone, the first `skip` left out.

        The same number gives the same batches in every process, however often it is asked for.
        """

    def in_order(self, limit: int | None = None) -> Iterator[Batch]:
        """Yield the first `limit` examples once, never varied, in batches that suit validation."""
