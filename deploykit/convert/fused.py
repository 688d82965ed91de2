"""Fused graphs: which family describes which model, and why one can't be written."""

from collections.abc import Callable
from typing import Any, Final

import onnx_ir as ir

import deploykit.convert.cohere as cohere
import deploykit.convert.gemma as gemma
import deploykit.convert.glm as glm
import deploykit.convert.gpt2 as gpt2
import deploykit.convert.gpt_neox as gpt_neox
import deploykit.convert.llama as llama
import deploykit.convert.olmo as olmo
from deploykit.convert.builder import DecoderGraph
from deploykit.convert.checkpoint import Checkpoint
from deploykit.convert.decoder import Writer
from deploykit.convert.description import Decoder, Unfit
from deploykit.convert.fields import Fields
from deploykit.spec import DecoderSpec, LayerCache

FAMILIES: Final[dict[str, Callable[[Fields], Decoder]]] = {
    "apertus": llama.apertus,
    "arcee": llama.arcee,
    "cohere": cohere.cohere,
    "cohere2": cohere.cohere2,
    "cwm": llama.cwm,
    "ernie4_5": llama.ernie4_5,
    "exaone4": llama.exaone4,
    "gemma": gemma.gemma,
    "gemma2": gemma.gemma2,
    "gemma3_text": gemma.gemma3,
    "glm": glm.glm,
    "glm4": glm.glm4,
    "gpt2": gpt2.gpt2,
    "gpt_bigcode": gpt2.gpt_bigcode,
    "gpt_neox": gpt_neox.gpt_neox,
    "granite": llama.granite,
    "helium": llama.helium,
    "hunyuan_v1_dense": llama.hunyuan,
    "jais2": gpt_neox.jais2,
    "llama": llama.llama,
    "ministral": llama.ministral,
    "mistral": llama.mistral,
    "nanochat": llama.nanochat,
    "nemotron": gpt_neox.nemotron,
    "olmo": olmo.olmo,
    "olmo2": olmo.olmo2,
    "olmo3": olmo.olmo3,
    "persimmon": gpt_neox.persimmon,
    "phi": gpt_neox.phi,
    "phi3": glm.phi3,
    "qwen2": llama.qwen2,
    "qwen3": llama.qwen3,
    "seed_oss": llama.seed_oss,
    "smollm3": llama.smollm3,
    "stablelm": gpt_neox.stablelm,
    "starcoder2": gpt_neox.starcoder2,
    "vaultgemma": gemma.vaultgemma,
}
"""Model type → the function that describes its decoder."""


def why_not_fused(config: Any) -> str | None:
    """Return what keeps a model from a fused graph, or None where nothing does.

    Args:
        config: the model's transformers configuration.
    """
    try:
        describe(config)
    except Unfit as unfit:
        return str(unfit)
    return None


def describe(config: Any) -> Decoder:
    """Return what a model's decoder looks like.

    Raises:
        Unfit: there is no fused graph for it.
    """
    family = FAMILIES.get(config.model_type)
    if family is None:
        raise Unfit(f"model type {config.model_type!r} is not among {', '.join(FAMILIES)}")
    if not type(config).__module__.startswith("transformers."):
        raise Unfit("its code comes with the checkpoint, and may differ from what transformers has of that name")
    fields = Fields(config)
    try:
        decoder = family(fields)
    except (AttributeError, LookupError, TypeError, ZeroDivisionError) as error:
        raise Unfit(f"its configuration can't be understood ({type(error).__name__}: {error})") from error
    if (unknown := fields.unread()) is not None:
        raise Unfit(f"{unknown} is not known to the fused form of {config.model_type}")
    return decoder


def fused_layers(config: Any) -> tuple[LayerCache, ...]:
    """Return what each layer of the fused graph keeps of a token."""
    decoder = describe(config)
    layer = LayerCache(heads=decoder.shared_heads, key_dim=decoder.head_size, value_dim=decoder.head_size)
    return (layer,) * len(decoder.layers)


def fused_stretch(config: Any) -> float:
    """Return how many times `max_position_embeddings` the model may be asked for: more than 1 with dynamic rotary."""
    rotaries = [layer.rotary for layer in describe(config).layers if layer.rotary]
    stretched = [float(each.parameters["factor"]) if each.kind == "dynamic" else 1.0 for each in rotaries]
    return max(1.0, min(stretched, default=1.0))


def build_fused(checkpoint: Checkpoint, spec: DecoderSpec, *, opset: int) -> ir.Model:
    """Return the fused graph; its weights are read from the checkpoint when it is saved.

    Raises:
        CheckpointError: a tensor is missing or has another shape than config.json implies.
    """
    graph = DecoderGraph(spec, opset=opset)
    Writer(graph, describe(checkpoint.config), checkpoint.weights).write()
    return graph.model()
