"""T5 and what has its shape: relative positions, RMS norms before each block, no biases."""

from collections.abc import Sequence
from typing import Any

from deploykit.convert.description import Norm
from deploykit.convert.fields import Fields
from deploykit.convert.seq2seq.description import Attention, EncoderDecoder, Names, Relative, Stack


def t5(config: Fields) -> EncoderDecoder:
    """Return a T5, whose logits are scaled where the head is the embedding."""
    return _whole(config, scaled=config.scale_decoder_outputs)


def mt5(config: Fields) -> EncoderDecoder:
    """Return an mT5, which never scales its logits."""
    return _whole(config, scaled=False)


def umt5(config: Fields) -> EncoderDecoder:
    """Return a UMT5: a T5 whose layers each have relative positions of their own."""
    return _whole(config, scaled=config.tie_word_embeddings, by_layer=True)


def _whole(config: Fields, *, scaled: bool, by_layer: bool = False) -> EncoderDecoder:
    return EncoderDecoder(
        encoder=_stack(config, "encoder", config.num_layers, by_layer=by_layer),
        decoder=_stack(config, "decoder", config.num_decoder_layers, by_layer=by_layer),
        width=config.d_model,
        norm=Norm(epsilon=config.layer_norm_epsilon),
        norm_first=True,
        activation=config.dense_act_fn,
        # Where a checkpoint has both, transformers ties them only if they are equal; never to a stack's own table.
        head=("lm_head", "shared", *_embedding("decoder", "encoder")),
        biased=False,
        gated=config.is_gated_act,
        logit_scale=config.d_model**-0.5 if scaled else 1.0,
    )


def _stack(config: Fields, name: str, layers: int, *, by_layer: bool) -> Stack:
    # Its parts are read; together they say what this field says.
    _ = config.feed_forward_proj
    return Stack(
        names=_names(name, ("wi_0", "wi_1") if config.is_gated_act else ("wi",)),
        vocabulary=config.vocab_size,
        layers=layers,
        heads=config.num_heads,
        head_size=config.d_kv,
        scale=1.0,
        inner=config.d_ff,
        positions=Relative(
            name="layer.0.SelfAttention.relative_attention_bias",
            by_layer=by_layer,
            buckets=config.relative_attention_num_buckets,
            farthest=config.relative_attention_max_distance,
            both_ways=name == "encoder",
        ),
    )


def _names(stack: str, up: Sequence[str]) -> Names:
    mlp = "layer.1" if stack == "encoder" else "layer.2"
    cross: dict[str, Any] = {} if stack == "encoder" else {"cross": _attention("layer.1", "EncDecAttention")}
    return Names(
        embedding=_embedding(stack, "decoder" if stack == "encoder" else "encoder"),
        layer=f"{stack}.block",
        attention=_attention("layer.0", "SelfAttention"),
        up=tuple(f"{mlp}.DenseReluDense.{name}" for name in up),
        down=f"{mlp}.DenseReluDense.wo",
        mlp_norm=f"{mlp}.layer_norm",
        final_norm=f"{stack}.final_layer_norm",
        **cross,
    )


def _embedding(stack: str, other: str) -> tuple[str, ...]:
    # All are tied, ever: a checkpoint may have stored none but the head.
    return (f"{stack}.embed_tokens", "shared", f"{other}.embed_tokens", "lm_head")


def _attention(layer: str, name: str) -> Attention:
    query, key, value, output = (f"{layer}.{name}.{part}" for part in "qkvo")
    return Attention(query=query, key=key, value=value, output=output, norm=f"{layer}.layer_norm")
