"""Rotary position embeddings: their frequencies as transformers computes them, and the tables a graph needs.

R is how many elements of each head are turned. Where ONNX Runtime's attention kernel can turn them itself it gets
the tables; where it can't, a node before it does, and every rotary layer of the model takes that way, since the
kernel counts positions a little differently (see `blocks.positions`).
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import onnx_ir as ir

from deploykit.convert.blocks import Positions, Tables
from deploykit.convert.builder import BLOCK_BYTES, DecoderGraph, Graph, Pieces
from deploykit.convert.weights import FloatArray

Frequencies = Callable[[int | None], tuple[FloatArray, float]]
"""From a sequence's length, or None for a short one, to inverse frequencies [R / 2] in radians a token, and what the
tables are multiplied by."""

SCALED: Final = frozenset({"linear", "dynamic", "llama3", "yarn", "longrope"})
"""Rotary types besides `default` that a fused graph can have."""
PARAMETERS: Final = {
    *("rope_type", "type", "rope_theta", "partial_rotary_factor", "factor", "original_max_position_embeddings"),
    *("attention_factor", "beta_fast", "beta_slow", "mscale", "mscale_all_dim", "truncate"),
    *("short_factor", "long_factor", "low_freq_factor", "high_freq_factor"),
}
"""What `rope_parameters` may hold; transformers' functions read all of these."""
IN_KERNEL: Final = 16
"""Head size and R must be multiples of this for ONNX Runtime 1.32's GroupQueryAttention to turn heads itself."""


@dataclass(frozen=True, kw_only=True)
class Rotary:
    """How queries and keys are turned by their positions."""

    name: str
    kind: str
    parameters: Mapping[str, Any]
    frequencies: Frequencies
    size: int
    """R."""
    fixed_until: int | None
    """Longest sequence for which the frequencies are those of a short one; None where they never change."""
    interleaved: bool = False
    """Whether neighbours are turned together, in place of the halves' elements."""
    backwards: bool = False

    def fixed(self, context: int) -> bool:
        """Return whether one table serves every sequence of at most `context` tokens."""
        return self.fixed_until is None or context <= self.fixed_until

    def in_kernel(self, head_size: int, context: int) -> bool:
        """Return whether the attention kernel can turn heads of `head_size` for sequences up to `context`."""
        return head_size % IN_KERNEL == 0 and self.size % IN_KERNEL == 0 and self.fixed(context)


def scaled(config: Any, kind: str, layer_type: str | None) -> Frequencies:
    """Return the frequencies of a rotary type by transformers' own function.

    Args:
        config: the model's transformers configuration.
        kind: one of `SCALED`.
        layer_type: whose parameters to take, where layers have their own.
    """

    def frequencies(length: int | None) -> tuple[FloatArray, float]:
        import torch
        from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

        own = {} if layer_type is None else {"layer_type": layer_type}
        found, factor = ROPE_INIT_FUNCTIONS[kind](config, torch.device("cpu"), seq_len=length, **own)
        return np.asarray(found, np.float32), float(factor)

    return frequencies


def plain(theta: float, size: int) -> Frequencies:
    """Return the frequencies of the `default` type: theta ** (-2 i / R)."""

    def frequencies(_: int | None) -> tuple[FloatArray, float]:
        import torch

        # torch's own power, so that the table equals PyTorch's to the bit.
        exponents = torch.arange(0, size, 2, dtype=torch.float) / size
        return np.asarray(1.0 / theta**exponents, np.float32), 1.0

    return frequencies


def tables(graph: DecoderGraph, rotary: Rotary, places: Positions, *, in_kernel: bool) -> Tables:
    """Return cosines and sines, and where in them each new token's row is."""
    with graph.scope(rotary.name):
        if rotary.fixed(graph.spec.max_context):
            return _tables(graph, rotary, [(graph.spec.max_context, None)], places.ids, in_kernel=in_kernel)
        if rotary.kind == "longrope":
            return _short_and_long(graph, rotary, places)
        return _by_length(graph, rotary, places)


def _tables(
    graph: Graph, rotary: Rotary, parts: list[tuple[int, int | None]], ids: ir.Value, *, in_kernel: bool
) -> Tables:
    """Return tables of (rows, length of the sequence) for each of `parts`, one under the other."""
    known = [(rows, *rotary.frequencies(length)) for rows, length in parts]

    def pieces(function: Callable[[FloatArray], FloatArray], sign: float) -> Pieces:
        def blocks() -> Iterator[FloatArray]:
            for rows, frequencies, factor in known:
                step = max(1, BLOCK_BYTES // frequencies.nbytes)
                for start in range(0, rows, step):
                    places = np.arange(start, min(start + step, rows), dtype=np.float32)
                    angles = function(np.outer(places, frequencies))
                    yield (angles * np.float32(factor * sign)).astype(np.float32)

        return blocks

    shape = (sum(rows for rows, _ in parts), rotary.size // 2)
    return Tables(
        cos=graph.generated(f"{rotary.name}.cos", shape, pieces(np.cos, 1.0)),
        sin=graph.generated(f"{rotary.name}.sin", shape, pieces(np.sin, -1.0 if rotary.backwards else 1.0)),
        ids=ids,
        size=rotary.size,
        interleaved=rotary.interleaved,
        in_kernel=in_kernel,
    )


def _lengths(graph: Graph, places: Positions) -> ir.Value:
    """Return how many real tokens each row has, int64 [B, 1]: by its own length, so that neighbours don't matter."""
    return graph.op("Add", graph.op("ReduceMax", places.ids, graph.constant([1]), keepdims=1), graph.constant(1))


def _short_and_long(graph: DecoderGraph, rotary: Rotary, places: Positions) -> Tables:
    """Return the table of long sequences above that of short ones; a short row's tokens look further down."""
    limit, context = int(rotary.fixed_until or 0), graph.spec.max_context
    short = graph.op("LessOrEqual", _lengths(graph, places), graph.constant(limit))
    offset = graph.op("Where", short, graph.constant(context), graph.constant(0))
    parts = [(context, context), (limit, None)]
    return _tables(graph, rotary, parts, graph.op("Add", places.ids, offset), in_kernel=False)


def _by_length(graph: Graph, rotary: Rotary, places: Positions) -> Tables:
    """Return the rows of a dynamic (NTK) table for this call's tokens: the base grows with the row's length.

    base = theta * (factor * length / limit - (factor - 1)) ** (R / (R - 2)), as in modeling_rope_utils.
    """
    size, limit, factor = rotary.size, float(rotary.fixed_until or 0), float(rotary.parameters["factor"])
    length = graph.op("Cast", _lengths(graph, places), to=ir.DataType.FLOAT)
    length = graph.op("Max", length, graph.constant(limit))
    stretch = graph.op("Div", graph.op("Mul", length, graph.constant(factor)), graph.constant(limit))
    stretch = graph.op("Sub", stretch, graph.constant(factor - 1.0))
    base = graph.op("Pow", stretch, graph.constant(size / (size - 2)))
    base = graph.op("Mul", base, graph.constant(float(rotary.parameters["rope_theta"])))
    exponents = graph.op(
        "Div", graph.op("Cast", _steps(graph, size), to=ir.DataType.FLOAT), graph.constant(float(-size))
    )
    frequencies = graph.op("Unsqueeze", graph.op("Pow", base, exponents), graph.constant([1]))
    ids = graph.op("Cast", graph.op("Unsqueeze", places.ids, graph.constant([2])), to=ir.DataType.FLOAT)
    angles = graph.op("Reshape", graph.op("Mul", ids, frequencies), graph.constant([-1, size // 2]))
    rows = graph.op("Range", graph.constant(0), graph.op("Size", places.ids), graph.constant(1))
    sines = graph.op("Sin", angles)
    return Tables(
        cos=graph.op("Cos", angles),
        sin=graph.op("Neg", sines) if rotary.backwards else sines,
        ids=graph.op("Reshape", rows, graph.op("Shape", places.ids)),
        size=size,
        interleaved=rotary.interleaved,
        in_kernel=False,
    )


def _steps(graph: Graph, size: int) -> ir.Value:
    """Return 0, 2, 4, ... below `size`."""
    return graph.op("Range", graph.constant(0), graph.constant(size), graph.constant(2))
