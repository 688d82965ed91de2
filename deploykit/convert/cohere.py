"""Cohere: attention and MLP side by side, layer norms without bias, neighbours turned together, scaled logits."""

from collections.abc import Sequence

from deploykit.convert.description import Decoder, HeadNorm, Layer, Names, Norm
from deploykit.convert.fields import Fields, decoder, layers, rotary_of, windows_by_type


def cohere(config: Fields) -> Decoder:
    """Return a decoder that may normalize each head with weights of its own."""
    rotary = rotary_of(config, interleaved=True)
    return _decoder(config, layers(config, turning=[rotary] * config.num_hidden_layers), config.use_qk_norm)


def cohere2(config: Fields) -> Decoder:
    """Return a decoder that knows positions only in the layers with a sliding window."""
    windows, rotary = windows_by_type(config), rotary_of(config, interleaved=True)
    turning = [rotary if window else None for window in windows]
    return _decoder(config, layers(config, turning=turning, windows=windows), False)


def _decoder(config: Fields, each: Sequence[Layer], normalized: bool | None) -> Decoder:
    norm, biased = Norm(kind="layer", epsilon=config.layer_norm_eps), config.attention_bias
    return decoder(
        config,
        names=Names(before_mlp=None),
        parallel=True,
        norm=norm,
        qkv_bias=biased,
        output_bias=biased,
        head_norm=HeadNorm(norm=norm, over="each head") if normalized else None,
        logit_scale=config.logit_scale,
        layers=each,
    )
