"""The model of `deploykit.transformer`: the paper's encoder-decoder, with norms before or after each block."""

from deploykit.convert.description import Norm, Unfit
from deploykit.convert.fields import Fields
from deploykit.convert.seq2seq.description import Attention, Computed, EncoderDecoder, Names, Stack
from deploykit.convert.seq2seq.positions import interleaved


def own(config: Fields) -> EncoderDecoder:
    """Return what `deploykit train` makes of pairs."""
    if config.d_model % config.nhead:
        raise Unfit(f"d_model {config.d_model} is no multiple of {config.nhead} heads")
    source, target, head = ("source_embedding", "target_embedding", "generator")
    # The second says the same, by the name that transformers goes by.
    shared, tied = config.share_embeddings, config.tie_word_embeddings
    if shared and tied:
        target = head = source
    return EncoderDecoder(
        encoder=_stack(config, "encoder", source),
        decoder=_stack(config, "decoder", target),
        width=config.d_model,
        norm=Norm(kind="layer", epsilon=config.layer_norm_eps, bias=True),
        norm_first=config.norm_first,
        activation="relu",
        head=(f"transformer.{head}",),
        embedding_scale=config.d_model**0.5,
        longest=config.max_position_embeddings,
    )


def _stack(config: Fields, name: str, embedding: str) -> Stack:
    return Stack(
        names=_names(name, embedding),
        vocabulary=config.vocab_size,
        layers=config.num_layers,
        heads=config.nhead,
        head_size=config.d_model // config.nhead,
        scale=(config.d_model // config.nhead) ** -0.5,
        inner=config.dim_feedforward,
        positions=Computed(rows=config.max_position_embeddings, table=interleaved),
    )


def _names(stack: str, embedding: str) -> Names:
    encoder = stack == "encoder"
    return Names(
        embedding=(f"transformer.{embedding}",),
        layer=f"transformer.{stack}.layers",
        attention=_attention("self_attn", "norm1"),
        cross=None if encoder else _attention("cross_attn", "norm2"),
        up=("linear1",),
        down="linear2",
        mlp_norm="norm2" if encoder else "norm3",
        final_norm=f"transformer.{stack}.norm",
    )


def _attention(name: str, norm: str) -> Attention:
    query, key, value, output = (f"{name}.{part}_proj" for part in ("q", "k", "v", "out"))
    return Attention(query=query, key=key, value=value, output=output, norm=norm)
