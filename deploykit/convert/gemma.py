"""Gemma: a scaled embedding, norms that store their weights less 1; later norms around each block, and bounds."""

from typing import Any

from deploykit.convert.description import Decoder, HeadNorm, Names, Norm
from deploykit.convert.fields import Fields, decoder, layers, rotary_of, windows_by_type

AROUND = Names(
    after_attention="post_attention_layernorm",
    before_mlp="pre_feedforward_layernorm",
    after_mlp="post_feedforward_layernorm",
)


def gemma(config: Fields, **changes: Any) -> Decoder:
    """Return the first Gemma, but for `changes`."""
    fields = {
        "norm": _norm(config),
        "embedding_scale": float(config.hidden_size**0.5),
        "qkv_bias": config.attention_bias,
        "output_bias": config.attention_bias,
    }
    return decoder(config, **{**fields, **changes})


def gemma2(config: Fields) -> Decoder:
    """Return a Gemma with norms around its blocks, bounded scores and logits, a window in every other layer."""
    scale = config.query_pre_attn_scalar**-0.5
    return gemma(
        config,
        names=AROUND,
        activation=config.hidden_activation,
        softcap=config.attn_logit_softcapping or 0.0,
        logit_softcap=config.final_logit_softcapping or 0.0,
        layers=layers(config, scale=scale, windows=windows_by_type(config)),
    )


def gemma3(config: Fields) -> Decoder:
    """Return a Gemma with norms around its blocks, normalized heads, and a rotary embedding for each type of layer.

    It has a field `attn_logit_softcapping` that its code in transformers never reads; set, it is refused as unknown.
    """
    turning = [rotary_of(config, kind) for kind in config.layer_types]
    scale = config.query_pre_attn_scalar**-0.5
    return gemma(
        config,
        names=AROUND,
        activation=config.hidden_activation,
        head_norm=HeadNorm(norm=_norm(config)),
        logit_softcap=config.final_logit_softcapping or 0.0,
        layers=layers(config, scale=scale, turning=turning, windows=windows_by_type(config)),
    )


def vaultgemma(config: Fields) -> Decoder:
    """Return a Gemma 2 without norms after its blocks."""
    scale = config.query_pre_attn_scalar**-0.5
    return gemma(
        config,
        names=Names(before_mlp="pre_feedforward_layernorm"),
        activation=config.hidden_activation,
        softcap=config.attn_logit_softcapping or 0.0,
        logit_softcap=config.final_logit_softcapping or 0.0,
        layers=layers(config, scale=scale, windows=windows_by_type(config)),
    )


def _norm(config: Fields) -> Norm:
    return Norm(epsilon=config.rms_norm_eps, offset=1.0)
