"""Small Hugging Face checkpoints with random weights, made on the spot."""

from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import CONFIG_MAPPING, AutoModelForCausalLM, PreTrainedTokenizerFast

SAMPLE = (
    "def greet(name):\n    return f'Grüße, {name}! 你好 👋'\n\nfor number in range(10):\n    print(greet(number))\n"
)

SIZES: dict[str, dict[str, Any]] = {
    "gpt2": {"n_embd": 64, "n_layer": 2, "n_head": 4, "n_positions": 128},
    "llama": {
        "hidden_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "intermediate_size": 96,
        "max_position_embeddings": 128,
    },
}
SIZES["gpt_bigcode"] = SIZES["gpt2"]
SIZES["qwen2"] = {**SIZES["llama"], "tie_word_embeddings": True}
_FAMILIES: tuple[tuple[str, dict[str, Any]], ...] = (
    ("apertus arcee cohere cohere2 exaone4 granite mistral nanochat nemotron olmo olmo2 olmo3", {}),
    ("phi phi3 smollm3 stablelm starcoder2", {}),
    ("cwm ernie4_5 gemma gemma2 gemma3_text helium hunyuan_v1_dense jais2 ministral", {"head_dim": 16}),
    ("qwen3 seed_oss vaultgemma", {"head_dim": 16}),
    ("glm glm4", {"head_dim": 32}),
    ("gpt_neox persimmon", {"num_key_value_heads": None}),
)
SIZES |= {family: {**SIZES["llama"], **fields} for names, fields in _FAMILIES for family in names.split()}


def make_tokenizer(vocab_size: int = 320) -> PreTrainedTokenizerFast:
    """Return a byte-level BPE trained on a few lines, with <s>, </s> and <pad>."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=["<s>", "</s>", "<pad>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator([SAMPLE] * 4, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="<s>",
        eos_token="</s>",
        pad_token="<pad>",
        clean_up_tokenization_spaces=False,
    )


def make_checkpoint(folder: Path, model_type: str, *, seed: int = 0, scale: float = 0.2, **config: Any) -> Path:
    """Save a random checkpoint of `model_type` with its tokenizer in `folder` and return it.

    Args:
        scale: standard deviation of the weights; wide enough that logits are far apart and greedy text isn't constant.
        config: fields of the model's configuration, over those in `SIZES`.
    """
    tokenizer = make_tokenizer()
    settings = {
        "vocab_size": len(tokenizer),
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
        "initializer_range": scale,
        **SIZES.get(model_type, {}),
        **config,
    }
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_config(CONFIG_MAPPING[model_type](**settings))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("bias") or "norm" in name or "ln_" in name:
                # Biases start at 0 and norms at 1: a graph that forgot one would still agree.
                parameter.add_(torch.randn_like(parameter) * 0.1)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder
