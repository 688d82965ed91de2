"""What an encoder-decoder looks like: all that a family says of itself, from which the writers make two graphs."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from deploykit.convert.blocks import ACTIVATIONS
from deploykit.convert.description import Norm, Unfit
from deploykit.convert.weights import FloatArray


@dataclass(frozen=True, kw_only=True)
class Attention:
    """What a layer calls the tensors of one attention, and the norm that goes with it."""

    query: str
    key: str
    value: str
    output: str
    norm: str


@dataclass(frozen=True, kw_only=True)
class Names:
    """What the checkpoint calls one stack's tensors; those of a layer without the layer's own beginning."""

    embedding: tuple[str, ...]
    """Of these the first that the checkpoint has: a table that both stacks share is stored under one of its names."""
    layer: str
    attention: Attention
    cross: Attention | None = None
    """The decoder's attention to the source."""
    up: tuple[str, ...]
    """Gate and up, or up alone where there is no gate."""
    down: str
    mlp_norm: str
    embedding_norm: str | None = None
    final_norm: str | None = None


@dataclass(frozen=True, kw_only=True)
class Learned:
    """A table of positions among the weights."""

    name: str
    rows: int
    offset: int = 0
    """Rows before that of position 0."""


@dataclass(frozen=True, kw_only=True)
class Computed:
    """A table of positions that a formula gives."""

    name: str | None = None
    """Of the same table among the weights, where a checkpoint has it."""
    rows: int
    table: Callable[[NDArray[np.int64], int], FloatArray]
    """From places and width to the table's rows."""


@dataclass(frozen=True, kw_only=True)
class Relative:
    """A bias of scores by the distance of query and key, found by T5's buckets."""

    name: str
    """Of the table [buckets, H], without the layer's own beginning."""
    by_layer: bool = False
    """Whether each layer has a table of its own, or the first layer's is that of all."""
    buckets: int
    farthest: int
    """Distance from which all share a bucket."""
    both_ways: bool
    """Whether keys after the query have buckets of their own."""

    def __post_init__(self) -> None:
        """Raise `Unfit` where the logarithm that the buckets come from has no meaning."""
        exact = self.buckets // (4 if self.both_ways else 2)
        if exact < 1 or self.farthest <= exact:
            raise Unfit(f"{self.buckets} buckets of relative positions don't fit a distance of {self.farthest}")


@dataclass(frozen=True, kw_only=True)
class Stack:
    """An encoder or a decoder."""

    names: Names
    vocabulary: int
    layers: int
    heads: int
    head_size: int
    scale: float
    """Factor of query times key."""
    inner: int
    """Size inside the MLP."""
    positions: Learned | Computed | Relative

    @property
    def projected(self) -> int:
        """H * D."""
        return self.heads * self.head_size


@dataclass(frozen=True, kw_only=True)
class EncoderDecoder:
    """A whole encoder-decoder."""

    encoder: Stack
    decoder: Stack
    width: int
    """W, size of the hidden states of both."""
    norm: Norm
    norm_first: bool
    """Whether a block normalizes what enters it, or the sum of that and what it gives."""
    activation: str
    head: tuple[str, ...]
    """Names of the matrix that makes the logits, of which the first that the checkpoint has is taken."""
    biased: bool = True
    """Whether something is added to every product of a layer."""
    gated: bool = False
    """Whether the MLP multiplies the activated gate with up, or activates up alone."""
    embedding_scale: float = 1.0
    logit_scale: float = 1.0
    logit_bias: str | None = None
    """Name of a row [1, V] that is added to the logits, where the checkpoint has it."""
    longest: int | None = None
    """Most tokens that source and answer may each have; None where positions are relative, and any number goes."""

    def __post_init__(self) -> None:
        """Raise `Unfit` where our blocks can't do this."""
        if self.activation not in ACTIVATIONS:
            raise Unfit(f"activation {self.activation!r} has no fused form")
