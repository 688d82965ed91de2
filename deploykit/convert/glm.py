"""GLM and Phi 3: query, key and value in one tensor or three, gate and up in one, a part of each head turned."""

from deploykit.convert.description import Decoder, Names
from deploykit.convert.fields import Fields, decoder, layers, rotary_of, same_window

GATE_UP = ("mlp.gate_up_proj",)


def glm(config: Fields) -> Decoder:
    """Return a decoder that turns neighbouring elements in a part of each head."""
    rotary = rotary_of(config, partial=True, interleaved=True)
    return decoder(
        config,
        names=Names(up=GATE_UP),
        qkv_bias=config.attention_bias,
        layers=layers(config, turning=[rotary] * config.num_hidden_layers),
    )


def glm4(config: Fields) -> Decoder:
    """Return a GLM with norms around its blocks."""
    rotary = rotary_of(config, partial=True, interleaved=True)
    return decoder(
        config,
        names=Names(up=GATE_UP, after_attention="post_self_attn_layernorm", after_mlp="post_mlp_layernorm"),
        qkv_bias=config.attention_bias,
        layers=layers(config, turning=[rotary] * config.num_hidden_layers),
    )


def phi3(config: Fields) -> Decoder:
    """Return a decoder that turns the halves of a part of each head, in a sliding window."""
    rotary = rotary_of(config, partial=True)
    turning = [rotary] * config.num_hidden_layers
    return decoder(
        config,
        names=Names(qkv=("self_attn.qkv_proj",), up=GATE_UP),
        layers=layers(config, turning=turning, windows=same_window(config)),
    )
