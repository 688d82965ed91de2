"""The pieces that fused decoder graphs are made of; a family's file puts them together.

Every piece takes the graph being written and values in it, and returns new values. Axis letters as in
`deploykit.spec`; E is the hidden size.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, Literal

import onnx_ir as ir

from deploykit.convert.builder import CONTRIB, DecoderGraph, Graph
from deploykit.spec import ATTENTION_MASK, INPUT_IDS, LOGITS_TO_KEEP

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
    graph: Graph, x: ir.Value, scale: ir.Value, bias: ir.Value | None, *, kind: Literal["rms", "layer"], epsilon: float
) -> ir.Value:
    """Return x normalized over its last axis: LayerNorm, or RMSNorm, which subtracts no mean."""
    simplified = "Simplified" if kind == "rms" else ""
    tail = (scale,) if bias is None else (scale, bias)
    return graph.op(f"{simplified}LayerNormalization", x, *tail, epsilon=epsilon, axis=-1)


def skip_norm(
    graph: Graph,
    stream: ir.Value,
    update: ir.Value,
    scale: ir.Value,
    bias: ir.Value | None,
    *,
    kind: Literal["rms", "layer"],
    epsilon: float,
) -> tuple[ir.Value, ir.Value]:
    """Return the residual stream [B, S, E] with `update` added, and its normalization: one kernel for both."""
    simplified = "Simplified" if kind == "rms" else ""
    tail = (scale,) if bias is None else (scale, bias)
    outputs = graph.ops(
        f"Skip{simplified}LayerNormalization", stream, update, *tail, outputs=4, domain=CONTRIB, epsilon=epsilon
    )
    for unused in outputs[1:3]:
        unused.name = ""
    return outputs[3], outputs[0]


def split(graph: Graph, x: ir.Value, sizes: Sequence[int]) -> Sequence[ir.Value]:
    """Return x [B, S, sum(sizes)] in pieces along its last axis."""
    return graph.ops("Split", x, graph.constant(sizes), outputs=len(sizes), axis=-1)


def split_heads(graph: Graph, x: ir.Value, size: int) -> ir.Value:
    """Return x [B, S, H * D] as [B, S, H, D]."""
    return graph.op("Reshape", x, graph.constant([0, 0, -1, size]))


def join_heads(graph: Graph, x: ir.Value) -> ir.Value:
    """Return x [B, S, H, D] as [B, S, H * D]."""
    return graph.op("Reshape", x, graph.constant([0, 0, -1]))


@dataclass(frozen=True, kw_only=True)
class Tables:
    """Cosines and sines of rotary position embeddings, each [rows, R / 2]; R elements of each head are turned."""

    cos: ir.Value
    sin: ir.Value
    ids: ir.Value
    """int64 [B, S]: each new token's row."""
    size: int
    """R."""
    interleaved: bool
    in_kernel: bool
    """Whether the attention kernel turns heads itself."""


def turn(graph: Graph, x: ir.Value, tables: Tables, *, heads: int) -> ir.Value:
    """Return queries or keys x [B, S, H * D], turned by their positions."""
    return graph.op(
        "RotaryEmbedding",
        x,
        tables.ids,
        tables.cos,
        tables.sin,
        domain=CONTRIB,
        num_heads=heads,
        rotary_embedding_dim=tables.size,
        interleaved=int(tables.interleaved),
    )


def attention(
    graph: DecoderGraph,
    parts: Sequence[ir.Value],
    layer: int,
    places: Positions,
    tables: Tables | None,
    *,
    heads: int,
    scale: float,
    softcap: float = 0.0,
    window: int | None = None,
) -> ir.Value:
    """Return attention [B, S, H * D], the cache updated.

    Args:
        graph: the graph to write it in.
        parts: queries, keys and values, each [B, S, heads * D], or one that holds them side by side.
        layer: number of the layer whose cache this is.
        places: where the new tokens stand.
        tables: by which the kernel turns queries and keys, if any.
        heads: H.
        scale: factor of query times key.
        softcap: bound of the scores; 0 for none.
        window: how many tokens a query sees, itself included (as `sliding_window` of transformers counts).
    """
    past = [graph.inputs[f"past_key_values.{layer}.{part}"] for part in ("key", "value")]
    turning = (tables.cos, tables.sin, tables.ids) if tables else (None, None, None)
    optional = {"softcap": softcap} if softcap else {}
    optional |= {"rotary_interleaved": 1} if tables and tables.interleaved else {}
    optional |= {"local_window_size": window} if window else {}
    output, key, value = graph.ops(
        "GroupQueryAttention",
        *parts,
        *(None,) * (3 - len(parts)),
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
        **optional,
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
    "relu2": lambda graph, x: _squared(graph, graph.op("Relu", x)),
    "sigmoid": lambda graph, x: graph.op("Sigmoid", x),
    "silu": lambda graph, x: graph.op("Mul", x, graph.op("Sigmoid", x)),
    "swish": lambda graph, x: graph.op("Mul", x, graph.op("Sigmoid", x)),
    "tanh": lambda graph, x: graph.op("Tanh", x),
}
"""Activations by transformers' names. FastGelu is GELU's tanh form, which the three names beside it spell out."""


def _squared(graph: Graph, x: ir.Value) -> ir.Value:
    return graph.op("Mul", x, x)


def xielu(
    graph: Graph, x: ir.Value, positive: ir.Value, negative: ir.Value, beta: ir.Value, floor: ir.Value
) -> ir.Value:
    """Return xIELU (arXiv 2411.13010) of x, by its numbers alpha_p, alpha_n, beta and epsilon."""
    curved = graph.op("Mul", positive, _squared(graph, x))
    grown = graph.op("Sub", graph.op("Exp", graph.op("Min", x, floor)), graph.constant(1.0))
    fading = graph.op("Mul", graph.op("Sub", grown, x), negative)
    bent = graph.op("Where", graph.op("Greater", x, graph.constant(0.0)), curved, fading)
    return graph.op("Add", bent, graph.op("Mul", beta, x))


def soft_cap(graph: Graph, x: ir.Value, bound: float) -> ir.Value:
    """Return bound * tanh(x / bound)."""
    return graph.op("Mul", graph.op("Tanh", graph.op("Div", x, graph.constant(bound))), graph.constant(bound))


def wanted_rows(graph: Graph, hidden: ir.Value, places: Positions) -> ir.Value:
    """Return [B, N, E]: of each row the last `num_logits_to_keep` real tokens, all where that is 0."""
    wanted, zero, one = graph.inputs[LOGITS_TO_KEEP], graph.constant(0), graph.constant(1)
    new = graph.op("Squeeze", graph.op("Shape", graph.inputs[INPUT_IDS], start=1, end=2))
    every = graph.op("Equal", wanted, zero)
    rows = graph.op("Min", graph.op("Where", every, new, wanted), new)
    first = graph.op("Add", graph.op("Sub", places.last, rows), one)
    # A row with fewer real tokens than are asked for gives its first N rows: N is one number for the whole batch.
    first = graph.op("Max", graph.op("Where", every, zero, first), zero)
    picked = graph.op("Add", graph.op("Unsqueeze", first, graph.constant([1])), graph.op("Range", zero, rows, one))
    picked = graph.op("Unsqueeze", picked, graph.constant([2]))
    return graph.op("GatherND", hidden, picked, batch_dims=1)
