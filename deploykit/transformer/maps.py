"""Attention maps: which tokens each token looked at, of our model and of any other in Hugging Face's layout."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch


@dataclass(frozen=True, kw_only=True)
class AttentionMaps:
    """The attention weights of one row, on the CPU in float32; each line of a map sums to 1. None: there are none."""

    encoder: torch.Tensor | None
    """[L, H, S, S], of an encoder."""
    decoder: torch.Tensor | None
    """[L, H, T, T], of a decoder: nothing right of the diagonal."""
    cross: torch.Tensor | None
    """[L, H, T, S], from a decoder's tokens to the source's."""


@torch.no_grad()
def attention_maps(model: Any, inputs: Mapping[str, torch.Tensor], *, row: int = 0) -> AttentionMaps:
    """Return the attention weights of one row of `inputs`, with nothing dropped.

    Args:
        model: one of transformers' layout; it comes back as it was.
        inputs: what it takes, by name, without labels; each [B, …].
        row: which row of them.
    """
    one = {name: value[row : row + 1] for name, value in inputs.items()}
    with _showing_weights(model):
        output = model(**one, output_attentions=True, return_dict=True)
    if model.config.is_encoder_decoder:
        return AttentionMaps(
            encoder=_stacked(output.encoder_attentions),
            decoder=_stacked(output.decoder_attentions),
            cross=_stacked(output.cross_attentions),
        )
    maps = _stacked(output.attentions)
    generates = model.can_generate()
    return AttentionMaps(encoder=None if generates else maps, decoder=maps if generates else None, cross=None)


def _stacked(layers: Sequence[torch.Tensor | None] | None) -> torch.Tensor | None:
    # Layers of a kind that has no weights (convolutions, recurrences) give None.
    weights = [layer[0].float().cpu() for layer in layers or () if layer is not None]
    return torch.stack(weights) if weights else None


@contextmanager
def _showing_weights(model: Any) -> Iterator[None]:
    """Run a model without dropout, by the attention that keeps its weights: fused kernels have none to show."""
    training, kind = model.training, getattr(model.config, "_attn_implementation", "eager")
    model.eval()
    if kind != "eager":
        model.set_attn_implementation("eager")
    try:
        yield
    finally:
        if kind != "eager":
            model.set_attn_implementation(kind)
        model.train(training)
