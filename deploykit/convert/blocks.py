"""The pieces that fused decoder graphs are made of; a family's file puts them together.

Every piece takes the graph being written and values in it, and returns new values. Axis letters as in
`deploykit.spec`; E is the hidden size.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final

import numpy as np
import onnx_ir as ir

from deploykit.convert.builder import BLOCK_BYTES, CONTRIB, Graph, Pieces
from deploykit.convert.weights import FloatArray
from deploykit.spec import ATTENTION_MASK, INPUT_IDS, LOGITS, LOGITS_TO_KEEP

MASKED: Final = -1e9
"""Attention bias of a masked position: finite, since a row of -inf alone would be NaN after softmax."""


@dataclass(frozen=True, kw_only=True)
class Positions:
    """Where the rows' new tokens stand, computed once from the mask."""

    lengths: ir.Value
    """int32 [B]: index of the mask's last 1, GroupQueryAttention's `seqlens_k`."""
    total: ir.Value
    """int32 scalar: T."""
    bias: ir.Value
    """[B, 1, S, T]: 0, or `MASKED` where the mask is 0."""
    ids: ir.Value
    """int64 [B, S]: positions of the new tokens."""
    last: ir.Value
    """int64 [B]: which of the S new rows is the last real token."""


def positions(graph: Graph, *, count_leading: bool) -> Positions:
    """Return the positions of `input_ids` [B, S] under `attention_mask` [B, T], padded on either side.

    Args:
        graph: the graph to write them in.
        count_leading: whether padding before a row's first token moves its positions, as it may where only their
            differences matter; padding after it never does.
    """
    mask, one = graph.inputs[ATTENTION_MASK], graph.constant(1)
    total_axis = graph.op("Shape", mask, start=1, end=2)
    new_axis = graph.op("Shape", graph.inputs[INPUT_IDS], start=1, end=2)
    total, new = graph.op("Squeeze", total_axis), graph.op("Squeeze", new_axis)
    # The count of ones would be wrong under left padding: the last one's place is what the cache needs.
    places = graph.op("Range", one, graph.op("Add", total, one), one)
    end = graph.op("ReduceMax", graph.op("Mul", mask, places), graph.constant([1]), keepdims=0)
    past = graph.op("Max", graph.op("Sub", end, new), graph.constant(0))
    last = graph.op("Sub", end, one)
    seen = graph.op("CumSum", mask, one)
    counted = graph.op("Max", graph.op("Sub", seen, one), graph.constant(0))
    if count_leading:
        counted = graph.op("Add", counted, _leading(graph, mask, total, places))
    steps = graph.op("Range", graph.constant(0), new, one)
    columns = graph.op("Add", graph.op("Unsqueeze", past, graph.constant([1])), steps)
    columns = graph.op("Min", columns, graph.op("Sub", total, one))
    open_places = graph.op("Cast", mask, to=ir.DataType.BOOL)
    bias = graph.op("Where", open_places, graph.constant(0.0), graph.constant(MASKED))
    bias = graph.op("Unsqueeze", bias, graph.constant([1, 2]))
    shape = graph.op("Concat", graph.constant([1, 1]), new_axis, graph.constant([1]), axis=0)
    return Positions(
        lengths=graph.op("Cast", last, to=ir.DataType.INT32),
        total=graph.op("Cast", total, to=ir.DataType.INT32),
        bias=graph.op("Expand", bias, shape),
        ids=graph.op("GatherElements", counted, columns, axis=1),
        last=graph.op("Sub", last, past),
    )


def _leading(graph: Graph, mask: ir.Value, total: ir.Value, places: ir.Value) -> ir.Value:
    """Return how much padding comes before each row's first token, int64 [B, 1]."""
    from_end = graph.op("Sub", graph.op("Add", total, graph.constant(1)), places)
    longest = graph.op("ReduceMax", graph.op("Mul", mask, from_end), graph.constant([1]), keepdims=1)
    return graph.op("Sub", total, longest)


def linear(graph: Graph, x: ir.Value, weight: ir.Value, bias: ir.Value | None = None) -> ir.Value:
    """Return x @ weight + bias; weight is [inputs, outputs]."""
    product = graph.op("MatMul", x, weight)
    return product if bias is None else graph.op("Add", product, bias)


def norm(
    graph: Graph, stream: ir.Value, update: ir.Value | None, *, scale: ir.Value, bias: ir.Value | None, epsilon: float
) -> tuple[ir.Value, ir.Value]:
    """Return the residual stream [B, S, E] with `update` added, and its normalization.

    LayerNorm where there is a bias, RMSNorm where there is none; addition and normalization are one kernel.
    """
    simplified = "" if bias is not None else "Simplified"
    tail = (scale,) if bias is None else (scale, bias)
    if update is None:
        return stream, graph.op(f"{simplified}LayerNormalization", stream, *tail, epsilon=epsilon, axis=-1)
    kind = f"Skip{simplified}LayerNormalization"
    outputs = graph.ops(kind, stream, update, *tail, outputs=4, domain=CONTRIB, epsilon=epsilon)
    for unused in outputs[1:3]:
        unused.name = ""
    return outputs[3], outputs[0]


@dataclass(frozen=True, kw_only=True)
class Rotary:
    """Tables of rotary position embeddings, each [max_context, D / 2]."""

    cos: ir.Value
    sin: ir.Value


def rotary(graph: Graph, inverse_frequencies: FloatArray, *, scaling: float) -> Rotary:
    """Return the tables for D / 2 inverse frequencies (radians a token), multiplied by `scaling`."""
    context = graph.spec.max_context
    step = max(1, BLOCK_BYTES // inverse_frequencies.nbytes)

    def rows(function: Callable[[FloatArray], FloatArray]) -> Pieces:
        def blocks() -> Iterator[FloatArray]:
            for start in range(0, context, step):
                places = np.arange(start, min(start + step, context), dtype=np.float32)
                yield (function(np.outer(places, inverse_frequencies)) * np.float32(scaling)).astype(np.float32)

        return blocks

    shape = (context, len(inverse_frequencies))
    return Rotary(
        cos=graph.generated("rotary.cos", shape, rows(np.cos)),
        sin=graph.generated("rotary.sin", shape, rows(np.sin)),
    )


def attention(
    graph: Graph, packed: ir.Value, layer: int, places: Positions, *, heads: int, scale: float, tables: Rotary | None
) -> ir.Value:
    """Return attention [B, S, H * D] of packed queries, keys and values [B, S, (H + 2 KV) * D], the cache updated."""
    past = [graph.inputs[f"past_key_values.{layer}.{part}"] for part in ("key", "value")]
    turning = (tables.cos, tables.sin, places.ids) if tables else (None, None, None)
    output, key, value = graph.ops(
        "GroupQueryAttention",
        packed,
        None,
        None,
        *past,
        places.lengths,
        places.total,
        *turning,
        places.bias,
        outputs=3,
        domain=CONTRIB,
        num_heads=heads,
        kv_num_heads=graph.spec.layers[layer].heads,
        scale=scale,
        do_rotary=int(tables is not None),
    )
    graph.outputs[f"present.{layer}.key"] = key
    graph.outputs[f"present.{layer}.value"] = value
    return output


ACTIVATIONS: Final[dict[str, Callable[[Graph, ir.Value], ir.Value]]] = {
    "gelu": lambda graph, x: graph.op("Gelu", x),
    "gelu_new": lambda graph, x: graph.op("FastGelu", x, domain=CONTRIB),
    "gelu_fast": lambda graph, x: graph.op("FastGelu", x, domain=CONTRIB),
    "gelu_pytorch_tanh": lambda graph, x: graph.op("FastGelu", x, domain=CONTRIB),
    "quick_gelu": lambda graph, x: graph.op("QuickGelu", x, domain=CONTRIB, alpha=1.702),
    "relu": lambda graph, x: graph.op("Relu", x),
    "sigmoid": lambda graph, x: graph.op("Sigmoid", x),
    "silu": lambda graph, x: graph.op("Mul", x, graph.op("Sigmoid", x)),
    "swish": lambda graph, x: graph.op("Mul", x, graph.op("Sigmoid", x)),
    "tanh": lambda graph, x: graph.op("Tanh", x),
}
"""Activations by transformers' names. FastGelu is GELU's tanh form, which the three names beside it spell out."""


def head(graph: Graph, hidden: ir.Value, places: Positions, weight: ir.Value) -> None:
    """Write the logits [B, N, V] of the last `num_logits_to_keep` real tokens of each row, of all where that is 0."""
    wanted, zero, one = graph.inputs[LOGITS_TO_KEEP], graph.constant(0), graph.constant(1)
    new = graph.op("Squeeze", graph.op("Shape", graph.inputs[INPUT_IDS], start=1, end=2))
    every = graph.op("Equal", wanted, zero)
    rows = graph.op("Min", graph.op("Where", every, new, wanted), new)
    first = graph.op("Add", graph.op("Sub", places.last, rows), one)
    # A row with fewer real tokens than are asked for gives its first N rows: N is one number for the whole batch.
    first = graph.op("Max", graph.op("Where", every, zero, first), zero)
    picked = graph.op("Add", graph.op("Unsqueeze", first, graph.constant([1])), graph.op("Range", zero, rows, one))
    picked = graph.op("Unsqueeze", picked, graph.constant([2]))
    graph.outputs[LOGITS] = graph.op("MatMul", graph.op("GatherND", hidden, picked, batch_dims=1), weight)
