"""PyTorch's own modules with the weights of ours: what ours must equal."""

import warnings
from typing import TypeVar

import torch
from torch import nn

from deploykit.transformer.attention import MultiHeadAttention
from deploykit.transformer.layers import DecoderLayer, EncoderLayer
from deploykit.transformer.model import Transformer

SIZES = {"d_model": 24, "nhead": 4, "dim_feedforward": 40, "dropout": 0.0}
VOCABULARY = 50
M = TypeVar("M", bound=nn.Module)


def small_transformer(**own: object) -> Transformer:
    """A model of two layers, every weight and bias of it drawn: fresh ones have biases of 0 and scales of 1."""
    model = Transformer(VOCABULARY, num_layers=2, **{**SIZES, **own}).eval()  # type: ignore[arg-type] # options by name
    return scattered(model)


def scattered(model: M) -> M:
    """Draw biases and the norms' scales too."""
    for parameter in model.parameters():
        if parameter.ndim < 2:
            nn.init.normal_(parameter, 0.5, 0.5)
    return model


def attention_twin(ours: MultiHeadAttention) -> nn.MultiheadAttention:
    twin = nn.MultiheadAttention(ours.q_proj.in_features, ours.nhead, batch_first=True)
    three = (ours.q_proj, ours.k_proj, ours.v_proj)
    twin.in_proj_weight.data = torch.cat([one.weight for one in three])
    twin.in_proj_bias.data = torch.cat([one.bias for one in three])
    twin.out_proj.load_state_dict(ours.out_proj.state_dict())
    return twin.eval()


def encoder_layer_twin(ours: EncoderLayer) -> nn.TransformerEncoderLayer:
    twin = nn.TransformerEncoderLayer(**SIZES, norm_first=ours.norm_first, batch_first=True)  # type: ignore[arg-type]
    twin.self_attn = attention_twin(ours.self_attn)
    return _same(twin, ours, "linear1", "linear2", "norm1", "norm2")


def decoder_layer_twin(ours: DecoderLayer) -> nn.TransformerDecoderLayer:
    twin = nn.TransformerDecoderLayer(**SIZES, norm_first=ours.norm_first, batch_first=True)  # type: ignore[arg-type]
    twin.self_attn, twin.multihead_attn = attention_twin(ours.self_attn), attention_twin(ours.cross_attn)
    return _same(twin, ours, "linear1", "linear2", "norm1", "norm2", "norm3")


def transformer_twin(ours: Transformer) -> nn.Transformer:
    """torch.nn.Transformer with our layers' weights; it has neither embeddings nor logits."""
    layers = len(ours.encoder.layers)
    first = ours.encoder.layers[0]
    assert isinstance(first, EncoderLayer)
    with warnings.catch_warnings():  # of a fast path that pre-norm doesn't have
        warnings.simplefilter("ignore")
        twin = nn.Transformer(
            num_encoder_layers=layers,
            num_decoder_layers=layers,
            norm_first=first.norm_first,
            batch_first=True,
            **SIZES,  # type: ignore[arg-type] # options by name
        )
    for index in range(layers):
        twin.encoder.layers[index] = encoder_layer_twin(ours.encoder.layers[index])  # type: ignore[arg-type]
        twin.decoder.layers[index] = decoder_layer_twin(ours.decoder.layers[index])  # type: ignore[arg-type]
    twin.encoder.norm.load_state_dict(ours.encoder.norm.state_dict())
    twin.decoder.norm.load_state_dict(ours.decoder.norm.state_dict())
    return twin.eval()


def _same(twin: M, ours: nn.Module, *names: str) -> M:
    for name in names:
        twin.get_submodule(name).load_state_dict(ours.get_submodule(name).state_dict())
    return twin.eval()
