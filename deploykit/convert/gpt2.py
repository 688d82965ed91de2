"""GPT-2: learned positions, layer norms and biases everywhere, matrices stored as [inputs, outputs]."""

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
    if config.n_embd % config.n_head:
        raise Unfit(f"hidden size {config.n_embd} is no multiple of {config.n_head} heads")
    if config.add_cross_attention:
        raise Unfit("it has cross-attention")
    return decoder(
        config,
        names=NAMES,
        width=config.n_embd,
        inner=config.n_inner or 4 * config.n_embd,
        heads=config.n_head,
        shared_heads=config.n_head,
        head_size=config.n_embd // config.n_head,
        layers=[Layer(scale=_scale(config, number)) for number in range(config.n_layer)],
        norm=Norm(kind="layer", epsilon=config.layer_norm_epsilon, bias=True),
        activation=config.activation_function,
        gated=False,
        qkv_bias=True,
        output_bias=True,
        mlp_bias=True,
        inputs_first=True,
        positions=config.n_positions,
    )


def _scale(config: Fields, layer: int) -> float:
    """Return what scores are multiplied by; GroupQueryAttention takes 0 for its default, so 1 is written out."""
    scale = (config.n_embd // config.n_head) ** -0.5 if config.scale_attn_weights else 1.0
    return float(scale / (layer + 1) if config.scale_attn_by_inverse_layer_idx else scale)
