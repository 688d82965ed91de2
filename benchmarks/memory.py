"""The doctor's estimate of memory beside what an engine really takes, each in a fresh process.

    python benchmarks/memory.py

Random checkpoints of 50 to 80 M parameters. Every row is filled with tokens of the whole vocabulary, then the
process's peak (VmHWM) is read. The estimate must be within 15 %.
"""

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
from results import keep
from transformers import CONFIG_MAPPING, AutoModelForCausalLM

from deploykit.artifact import Artifact
from deploykit.config import ConvertConfig, QuantizeConfig
from deploykit.convert import convert
from deploykit.doctor.machine import has_dot_product
from deploykit.doctor.process import process_bytes
from deploykit.memory import Load, estimate
from deploykit.optimize import optimize
from deploykit.outline import read_outline
from deploykit.quantize import quantize

ALLOWED = 0.15
MODELS: dict[str, dict[str, Any]] = {
    "llama": {
        "hidden_size": 576, "num_hidden_layers": 12, "num_attention_heads": 9, "num_key_value_heads": 3,
        "intermediate_size": 1536, "vocab_size": 49152, "max_position_embeddings": 2048, "tie_word_embeddings": True,
    },
    "gpt2": {"n_embd": 768, "n_layer": 6, "n_head": 12, "n_positions": 1024, "vocab_size": 50257},
    "untied": {
        "hidden_size": 512, "num_hidden_layers": 8, "num_attention_heads": 8, "num_key_value_heads": 4,
        "intermediate_size": 1408, "vocab_size": 32000, "max_position_embeddings": 2048, "tie_word_embeddings": False,
    },
}  # fmt: skip
LOADS = (Load(rows=2, context=256, chunk=128), Load(rows=8, context=1024, chunk=128))
MEASURE = """
import sys
from queue import SimpleQueue
import numpy as np
from deploykit.config import EngineConfig
from deploykit.engine import Engine, SamplingParams
path, precision, rows, context, chunk = sys.argv[1], sys.argv[2], *map(int, sys.argv[3:])
config = EngineConfig(max_rows=rows, max_context=context, prefill_chunk=chunk, threads=2)
# Long enough that the first row still answers when the last one's prompt has been read.
answer = rows * (context // chunk) + 16
random = np.random.default_rng(0)
params = SamplingParams(max_tokens=answer, ignore_eos=True)
with Engine.open(path, config, precision=precision) as engine:
    queues = []
    for _ in range(rows):
        queues.append(SimpleQueue())
        prompt = random.integers(3, engine._spec.vocab_size, context - answer).tolist()
        engine.submit(prompt, params, on_event=queues[-1].put)
    for queue in queues:
        while queue.get().finish_reason is None:
            pass
print(next(line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM")))
"""


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        found = [
            case(artifact, name, precision, load)
            for name in MODELS
            for artifact in [make(name, Path(folder))]
            for precision in artifact.precisions()
            for load in LOADS
        ]
    worst = max(abs(row["difference"]) for row in found)
    keep("memory", {"allowed": ALLOWED, "worst": worst, "cases": found})
    assert worst <= ALLOWED, f"the estimate is off by {worst:.1%}"


def make(name: str, folder: Path) -> Artifact:
    """Return an artifact with every precision of a random model."""
    torch.manual_seed(0)
    kind = "llama" if name == "untied" else name
    settings = CONFIG_MAPPING[kind](bos_token_id=0, eos_token_id=1, pad_token_id=2, **MODELS[name])
    AutoModelForCausalLM.from_config(settings).save_pretrained(folder / name)
    artifact = optimize(convert(folder / name, folder / f"{name}.0", ConvertConfig()), folder / f"{name}.1")
    for precision in ("int8", "int4", "dynamic-int8"):
        artifact = quantize(artifact, folder / f"{name}.{precision}", QuantizeConfig(precision=precision))
    return artifact


def case(artifact: Artifact, name: str, precision: Any, load: Load) -> dict[str, Any]:
    """Return the estimate and the measurement of one model under one load."""
    process, _ = process_bytes(artifact.tokenizer)
    guess = estimate(
        read_outline(artifact.graph(precision)),
        artifact.contract(precision),
        load,
        process=process,
        dot_product=has_dot_product(),
    )
    asked = [artifact.path, precision, load.rows, load.context, load.chunk]
    run = subprocess.run([sys.executable, "-c", MEASURE, *map(str, asked)], capture_output=True, text=True, check=True)
    measured = int(run.stdout) * 1024
    row = {
        "model": name, "precision": precision, "rows": load.rows, "context": load.context,
        "measured_mb": round(measured / 1e6, 1), "estimated_mb": round(guess.peak / 1e6, 1),
        "difference": round(guess.peak / measured - 1, 4), "arithmetic": guess.arithmetic(),
    }  # fmt: skip
    print(json.dumps(row), flush=True)
    return row


if __name__ == "__main__":
    main()
