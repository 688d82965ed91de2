"""The checkpoints that are measured: sizes of well-known models, random weights.

python benchmarks/models.py gpt2|smol|large DIR
"""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

SMOL: dict[str, Any] = {
    "vocab_size": 49152,
    "hidden_size": 576,
    "intermediate_size": 1536,
    "num_hidden_layers": 30,
    "num_attention_heads": 9,
    "num_key_value_heads": 3,
    "max_position_embeddings": 2048,
    "tie_word_embeddings": True,
    "scale": 0.02,
}
"""A Llama of 134.5M parameters."""
LARGE: dict[str, Any] = {
    "vocab_size": 151936,
    "hidden_size": 1536,
    "intermediate_size": 8960,
    "num_hidden_layers": 28,
    "num_attention_heads": 12,
    "num_key_value_heads": 2,
    "max_position_embeddings": 4096,
    "tie_word_embeddings": True,
}
"""A Qwen2 of 1.54B parameters."""


def make(name: str, folder: Path) -> Path:
    """Save a checkpoint by another process and return its folder.

    A process that is started counts its parent's memory at that moment among its own peak (Linux keeps it across exec),
    so whoever measures memory must not have held a model.
    """
    subprocess.run([sys.executable, __file__, name, str(folder)], check=True, stderr=subprocess.DEVNULL)
    return folder


def make_gpt2(folder: Path) -> Path:
    """Save GPT-2 124M and return its folder."""
    from checkpoints import make_checkpoint

    return make_checkpoint(
        folder, "gpt2", n_embd=768, n_layer=12, n_head=12, n_positions=1024, vocab_size=50257, scale=0.02
    )


def make_smol(folder: Path) -> Path:
    """Save the 134M Llama and return its folder."""
    from checkpoints import make_checkpoint

    return make_checkpoint(folder, "llama", **SMOL)


def make_large(folder: Path) -> Path:
    """Save the 1.5B Qwen2 in fp16, a tensor at a time, and return its folder."""
    import numpy as np
    import torch
    from checkpoints import make_tokenizer
    from safetensors.numpy import save_file
    from transformers import AutoModelForCausalLM, Qwen2Config

    config = Qwen2Config(**LARGE, architectures=["Qwen2ForCausalLM"])
    with torch.device("meta"):
        shapes = {k: tuple(v.shape) for k, v in AutoModelForCausalLM.from_config(config).state_dict().items()}
    del shapes["lm_head.weight"]  # tied
    numbers = np.random.default_rng(0)
    folder.mkdir(parents=True)
    places, names = {}, sorted(shapes)
    for shard, start in enumerate(range(0, len(names), 64)):
        file = f"model-{shard:05d}.safetensors"
        tensors = {}
        for name in names[start : start + 64]:
            noise = numbers.standard_normal(shapes[name], np.float32)
            tensors[name] = (1 + 0.1 * noise if "norm" in name else 0.02 * noise).astype(np.float16)
            places[name] = file
        save_file(tensors, folder / file, metadata={"format": "pt"})
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": places}))
    config.dtype = torch.float16
    config.save_pretrained(folder)
    make_tokenizer().save_pretrained(folder)
    return folder


if __name__ == "__main__":
    {"gpt2": make_gpt2, "smol": make_smol, "large": make_large}[sys.argv[1]](Path(sys.argv[2]))
