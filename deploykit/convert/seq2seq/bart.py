"""BART and what shares its layers and names: mBART, Pegasus, Marian and M2M100."""

from collections.abc import Callable
from functools import partial
from typing import Final

from deploykit.convert.description import Norm, Unfit
from deploykit.convert.fields import Fields
from deploykit.convert.seq2seq.description import Attention, Computed, EncoderDecoder, Learned, Names, Stack
from deploykit.convert.seq2seq.positions import halves, stretched

Positions = Callable[[Fields, str], Learned | Computed]
"""From the configuration and a stack's name in the checkpoint to its positions."""

_EPSILON: Final = 1e-5
"""PyTorch's default, which these families never change."""
_SHARED: Final = "model.shared"
_HEAD: Final = "lm_head"


def bart(config: Fields) -> EncoderDecoder:
    """Return a BART: learned positions, and a norm after each block."""
    return _whole(config, norm_first=False, embedding_norm=True, positions=_learned)


def mbart(config: Fields) -> EncoderDecoder:
    """Return an mBART: a BART with its norms before each block and one at the end."""
    return _whole(config, norm_first=True, embedding_norm=True, positions=_learned)


def pegasus(config: Fields) -> EncoderDecoder:
    """Return a Pegasus: sinusoids, and norms before each block."""
    return _whole(config, norm_first=True, embedding_norm=False, positions=_halves)


def marian(config: Fields) -> EncoderDecoder:
    """Return a Marian: sinusoids, norms after each block, and perhaps a table for each side."""
    apart, target = not config.share_encoder_decoder_embeddings, config.decoder_vocab_size
    if apart and target != config.vocab_size:
        raise Unfit(
            f"its sources have a vocabulary of {config.vocab_size} tokens and its answers one of {target}, while all "
            "that follows has one tokenizer for both"
        )
    return _whole(config, norm_first=False, embedding_norm=False, positions=_halves, apart=apart)


def m2m_100(config: Fields) -> EncoderDecoder:
    """Return an M2M100: fairseq's sinusoids, whose rows begin after that of padding, and norms before each block."""
    return _whole(config, norm_first=True, embedding_norm=False, positions=_stretched)


def _learned(config: Fields, stack: str) -> Learned:
    # Two rows that were meant for padding come before that of position 0.
    return Learned(name=f"model.{stack}.embed_positions", rows=config.max_position_embeddings + 2, offset=2)


def _halves(config: Fields, stack: str) -> Computed:
    return Computed(name=f"model.{stack}.embed_positions", rows=config.max_position_embeddings, table=halves)


def _stretched(config: Fields, stack: str) -> Computed:
    del stack
    if config.pad_token_id is None:
        raise Unfit("it has no padding token, from which its positions count")
    return Computed(rows=config.max_position_embeddings, table=partial(stretched, first=config.pad_token_id + 1))


def _whole(
    config: Fields, *, norm_first: bool, embedding_norm: bool, positions: Positions, apart: bool = False
) -> EncoderDecoder:
    """Return any of them.

    Args:
        config: the model's.
        norm_first: whether norms come before the blocks; then there is one after the last as well.
        embedding_norm: whether the embedding is normalized.
        positions: of a stack.
        apart: whether encoder and decoder share no table.
    """

    def stack(name: str, other: str) -> Stack:
        shared = () if apart else (_SHARED, f"model.{other}.embed_tokens")
        # Of tied tables, a checkpoint may have stored none but the head.
        head = (_HEAD,) if config.tie_word_embeddings and not (apart and name == "encoder") else ()
        heads = getattr(config, f"{name}_attention_heads")
        if config.d_model % heads:
            raise Unfit(f"d_model {config.d_model} is no multiple of {heads} heads")
        embedding = (f"model.{name}.embed_tokens", *shared, *head)
        return Stack(
            names=_names(name, embedding, embedding_norm=embedding_norm, final_norm=norm_first),
            vocabulary=config.vocab_size,
            layers=getattr(config, f"{name}_layers"),
            heads=heads,
            head_size=config.d_model // heads,
            scale=(config.d_model // heads) ** -0.5,
            inner=getattr(config, f"{name}_ffn_dim"),
            positions=positions(config, name),
        )

    encoder, decoder = stack("encoder", "decoder"), stack("decoder", "encoder")
    # Tied to the table that both stacks share, if they do, even where the decoder has another beside it.
    own, *shared = decoder.names.embedding
    return EncoderDecoder(
        encoder=encoder,
        decoder=decoder,
        width=config.d_model,
        norm=Norm(kind="layer", epsilon=_EPSILON, bias=True),
        norm_first=norm_first,
        activation=config.activation_function,
        head=(_HEAD, *((*shared, own) if config.tie_word_embeddings else ())),
        embedding_scale=config.d_model**0.5 if config.scale_embedding else 1.0,
        logit_bias="final_logits_bias",
        longest=config.max_position_embeddings,
    )


def _names(stack: str, embedding: tuple[str, ...], *, embedding_norm: bool, final_norm: bool) -> Names:
    return Names(
        embedding=embedding,
        layer=f"model.{stack}.layers",
        attention=_attention("self_attn"),
        cross=None if stack == "encoder" else _attention("encoder_attn"),
        up=("fc1",),
        down="fc2",
        mlp_norm="final_layer_norm",
        embedding_norm=f"model.{stack}.layernorm_embedding" if embedding_norm else None,
        final_norm=f"model.{stack}.layer_norm" if final_norm else None,
    )


def _attention(name: str) -> Attention:
    query, key, value, output = (f"{name}.{part}_proj" for part in ("q", "k", "v", "out"))
    return Attention(query=query, key=key, value=value, output=output, norm=f"{name}_layer_norm")
