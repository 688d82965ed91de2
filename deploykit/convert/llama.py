"""Llama and Qwen2 as fused graphs: RMSNorm, rotary positions, gated MLP."""

from typing import Any

import numpy as np
import onnx_ir as ir

import deploykit.convert.blocks as blocks
from deploykit.convert.blocks import Positions, Rotary
from deploykit.convert.builder import Graph
from deploykit.convert.weights import FloatArray, Weights
from deploykit.spec import INPUT_IDS, LayerCache

STATIC_ROTARY = ("default", "linear", "llama3", "yarn")
"""Rotary types whose frequencies don't depend on the sequence's length."""


def why_not(config: Any) -> str | None:
    """Return what keeps this configuration from a fused graph, or None."""
    kind = config.rope_parameters.get("rope_type", "default")
    heads, shared, size = config.num_attention_heads, config.num_key_value_heads, _head_size(config)
    reasons = {
        f"rotary type {kind!r} changes with the sequence's length": kind not in STATIC_ROTARY,
        "only a part of each head is rotated": config.rope_parameters.get("partial_rotary_factor", 1.0) != 1.0,
        f"activation {config.hidden_act!r} has no fused form": config.hidden_act not in blocks.ACTIVATIONS,
        "some layers see a sliding window only": "sliding_attention" in (getattr(config, "layer_types", None) or ()),
        f"{heads} heads are no multiple of {shared} key/value heads": heads % shared != 0,
        # Seen in ONNX Runtime 1.32: "head_size shall be a multiple of 16", with rotary inside the kernel.
        f"head size {size} is no multiple of 16": size % 16 != 0,
    }
    return next((reason for reason, holds in reasons.items() if holds), None)


def layers(config: Any) -> tuple[LayerCache, ...]:
    """Return what each layer keeps of a token."""
    size = _head_size(config)
    layer = LayerCache(heads=config.num_key_value_heads, key_dim=size, value_dim=size)
    return (layer,) * int(config.num_hidden_layers)


def build(graph: Graph, config: Any, weights: Weights) -> None:
    """Write the whole decoder into `graph`."""
    table = (config.vocab_size, config.hidden_size)
    # ONNX Runtime 1.32's kernel ignores the positions it is given where there is no past, and rotates by place; so the
    # later ones must count as it does.
    places = blocks.positions(graph, count_leading=True)
    with graph.scope("embedding"):
        tokens = graph.weight(weights.find("model.embed_tokens.weight", table))
        stream = graph.op("Gather", tokens, graph.inputs[INPUT_IDS])
    frequencies, scaling = _frequencies(config)
    tables = blocks.rotary(graph, frequencies, scaling=scaling)
    update = None
    for layer in range(config.num_hidden_layers):
        with graph.scope(f"layers.{layer}"):
            stream, update = _layer(graph, config, weights, layer, stream, update, places, tables)
    stream, hidden = _norm(graph, config, weights, "model.norm", stream, update)
    with graph.scope("head"):
        if config.tie_word_embeddings:
            matrix = graph.op("Transpose", tokens, perm=[1, 0])
        else:
            matrix = graph.weight(weights.find("lm_head.weight", table), transpose=True)
        blocks.head(graph, hidden, places, matrix)


def _layer(
    graph: Graph,
    config: Any,
    weights: Weights,
    layer: int,
    stream: ir.Value,
    update: ir.Value | None,
    places: Positions,
    tables: Rotary,
) -> tuple[ir.Value, ir.Value]:
    prefix = f"model.layers.{layer}"
    with graph.scope("attention"):
        stream, hidden = _norm(graph, config, weights, f"{prefix}.input_layernorm", stream, update)
        update = _attention(graph, config, weights, layer, hidden, places, tables)
    with graph.scope("mlp"):
        stream, hidden = _norm(graph, config, weights, f"{prefix}.post_attention_layernorm", stream, update)
        return stream, _mlp(graph, config, weights, f"{prefix}.mlp", hidden)


def _attention(
    graph: Graph, config: Any, weights: Weights, layer: int, x: ir.Value, places: Positions, tables: Rotary
) -> ir.Value:
    name, width, size = f"model.layers.{layer}.self_attn", config.hidden_size, _head_size(config)
    queries, keys = config.num_attention_heads * size, config.num_key_value_heads * size
    # Qwen2 always has biases on queries, keys and values, and never one on the output.
    qwen = config.model_type == "qwen2"
    biased = qwen or config.attention_bias
    parts = {f"{name}.q_proj": queries, f"{name}.k_proj": keys, f"{name}.v_proj": keys}
    packed = _linear(graph, weights, f"{name}.qkv_proj", x, width, parts, biased=biased)
    mixed = blocks.attention(
        graph, packed, layer, places, heads=config.num_attention_heads, scale=float(size**-0.5), tables=tables
    )
    out = f"{name}.o_proj"
    return _linear(graph, weights, out, mixed, queries, {out: width}, biased=biased and not qwen)


def _mlp(graph: Graph, config: Any, weights: Weights, name: str, x: ir.Value) -> ir.Value:
    width, inner, biased = config.hidden_size, config.intermediate_size, bool(getattr(config, "mlp_bias", False))
    gate, up, down = (f"{name}.{part}_proj" for part in ("gate", "up", "down"))
    opened = _linear(graph, weights, gate, x, width, {gate: inner}, biased=biased)
    opened = blocks.ACTIVATIONS[config.hidden_act](graph, opened)
    raised = _linear(graph, weights, up, x, width, {up: inner}, biased=biased)
    return _linear(graph, weights, down, graph.op("Mul", opened, raised), inner, {down: width}, biased=biased)


def _linear(
    graph: Graph, weights: Weights, name: str, x: ir.Value, inputs: int, parts: dict[str, int], *, biased: bool
) -> ir.Value:
    """Return x times the matrices named in `parts` (name → outputs), side by side as one product."""
    matrices = [weights.find(f"{part}.weight", (outputs, inputs)) for part, outputs in parts.items()]
    matrix = graph.weight(*matrices, name=f"{name}.weight", transpose=True)
    if not biased:
        return blocks.linear(graph, x, matrix)
    biases = [weights.find(f"{part}.bias", (outputs,)) for part, outputs in parts.items()]
    return blocks.linear(graph, x, matrix, graph.weight(*biases, name=f"{name}.bias"))


def _norm(
    graph: Graph, config: Any, weights: Weights, name: str, stream: ir.Value, update: ir.Value | None
) -> tuple[ir.Value, ir.Value]:
    scale = graph.weight(weights.find(f"{name}.weight", (config.hidden_size,)))
    return blocks.norm(graph, stream, update, scale=scale, bias=None, epsilon=config.rms_norm_eps)


def _head_size(config: Any) -> int:
    return int(getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads)


def _frequencies(config: Any) -> tuple[FloatArray, float]:
    """Return the rotary inverse frequencies [D / 2] in radians a token, and what the tables are multiplied by."""
    import torch
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

    kind = config.rope_parameters.get("rope_type", "default")
    if kind != "default":
        frequencies, scaling = ROPE_INIT_FUNCTIONS[kind](config, torch.device("cpu"))
        return np.asarray(frequencies, np.float32), float(scaling)
    # torch's own power, so that the table equals PyTorch's to the bit.
    exponents = torch.arange(0, _head_size(config), 2, dtype=torch.float) / _head_size(config)
    return np.asarray(1.0 / config.rope_parameters["rope_theta"] ** exponents, np.float32), 1.0
