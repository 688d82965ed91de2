"""The model as a Hugging Face checkpoint: written, opened by Auto classes, generating."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from torch_twins import scattered
from transformers import AutoModelForSeq2SeqLM

from deploykit.transformer.pretrained import TransformerConfig, TransformerForConditionalGeneration

SOURCE = torch.tensor([[5, 6, 7, 8, 9, 1], [10, 11, 12, 1, 2, 2], [13, 1, 2, 2, 2, 2]])
MASK = (SOURCE != 2).long()


def small(**own: Any) -> TransformerForConditionalGeneration:
    sizes = {"vocab_size": 30, "d_model": 16, "nhead": 2, "num_layers": 2, "dim_feedforward": 32, **own}
    model: TransformerForConditionalGeneration = scattered(
        TransformerForConditionalGeneration(TransformerConfig(**sizes))
    )
    model.eval()
    return model


@pytest.mark.parametrize("share_embeddings", [True, False])
@pytest.mark.parametrize("norm_first", [True, False])
def test_comes_back_bit_for_bit(share_embeddings: bool, norm_first: bool, tmp_path: Path) -> None:
    model = small(share_embeddings=share_embeddings, norm_first=norm_first)
    model.save_pretrained(tmp_path)
    opened = AutoModelForSeq2SeqLM.from_pretrained(tmp_path)
    assert type(opened) is TransformerForConditionalGeneration
    ours, theirs = model.state_dict(), opened.state_dict()
    assert list(ours) == list(theirs)
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    tables = {id(table.weight) for table in _tables(opened)}
    assert len(tables) == (1 if share_embeddings else 3)
    assert torch.equal(model(SOURCE, MASK, SOURCE[:, :3]).logits, opened(SOURCE, MASK, SOURCE[:, :3]).logits)


def test_config_says_what_a_reader_needs(tmp_path: Path) -> None:
    small().save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    assert config["model_type"] == "deploykit_transformer"
    assert config["architectures"] == ["TransformerForConditionalGeneration"]
    named = [config[f"{name}_token_id"] for name in ("bos", "eos", "pad", "unk", "decoder_start")]
    assert (named, config["is_encoder_decoder"]) == ([0, 1, 2, 3, 0], True)
    sizes = [config[name] for name in ("vocab_size", "d_model", "nhead", "num_layers", "dim_feedforward", "dropout")]
    assert sizes == [30, 16, 2, 2, 32, 0.1]
    switches = [config[name] for name in ("norm_first", "share_embeddings", "max_position_embeddings")]
    assert (switches, config["layer_norm_eps"]) == ([False, True, 512], 1e-5)


def test_shared_table_is_saved_once(tmp_path: Path) -> None:
    small().save_pretrained(tmp_path)
    with safe_open(tmp_path / "model.safetensors", "pt") as file:
        names = set(file.keys())
    assert {name for name in names if "embedding" in name or "generator" in name} == {
        "transformer.source_embedding.weight"
    }
    assert "transformer.decoder.layers.1.cross_attn.out_proj.bias" in names


def test_generates_the_same_with_and_without_cache() -> None:
    model, wanted = small(), {"max_new_tokens": 9, "do_sample": False, "num_beams": 1}
    cached = model.generate(SOURCE, attention_mask=MASK, use_cache=True, **wanted)
    assert torch.equal(cached, model.generate(SOURCE, attention_mask=MASK, use_cache=False, **wanted))
    # Each token is what the model itself finds likeliest after those before it.
    steps = model(SOURCE, MASK, cached[:, :-1]).logits.argmax(-1)
    running = ((cached[:, 1:] == 1).cumsum(-1) - (cached[:, 1:] == 1).long()) == 0
    assert torch.equal(steps[running], cached[:, 1:][running])
    for row in range(3):
        alone = model.generate(SOURCE[row : row + 1, : MASK[row].sum()], **wanted)
        assert torch.equal(alone[0], cached[row, : alone.shape[1]])


def test_steps_in_parts_equal_all_at_once() -> None:
    model, tokens = small(), torch.randint(4, 30, (3, 6))
    whole = model(SOURCE, MASK, tokens)
    first = model(SOURCE, MASK, tokens[:, :2], use_cache=True)
    then = model(
        attention_mask=MASK,
        decoder_input_ids=tokens[:, 2:5],
        encoder_outputs=(whole.encoder_last_hidden_state,),
        past_key_values=first.past_key_values,
    )
    parts = torch.cat([first.logits, then.logits], 1)
    torch.testing.assert_close(parts, whole.logits[:, :5], atol=1e-5, rtol=1e-5)


def test_loss_counts_labels_alone() -> None:
    model, labels = small(), torch.tensor([[5, 6, 1], [7, 1, -100], [1, -100, -100]])
    output = model(SOURCE, MASK, labels=labels)
    inputs = torch.tensor([[0, 5, 6], [0, 7, 1], [0, 1, 2]])
    chances = model(SOURCE, MASK, inputs).logits.log_softmax(-1)
    counted = [chances[row, place, token] for row, place, token in _counted(labels)]
    torch.testing.assert_close(output.loss, -torch.stack(counted).mean())
    with pytest.raises(ValueError, match="decoder_input_ids or labels"):
        model(SOURCE, MASK)


def test_makes_no_cache_unasked() -> None:
    model = small()
    assert model(SOURCE, MASK, SOURCE).past_key_values is None
    assert len(model(SOURCE, MASK, SOURCE, return_dict=False)) == 2  # logits and the encoder's output


@pytest.mark.parametrize("share_embeddings", [True, False])
def test_all_tables_grow_together(share_embeddings: bool) -> None:
    model = small(share_embeddings=share_embeddings)
    before = model(SOURCE, MASK, SOURCE).logits
    model.resize_token_embeddings(33, mean_resizing=False)
    assert [table.weight.shape[0] for table in _tables(model)] == [33, 33, 33]
    assert model.config.vocab_size == 33
    torch.testing.assert_close(model(SOURCE, MASK, SOURCE).logits[..., :30], before)


def _tables(model: TransformerForConditionalGeneration) -> list[Any]:
    inner = model.transformer
    return [inner.source_embedding, inner.target_embedding, inner.generator]


def _counted(labels: torch.Tensor) -> list[tuple[int, int, int]]:
    return [
        (row, place, int(token)) for row, line in enumerate(labels) for place, token in enumerate(line) if token != -100
    ]
