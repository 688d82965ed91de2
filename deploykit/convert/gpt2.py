"""GPT-2 and GPT-BigCode: learned positions, layer norms and biases everywhere."""

from typing import Any

from deploykit.convert.description import Decoder, Layer, Names, Norm, Unfit
from deploykit.convert.fields import Fields, decoder

NAMES = Names(
    embedding="transformer.wte",
    positions="transformer.wpe",
    layer="transformer.h",
    before_attention="ln_1",
    qkv=("attn.c_attn",),
    output="attn.c_proj",
    before_mlp="ln_2",
    up=("mlp.c_fc",),
    down="mlp.c_proj",
    final="transformer.ln_f",
)


def gpt2(config: Fields) -> Decoder:
    """Return a GPT-2."""
    each = [_scale(config) / (layer + 1 if config.scale_attn_by_inverse_layer_idx else 1) for layer in _layers(config)]
    return _decoder(config, layers=[Layer(scale=scale) for scale in each], inputs_first=True)


def gpt_bigcode(config: Fields) -> Decoder:
    """Return a GPT-2 with matrices stored as [outputs, inputs], and one key/value head or qkv stored head by head."""
    scale = _scale(config)
    return _decoder(
        config,
        layers=[Layer(scale=scale) for _ in _layers(config)],
        shared_heads=config.num_key_value_heads,
        qkv_by_head=not config.multi_query,
    )


def _decoder(config: Fields, **changes: Any) -> Decoder:
    if config.n_embd % config.n_head:
        raise Unfit(f"hidden size {config.n_embd} is no multiple of {config.n_head} heads")
    if config.add_cross_attention:
        raise Unfit("it has cross-attention")
    fields: dict[str, Any] = {
        "names": NAMES,
        "width": config.n_embd,
        "inner": config.n_inner or 4 * config.n_embd,
        "heads": config.n_head,
        "shared_heads": config.n_head,
        "head_size": config.n_embd // config.n_head,
        "norm": Norm(kind="layer", epsilon=config.layer_norm_epsilon, bias=True),
        "activation": config.activation_function,
        "gated": False,
        "qkv_bias": True,
        "output_bias": True,
        "mlp_bias": True,
        "positions": config.n_positions,
    }
    return decoder(config, **{**fields, **changes})


def _layers(config: Fields) -> range:
    return range(config.n_layer)


def _scale(config: Fields) -> float:
    """Return what scores are multiplied by; GroupQueryAttention takes 0 for its default, so 1 is written out."""
    return float((config.n_embd // config.n_head) ** -0.5 if config.scale_attn_weights else 1.0)
