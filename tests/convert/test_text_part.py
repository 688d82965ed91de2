"""Models for more than text: their language part is converted, and held against the whole model."""

import json
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from checkpoints import SIZES, make_tokenizer
from safetensors.numpy import load_file, save_file
from transformers import AutoConfig, AutoModelForCausalLM, Gemma3Config, Qwen2_5_VLConfig

from deploykit.config import ConvertConfig
from deploykit.convert import convert, torch_reference
from deploykit.convert.checkpoint import open_checkpoint
from deploykit.errors import UnsupportedModelError
from deploykit.validate import validate

PICTURES = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}


def gemma3(folder: Path, **whole: Any) -> Path:
    """Save a small Gemma 3 that sees pictures, too."""
    tokenizer = make_tokenizer()
    text = {**SIZES["gemma3_text"], "vocab_size": len(tokenizer), "initializer_range": 0.2, "sliding_window": 6}
    ids = {"bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 2}
    tokens = {"image_token_index": 300, "boi_token_index": 301, "eoi_token_index": 302, "mm_tokens_per_image": 4}
    config = Gemma3Config(
        text_config={**text, **ids}, vision_config={**PICTURES, "image_size": 16, "patch_size": 8}, **tokens, **whole
    )
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.mark.parametrize("tied", [True, False])
def test_the_language_part_gives_the_whole_models_logits(tmp_path: Path, tied: bool) -> None:
    checkpoint = gemma3(tmp_path / "checkpoint", tie_word_embeddings=tied)
    artifact = convert(checkpoint, tmp_path / "out", ConvertConfig(method="fused"))
    parity = validate(artifact, None, partial(torch_reference, checkpoint)).manifest.parity["fp32"]
    assert parity["reference"] == "pytorch"
    # What the artifact says of itself is a model of text.
    assert (artifact.manifest.model_type, artifact.manifest.architecture) == ("gemma3_text", "Gemma3ForCausalLM")
    config = AutoConfig.from_pretrained(artifact.path)
    assert (config.model_type, config.vocab_size, config.tie_word_embeddings) == ("gemma3_text", 318, tied)


@pytest.mark.parametrize("prefix", ["language_model.model.", "model.language_model."])
def test_tensors_are_found_under_the_names_of_older_and_newer_checkpoints(tmp_path: Path, prefix: str) -> None:
    file = gemma3(tmp_path) / "model.safetensors"
    weights = {name.replace("language_model.model.", prefix): tensor for name, tensor in load_file(file).items()}
    save_file(weights, file, metadata={"format": "pt"})
    found = open_checkpoint(tmp_path, ConvertConfig()).weights.tensors
    assert {"model.embed_tokens.weight", "model.layers.1.mlp.up_proj.weight", "model.norm.weight"} <= set(found)
    assert not any("language_model" in name for name in found)


def test_a_model_that_transformers_makes_no_text_with_alone_is_refused(tmp_path: Path) -> None:
    text = {**SIZES["qwen2"], "vocab_size": 318}
    Qwen2_5_VLConfig(text_config=text).save_pretrained(tmp_path)
    file = tmp_path / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "model_type": "mllama", "text_config": {}}))
    with pytest.raises(UnsupportedModelError, match="no language model in it that is known") as caught:
        open_checkpoint(tmp_path, ConvertConfig())
    assert "\n" not in str(caught.value)
