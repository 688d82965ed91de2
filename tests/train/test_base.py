"""Checkpoints to fine-tune: what they are taken for, their heads, and what LoRA leaves of itself."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from checkpoints import make_tokenizer
from safetensors.torch import load_file, save_file
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForSeq2SeqLM,
    AutoModelForSequenceClassification,
    BartConfig,
    BartForConditionalGeneration,
    BertConfig,
    BertModel,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    T5Config,
    T5ForConditionalGeneration,
)

from deploykit.errors import CheckpointError, ConfigError, DeploykitError, UnsupportedModelError
from deploykit.quiet import quiet
from deploykit.train import OptimConfig, TrainConfig, TrainResult, train
from deploykit.train.base import open_base
from deploykit.transformer.pretrained import TransformerConfig, TransformerForConditionalGeneration

TOKENIZER = make_tokenizer()
COMMON = {"vocab_size": len(TOKENIZER), "bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 2}
WIDE = {"hidden_size": 32, "num_attention_heads": 2, "intermediate_size": 48, "num_hidden_layers": 1}
BART = {f"{side}_{name}": value for side in ("encoder", "decoder") for name, value in (("layers", 1), ("ffn_dim", 48))}
HEADS = {"encoder_attention_heads": 2, "decoder_attention_heads": 2}
MODELS: dict[str, Callable[[], Any]] = {
    "gpt2": lambda: GPT2LMHeadModel(GPT2Config(n_embd=32, n_layer=1, n_head=2, n_positions=64, **COMMON)),
    "llama": lambda: LlamaForCausalLM(LlamaConfig(tie_word_embeddings=True, **WIDE, **COMMON)),
    "t5": lambda: T5ForConditionalGeneration(
        T5Config(d_model=32, d_kv=16, d_ff=48, num_layers=1, num_heads=2, decoder_start_token_id=2, **COMMON)
    ),
    "bart": lambda: BartForConditionalGeneration(
        BartConfig(d_model=32, max_position_embeddings=64, decoder_start_token_id=1, **BART, **HEADS, **COMMON)
    ),
    "ours": lambda: TransformerForConditionalGeneration(
        TransformerConfig(vocab_size=len(TOKENIZER), d_model=32, nhead=2, num_layers=1, dim_feedforward=48)
    ),
    "bert": lambda: BertModel(BertConfig(**WIDE, **COMMON)),
}
AUTO = {
    "text-generation": AutoModelForCausalLM,
    "text2text-generation": AutoModelForSeq2SeqLM,
    "text-classification": AutoModelForSequenceClassification,
    "text-regression": AutoModelForSequenceClassification,
}
LINES = {
    "text-generation": "def hello(name): return name\n<eos>\n",
    "text2text-generation": "one\teins\ntwo\tzwei\nthree\tdrei\n",
    "text-classification": "good\tfine and well\nbad\tdull and sad\nso\tit is\n",
    "text-regression": "1.5\tfine and well\n-1\tdull and sad\n",
}
SHORT = TrainConfig(optim=OptimConfig(max_steps=4, eval_steps=4, learning_rate=1e-2, warmup=0.0)).but(
    {"sequence_length": 16, "max_source_tokens": 32, "max_target_tokens": 32}
)


def checkpoint(folder: Path, name: str) -> Path:
    torch.manual_seed(0)
    with quiet():
        MODELS[name]().save_pretrained(folder)
    TOKENIZER.save_pretrained(folder)
    return folder


def fine_tune(folder: Path, base: Path, task: str, **options: Any) -> TrainResult:
    data = folder / "data"
    data.mkdir(exist_ok=True)
    (data / "train.txt").write_text(LINES[task] * 20)
    (data / "val.txt").write_text(LINES[task] * 4)
    return train(data, folder / "out", SHORT.but({"task": task, **options}), base=base)


@pytest.mark.parametrize(
    ("name", "task", "rank"),
    [
        pytest.param(*("gpt2", "text-generation", 0), marks=pytest.mark.slow),
        ("gpt2", "text-generation", 4),
        pytest.param(*("llama", "text-classification", 4), marks=pytest.mark.slow),
        ("t5", "text2text-generation", 0),
        pytest.param(*("t5", "text2text-generation", 4), marks=pytest.mark.slow),
        pytest.param(*("bart", "text2text-generation", 4), marks=pytest.mark.slow),
        pytest.param(*("ours", "text2text-generation", 0), marks=pytest.mark.slow),
        ("ours", "text2text-generation", 4),
        ("bert", "text-classification", 4),
        ("bert", "text-regression", 0),
    ],
)
def test_a_checkpoint_of_each_kind_learns(name: str, task: str, rank: int, tmp_path: Path) -> None:
    base = checkpoint(tmp_path / "base", name)
    result = fine_tune(tmp_path, base, task, lora_rank=rank)
    assert (result.trained_parameters < result.parameters) is bool(rank)
    with quiet():
        model, found = AUTO[task].from_pretrained(result.path, output_loading_info=True)
    assert not found["missing_keys"]
    assert not found["unexpected_keys"]
    assert model.num_parameters() == result.parameters
    # What is loaded is what was measured: the merged weights, not those of before.
    before, after = load_file(base / "model.safetensors"), load_file(result.path / "model.safetensors")
    prefix = "bert." if name == "bert" else ""
    changed = [key for key in before if not torch.equal(before[key], after[prefix + key])]
    assert changed
    if rank:
        assert not [key for key in changed if "embed" in key or "shared" in key or "norm" in key.lower()]
    files = {path.name for path in result.path.iterdir()}
    assert {"tokenizer.json", "tokenizer_config.json", "training.json", "train.yaml"} <= files
    assert not [file for file in files if "adapter" in file]
    if task == "text-classification":
        assert model.config.id2label == {0: "bad", 1: "good", 2: "so"}
    if task == "text-regression":
        assert (model.config.num_labels, model.config.problem_type) == (1, "regression")


def test_lora_is_merged_into_what_was_measured(tmp_path: Path) -> None:
    result = fine_tune(
        tmp_path, checkpoint(tmp_path / "base", "bert"), "text-classification", lora_rank=4, max_steps=10
    )
    again = train(
        tmp_path / "data",
        tmp_path / "again",
        SHORT.but({"max_steps": 1, "eval_steps": 1, "learning_rate": 1e-12}),
        base=result.path,
    )
    assert again.val_loss == pytest.approx(result.val_loss, rel=1e-4)
    assert again.metrics["accuracy"] == result.metrics["accuracy"]


def test_a_classifier_keeps_its_labels(tmp_path: Path) -> None:
    base = fine_tune(tmp_path, checkpoint(tmp_path / "base", "bert"), "text-classification").path
    assert open_base(base, task=None).labels == ("bad", "good", "so")
    data = tmp_path / "other"
    data.mkdir()
    (data / "train.txt").write_text("fair\tfine\nso\tit is\n" * 20)
    (data / "val.txt").write_text("so\tit is\n")
    with pytest.raises(DeploykitError, match=r"train\.txt line 1: label 'fair' is none of the checkpoint's"):
        train(data, tmp_path / "never", SHORT, base=base)
    (data / "train.txt").write_text("so\tfine\nbad\tit is\n" * 20)
    result = train(data, tmp_path / "next", SHORT, base=base)
    assert AutoConfig.from_pretrained(result.path).id2label == {0: "bad", 1: "good", 2: "so"}


def test_a_frozen_update_has_to_find_its_layers(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"lora_targets 'q_prj': LlamaForCausalLM has no such layers"):
        fine_tune(
            tmp_path, checkpoint(tmp_path / "base", "llama"), "text-generation", lora_rank=2, lora_targets="q_prj"
        )
    assert not (tmp_path / "out.partial").exists()
    result = fine_tune(tmp_path, tmp_path / "base", "text-generation", lora_rank=2, lora_targets="q_proj, v_proj")
    before, after = (load_file(folder / "model.safetensors") for folder in (tmp_path / "base", result.path))
    changed = {key.split(".")[-2] for key in before if not torch.equal(before[key], after[key])}
    assert changed == {"q_proj", "v_proj"}


def _no_config(folder: Path) -> None:
    (folder / "config.json").unlink()


def _cut_weights(folder: Path) -> None:
    whole = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(whole[: len(whole) // 2])


def _no_weights(folder: Path) -> None:
    (folder / "model.safetensors").unlink()


def _missing_tensor(folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    del weights["model.layers.0.mlp.up_proj.weight"]
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


def _other_sizes(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "intermediate_size": 50}))


def _large_vocabulary(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "vocab_size": 300}))


def _broken_tokenizer(folder: Path) -> None:
    (folder / "tokenizer.json").write_text('{"model": ')


@pytest.mark.parametrize(
    ("spoil", "match"),
    [
        (_no_config, r"base: holds no config\.json"),
        (_cut_weights, r"base: its weights can't be read"),
        (_no_weights, r"base: its weights can't be read"),
        (_missing_tensor, r"model\.layers\.0\.mlp\.up_proj\.weight are missing or of another size \(1 tensors"),
        (_other_sizes, r"layers\.0\.mlp\.\w+\.weight are missing or of another size \(3 tensors"),
        (_large_vocabulary, r"ids up to \d+, but the embedding has only 300 rows"),
        (_broken_tokenizer, r"base: its tokenizer can't be read"),
        (shutil.rmtree, r"base: no such folder; --from names a checkpoint's folder"),
    ],
)
def test_a_damaged_checkpoint_is_named(spoil: Callable[[Path], None], match: str, tmp_path: Path) -> None:
    base = checkpoint(tmp_path / "base", "llama")
    spoil(base)
    with pytest.raises(CheckpointError, match=match) as failed:
        fine_tune(tmp_path, base, "text-generation")
    assert "\n" not in str(failed.value)
    assert not (tmp_path / "out.partial").exists()


def test_a_checkpoint_learns_only_what_it_is_made_for(tmp_path: Path) -> None:
    bert, llama, bart = (checkpoint(tmp_path / name, name) for name in ("bert", "llama", "bart"))
    with pytest.raises(ConfigError, match=r"BertModel has no head .* --task text-classification"):
        open_base(bert, task=None)
    with pytest.raises(UnsupportedModelError, match=r"BertModel can't be trained for text-generation"):
        open_base(bert, task="text-generation")
    with pytest.raises(UnsupportedModelError, match=r"can't be trained for text2text-generation: it does text-gen"):
        open_base(llama, task="text2text-generation")
    with pytest.raises(UnsupportedModelError, match=r"can't be trained for text-classification"):
        open_base(bart, task="text-classification")
    with pytest.raises(CheckpointError, match=r"nowhere: no such folder"):
        open_base(tmp_path / "nowhere", task=None)
