"""OLMo: norms without weights, later after each block, over all heads at once."""

from deploykit.convert.description import Decoder, HeadNorm, Names, Norm
from deploykit.convert.fields import Fields, decoder, layers, rotary_of, windows_by_type

AFTER = Names(
    before_attention=None,
    after_attention="post_attention_layernorm",
    before_mlp=None,
    after_mlp="post_feedforward_layernorm",
)


def olmo(config: Fields) -> Decoder:
    """Return a decoder with layer norms without weights, and bounded queries, keys and values."""
    biased = config.attention_bias
    return decoder(
        config,
        # The number stands in transformers' OlmoLayerNorm.
        norm=Norm(kind="layer", epsilon=1e-5, weight=False),
        qkv_bias=biased,
        output_bias=biased,
        clip_qkv=config.clip_qkv,
    )


def olmo2(config: Fields) -> Decoder:
    """Return a decoder with norms after its blocks, and over all heads of queries and of keys."""
    biased = config.attention_bias
    return decoder(
        config,
        names=AFTER,
        qkv_bias=biased,
        output_bias=biased,
        head_norm=HeadNorm(norm=Norm(epsilon=config.rms_norm_eps), over="all"),
    )


def olmo3(config: Fields) -> Decoder:
    """Return an OLMo 2 with windows, and a rotary embedding for each type of layer."""
    biased, turning = config.attention_bias, [rotary_of(config, kind) for kind in config.layer_types]
    return decoder(
        config,
        names=AFTER,
        qkv_bias=biased,
        output_bias=biased,
        head_norm=HeadNorm(norm=Norm(epsilon=config.rms_norm_eps), over="all"),
        layers=layers(config, turning=turning, windows=windows_by_type(config)),
    )
