"""GPT-NeoX and other families with layer norms and a part of each head turned."""

from dataclasses import replace

from deploykit.convert.description import Decoder, HeadNorm, Names, Norm
from deploykit.convert.fields import Fields, decoder, layers, rotary_of, same_window


def gpt_neox(config: Fields) -> Decoder:
    """Return a decoder with attention and MLP side by side, each with a norm, and qkv stored head by head."""
    names = Names(
        embedding="gpt_neox.embed_in",
        layer="gpt_neox.layers",
        qkv=("attention.query_key_value",),
        output="attention.dense",
        up=("mlp.dense_h_to_4h",),
        down="mlp.dense_4h_to_h",
        final="gpt_neox.final_layer_norm",
        head="embed_out",
    )
    biased = config.attention_bias
    return _partial(
        config,
        names=names,
        norm=_norm(config.layer_norm_eps),
        gated=False,
        parallel=config.use_parallel_residual,
        qkv_bias=biased,
        output_bias=biased,
        mlp_bias=True,
        qkv_by_head=True,
    )


def jais2(config: Fields) -> Decoder:
    """Return a Llama with layer norms and without a gate."""
    biased = config.attention_bias
    return decoder(
        config,
        names=Names(up=("mlp.up_proj",)),
        norm=_norm(config.layer_norm_eps),
        gated=False,
        qkv_bias=biased,
        output_bias=biased,
        mlp_bias=config.mlp_bias,
    )


def nemotron(config: Fields) -> Decoder:
    """Return a decoder without a gate whose layer norms store their weights less 1."""
    biased = config.attention_bias
    return _partial(
        config,
        names=Names(up=("mlp.up_proj",)),
        norm=replace(_norm(config.norm_eps), offset=1.0),
        gated=False,
        qkv_bias=biased,
        output_bias=biased,
        mlp_bias=config.mlp_bias,
    )


def persimmon(config: Fields) -> Decoder:
    """Return a decoder without a gate, with normalized heads, and qkv stored head by head."""
    norm = _norm(config.layer_norm_eps)
    names = Names(
        qkv=("self_attn.query_key_value",),
        query_norm="self_attn.q_layernorm",
        key_norm="self_attn.k_layernorm",
        output="self_attn.dense",
        up=("mlp.dense_h_to_4h",),
        down="mlp.dense_4h_to_h",
        final="model.final_layernorm",
    )
    return _partial(
        config,
        names=names,
        norm=norm,
        gated=False,
        head_norm=HeadNorm(norm=norm) if config.qk_layernorm else None,
        qkv_bias=True,
        output_bias=True,
        mlp_bias=True,
        qkv_by_head=True,
    )


def phi(config: Fields) -> Decoder:
    """Return a decoder with attention and MLP side by side behind one norm, biases everywhere."""
    norm = _norm(config.layer_norm_eps)
    names = Names(
        query_norm="self_attn.q_layernorm",
        key_norm="self_attn.k_layernorm",
        output="self_attn.dense",
        before_mlp=None,
        up=("mlp.fc1",),
        down="mlp.fc2",
        final="model.final_layernorm",
    )
    return _partial(
        config,
        names=names,
        norm=norm,
        gated=False,
        parallel=True,
        head_norm=HeadNorm(norm=norm) if config.qk_layernorm else None,
        qkv_bias=True,
        output_bias=True,
        mlp_bias=True,
        logit_bias=True,
    )


def stablelm(config: Fields) -> Decoder:
    """Return a decoder that may have attention and MLP side by side, and a norm for each head."""
    side_by_side, epsilon = config.use_parallel_residual, config.layer_norm_eps
    heads = HeadNorm(norm=Norm(kind="layer", epsilon=epsilon), over="each head", listed=True)
    names = Names(
        query_norm="self_attn.q_layernorm",
        key_norm="self_attn.k_layernorm",
        before_mlp=None if side_by_side else "post_attention_layernorm",
    )
    return _partial(
        config,
        names=names,
        norm=_norm(epsilon),
        parallel=side_by_side,
        head_norm=heads if config.qk_layernorm else None,
        qkv_bias=config.use_qkv_bias,
    )


def starcoder2(config: Fields) -> Decoder:
    """Return a decoder with layer norms, without a gate, in a sliding window."""
    biased = config.use_bias
    return decoder(
        config,
        names=Names(up=("mlp.c_fc",), down="mlp.c_proj"),
        norm=_norm(config.norm_epsilon),
        gated=False,
        qkv_bias=biased,
        output_bias=biased,
        mlp_bias=biased,
        layers=layers(config, windows=same_window(config)),
    )


def _partial(config: Fields, **changes: object) -> Decoder:
    """Return a decoder that turns a part of each head."""
    rotary = rotary_of(config, partial=True)
    return decoder(config, layers=layers(config, turning=[rotary] * config.num_hidden_layers), **changes)


def _norm(epsilon: float) -> Norm:
    return Norm(kind="layer", epsilon=epsilon, bias=True)
