"""Attention maps of our model and of other families."""

from typing import Any

import pytest
import torch
from small_models import small
from torch_twins import scattered
from transformers import AutoModelForCausalLM, AutoModelForSeq2SeqLM, AutoModelForSequenceClassification
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

from deploykit.transformer.maps import attention_maps
from deploykit.transformer.pretrained import TransformerConfig, TransformerForConditionalGeneration

SOURCE = torch.tensor([[5, 6, 7, 8, 1], [9, 10, 1, 2, 2]])
INPUTS = {
    "input_ids": SOURCE,
    "attention_mask": (SOURCE != 2).long(),
    "decoder_input_ids": torch.tensor([[0, 5, 6], [0, 9, 10]]),
}


def ours(**own: Any) -> TransformerForConditionalGeneration:
    sizes = {"vocab_size": 30, "d_model": 16, "nhead": 2, "num_layers": 3, "dim_feedforward": 32, **own}
    return scattered(TransformerForConditionalGeneration(TransformerConfig(**sizes)))


def test_shows_where_each_token_looked() -> None:
    maps = attention_maps(ours(), INPUTS, row=1)
    assert maps.encoder is not None
    assert maps.decoder is not None
    assert maps.cross is not None
    assert maps.encoder.shape == (3, 2, 5, 5)
    assert maps.decoder.shape == (3, 2, 3, 3)
    assert maps.cross.shape == (3, 2, 3, 5)
    for one in (maps.encoder, maps.decoder, maps.cross):
        torch.testing.assert_close(one.sum(-1), torch.ones(one.shape[:-1]))
    # Not at padding, and not ahead.
    assert maps.cross[..., 3:].max() == 0
    assert maps.encoder[..., 3:].max() == 0
    assert maps.decoder.triu(1).max() == 0


def test_leaves_the_model_as_it_was() -> None:
    model = ours(dropout=0.5).train()
    first, again = attention_maps(model, INPUTS), attention_maps(model, INPUTS)
    assert first.cross is not None
    assert again.cross is not None
    assert torch.equal(first.cross, again.cross)  # nothing was dropped
    assert model.training


def test_works_for_another_encoder_decoder() -> None:
    model = AutoModelForSeq2SeqLM.from_config(CONFIG_MAPPING["t5"](**_T5)).train()
    maps = attention_maps(model, INPUTS)
    assert maps.cross is not None
    assert maps.cross.shape == (2, 4, 3, 5)
    torch.testing.assert_close(maps.cross.sum(-1), torch.ones(2, 4, 3))


@pytest.mark.parametrize(
    ("kind", "family", "has"),
    [(AutoModelForCausalLM, "llama", "decoder"), (AutoModelForSequenceClassification, "bert", "encoder")],
)
def test_works_for_one_stack(kind: Any, family: str, has: str) -> None:
    config = CONFIG_MAPPING[family](**{**small(family), "vocab_size": 64})
    model = kind.from_config(config, attn_implementation="sdpa")
    tokens = {name: INPUTS[name] for name in ("input_ids", "attention_mask")}
    maps = attention_maps(model, tokens)
    weights = getattr(maps, has)
    assert weights.shape[-2:] == (5, 5)
    torch.testing.assert_close(weights.sum(-1), torch.ones(weights.shape[:-1]))
    assert [name for name in ("encoder", "decoder", "cross") if getattr(maps, name) is not None] == [has]
    assert model.config._attn_implementation == "sdpa"


_T5 = {
    "vocab_size": 30,
    "d_model": 16,
    "d_kv": 4,
    "d_ff": 32,
    "num_layers": 2,
    "num_heads": 4,
    "decoder_start_token_id": 0,
}
