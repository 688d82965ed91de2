"""Fused graphs: which family writes which model, and why one can't."""

from types import ModuleType
from typing import Any, Final

import onnx_ir as ir

import deploykit.convert.gpt2 as gpt2
import deploykit.convert.llama as llama
from deploykit.convert.builder import Graph
from deploykit.convert.checkpoint import Checkpoint
from deploykit.spec import DecoderSpec, LayerCache

FAMILIES: Final[dict[str, ModuleType]] = {"gpt2": gpt2, "llama": llama, "qwen2": llama}
"""Model type → the module with its `why_not`, `layers` and `build`."""


def why_not_fused(config: Any) -> str | None:
    """Return what keeps a model from a fused graph, or None where nothing does.

    Args:
        config: the model's transformers configuration.
    """
    family = FAMILIES.get(config.model_type)
    if family is None:
        return f"model type {config.model_type!r} is not among {', '.join(FAMILIES)}"
    reason: str | None = family.why_not(config)
    if reason is None and (cache := fused_layers(config)) and cache[0].key_dim % 8:
        # Seen in ONNX Runtime 1.32's GroupQueryAttention: "head_size must be a multiple of 8".
        reason = f"head size {cache[0].key_dim} is no multiple of 8"
    return reason


def fused_layers(config: Any) -> tuple[LayerCache, ...]:
    """Return what each layer of the fused graph keeps of a token."""
    layers: tuple[LayerCache, ...] = FAMILIES[config.model_type].layers(config)
    return layers


def build_fused(checkpoint: Checkpoint, spec: DecoderSpec, *, opset: int) -> ir.Model:
    """Return the fused graph; its weights are read from the checkpoint when it is saved.

    Raises:
        CheckpointError: a tensor is missing or has another shape than config.json implies.
    """
    graph = Graph(spec, opset=opset)
    FAMILIES[checkpoint.config.model_type].build(graph, checkpoint.config, checkpoint.weights)
    return graph.model()
