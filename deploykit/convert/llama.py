"""Llama, and the families whose block is Llama's but for a detail that their function names."""

from dataclasses import replace

from deploykit.convert.description import XIELU, Decoder, HeadNorm, Names, Norm, Unfit
from deploykit.convert.fields import (
    Fields,
    decoder,
    head_size,
    layers,
    rotary_of,
    same_window,
    windows_by_type,
)
from deploykit.convert.rotary import Rotary


def llama(config: Fields) -> Decoder:
    """Return a decoder with RMSNorm before attention and MLP, rotary positions and a gated MLP."""
    return decoder(config, qkv_bias=config.attention_bias, output_bias=config.attention_bias, mlp_bias=config.mlp_bias)


def mistral(config: Fields) -> Decoder:
    """Return a decoder whose layers all see one sliding window."""
    return decoder(config, layers=layers(config, windows=same_window(config)))


def ministral(config: Fields) -> Decoder:
    """Return a decoder some of whose layers see a sliding window."""
    return decoder(config, layers=layers(config, windows=windows_by_type(config)))


cwm = ministral


def qwen2(config: Fields) -> Decoder:
    """Return a decoder with biases on queries, keys and values, and never one on the output."""
    return decoder(config, qkv_bias=True, layers=layers(config, windows=windows_by_type(config)))


def qwen3(config: Fields) -> Decoder:
    """Return a decoder that normalizes each head of queries and keys."""
    biased = config.attention_bias
    norm = HeadNorm(norm=Norm(epsilon=config.rms_norm_eps))
    windows = windows_by_type(config)
    return decoder(config, qkv_bias=biased, output_bias=biased, head_norm=norm, layers=layers(config, windows=windows))


def arcee(config: Fields) -> Decoder:
    """Return a Llama without a gate."""
    return replace(llama(config), gated=False, names=Names(up=("mlp.up_proj",)))


def apertus(config: Fields) -> Decoder:
    """Return a decoder without a gate, with normalized heads and an activation that has weights."""
    biased = config.attention_bias
    names = Names(before_attention="attention_layernorm", before_mlp="feedforward_layernorm", up=("mlp.up_proj",))
    return decoder(
        config,
        names=names,
        gated=False,
        qkv_bias=biased,
        output_bias=biased,
        head_norm=HeadNorm(norm=Norm(epsilon=config.rms_norm_eps)),
        activation=config.hidden_act or XIELU,
    )


def ernie4_5(config: Fields) -> Decoder:
    """Return a Llama that turns neighbouring elements together."""
    biased, rotary = bool(config.use_bias), rotary_of(config, interleaved=True)
    turning = [rotary] * config.num_hidden_layers
    return decoder(config, qkv_bias=biased, output_bias=biased, mlp_bias=biased, layers=layers(config, turning=turning))


def exaone4(config: Fields) -> Decoder:
    """Return a decoder with norms after its blocks, normalized heads, and rotary only where there is a window."""
    windows, rotary = windows_by_type(config), rotary_of(config)
    turning = [rotary if window or not config.sliding_window else None for window in windows]
    names = Names(
        before_attention=None,
        after_attention="post_attention_layernorm",
        before_mlp=None,
        after_mlp="post_feedforward_layernorm",
    )
    return decoder(
        config,
        names=names,
        head_norm=HeadNorm(norm=Norm(epsilon=config.rms_norm_eps)),
        layers=layers(config, turning=turning, windows=windows),
    )


def granite(config: Fields) -> Decoder:
    """Return a Llama with factors on embedding, attention, residual and logits."""
    return replace(
        llama(config),
        embedding_scale=float(config.embedding_multiplier),
        residual_scale=float(config.residual_multiplier),
        logit_scale=1.0 / config.logits_scaling,
        layers=layers(config, scale=config.attention_multiplier),
    )


def helium(config: Fields) -> Decoder:
    """Return a Llama that turns neighbouring elements together, without a bias on the output."""
    rotary = rotary_of(config, interleaved=True)
    turning = [rotary] * config.num_hidden_layers
    return decoder(
        config,
        qkv_bias=config.attention_bias,
        mlp_bias=config.mlp_bias,
        layers=layers(config, turning=turning),
    )


def hunyuan(config: Fields) -> Decoder:
    """Return a Llama that normalizes each head after turning it."""
    rotary = _stretched(config) if config.rope_parameters.get("alpha") else rotary_of(config)
    norm = HeadNorm(norm=Norm(epsilon=config.rms_norm_eps), after_rotary=True)
    biased = config.attention_bias
    return decoder(
        config,
        names=Names(query_norm="self_attn.query_layernorm", key_norm="self_attn.key_layernorm"),
        qkv_bias=biased,
        output_bias=biased,
        head_norm=norm,
        layers=layers(config, turning=[rotary] * config.num_hidden_layers),
    )


def _stretched(config: Fields) -> Rotary:
    """Return the `dynamic` type with an alpha, whose base is stretched once and for all."""
    given = config.rope_parameters
    if given["rope_type"] != "dynamic":
        raise Unfit(f"its rotary embedding has alpha = {given['alpha']!r}")
    size = head_size(config)
    theta = given["rope_theta"] * given["alpha"] ** (size / (size - 2))
    return rotary_of(config, parameters={"rope_type": "default", "rope_theta": theta})


def nanochat(config: Fields) -> Decoder:
    """Return a decoder whose norms have no weights, that turns backwards, with bounded logits."""
    norm, biased = Norm(epsilon=config.rms_norm_eps, weight=False), config.attention_bias
    rotary = rotary_of(config, backwards=True)
    return decoder(
        config,
        names=Names(up=("mlp.fc1",), down="mlp.fc2"),
        gated=False,
        norm=norm,
        embedding_norm=True,
        head_norm=HeadNorm(norm=norm, after_rotary=True),
        qkv_bias=biased,
        output_bias=biased,
        logit_softcap=config.final_logit_softcapping or 0.0,
        layers=layers(config, turning=[rotary] * config.num_hidden_layers),
    )


def seed_oss(config: Fields) -> Decoder:
    """Return a Llama whose output has a bias of its own choice."""
    return decoder(
        config, qkv_bias=config.attention_bias, output_bias=config.attention_out_bias, mlp_bias=config.mlp_bias
    )


def smollm3(config: Fields) -> Decoder:
    """Return a Llama some of whose layers know no positions."""
    rotary = rotary_of(config)
    turning = [rotary if turned else None for turned in config.no_rope_layers]
    return replace(llama(config), layers=layers(config, turning=turning, windows=windows_by_type(config)))
