"""GPT-2 as a fused graph."""

from typing import Any

import onnx_ir as ir

import deploykit.convert.blocks as blocks
from deploykit.convert.blocks import Positions
from deploykit.convert.builder import Graph
from deploykit.convert.weights import Weights
from deploykit.spec import INPUT_IDS, LayerCache


def why_not(config: Any) -> str | None:
    """Return what keeps this configuration from a fused graph, or None."""
    if config.n_embd % config.n_head:
        return f"hidden size {config.n_embd} is no multiple of {config.n_head} heads"
    if config.activation_function not in blocks.ACTIVATIONS:
        return f"activation {config.activation_function!r} has no fused form"
    if config.add_cross_attention:
        return "it has cross-attention"
    return None


def layers(config: Any) -> tuple[LayerCache, ...]:
    """Return what each layer keeps of a token."""
    size = config.n_embd // config.n_head
    layer = LayerCache(heads=config.n_head, key_dim=size, value_dim=size)
    return (layer,) * int(config.n_layer)


def build(graph: Graph, config: Any, weights: Weights) -> None:
    """Write the whole decoder into `graph`."""
    width = config.n_embd
    places = blocks.positions(graph, count_leading=False)
    with graph.scope("embedding"):
        tokens = graph.weight(weights.find("transformer.wte.weight", (config.vocab_size, width)))
        table = graph.weight(weights.find("transformer.wpe.weight", (config.n_positions, width)))
        stream = graph.op(
            "Add", graph.op("Gather", tokens, graph.inputs[INPUT_IDS]), graph.op("Gather", table, places.ids)
        )
    update = None
    for layer in range(config.n_layer):
        with graph.scope(f"layers.{layer}"):
            stream, update = _layer(graph, config, weights, layer, stream, update, places)
    stream, hidden = _norm(graph, config, weights, "transformer.ln_f", stream, update)
    with graph.scope("head"):
        if config.tie_word_embeddings:
            matrix = graph.op("Transpose", tokens, perm=[1, 0])
        else:
            matrix = graph.weight(weights.find("lm_head.weight", (config.vocab_size, width)), transpose=True)
        blocks.head(graph, hidden, places, matrix)


def _layer(
    graph: Graph,
    config: Any,
    weights: Weights,
    layer: int,
    stream: ir.Value,
    update: ir.Value | None,
    places: Positions,
) -> tuple[ir.Value, ir.Value]:
    prefix, width = f"transformer.h.{layer}", config.n_embd
    inner = config.n_inner or 4 * width
    with graph.scope("attention"):
        stream, hidden = _norm(graph, config, weights, f"{prefix}.ln_1", stream, update)
        packed = _linear(graph, weights, f"{prefix}.attn.c_attn", hidden, width, 3 * width)
        mixed = blocks.attention(
            graph, packed, layer, places, heads=config.n_head, scale=_scale(config, layer), tables=None
        )
        update = _linear(graph, weights, f"{prefix}.attn.c_proj", mixed, width, width)
    with graph.scope("mlp"):
        stream, hidden = _norm(graph, config, weights, f"{prefix}.ln_2", stream, update)
        hidden = _linear(graph, weights, f"{prefix}.mlp.c_fc", hidden, width, inner)
        hidden = blocks.ACTIVATIONS[config.activation_function](graph, hidden)
        return stream, _linear(graph, weights, f"{prefix}.mlp.c_proj", hidden, inner, width)


def _linear(graph: Graph, weights: Weights, name: str, x: ir.Value, inputs: int, outputs: int) -> ir.Value:
    # GPT-2's checkpoints hold these matrices as [inputs, outputs] already.
    matrix = graph.weight(weights.find(f"{name}.weight", (inputs, outputs)))
    return blocks.linear(graph, x, matrix, graph.weight(weights.find(f"{name}.bias", (outputs,))))


def _norm(
    graph: Graph, config: Any, weights: Weights, name: str, stream: ir.Value, update: ir.Value | None
) -> tuple[ir.Value, ir.Value]:
    scale = graph.weight(weights.find(f"{name}.weight", (config.n_embd,)))
    bias = graph.weight(weights.find(f"{name}.bias", (config.n_embd,)))
    return blocks.norm(graph, stream, update, scale=scale, bias=bias, epsilon=config.layer_norm_epsilon)


def _scale(config: Any, layer: int) -> float:
    """Return what scores are multiplied by; GroupQueryAttention takes 0 for its default, so 1 is written out."""
    scale = (config.n_embd // config.n_head) ** -0.5 if config.scale_attn_weights else 1.0
    return float(scale / (layer + 1) if config.scale_attn_by_inverse_layer_idx else scale)
