"""docs/models.md: what was converted, validated and run, from small random checkpoints; `--regen` writes it again.

The whole table takes minutes (`pytest -m slow`); a few of its lines are checked every time.
"""

import re
from functools import partial
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import numpy as np
import pytest
import torch
from checkpoints import make_checkpoint
from engines import events_of, tokens_of
from safetensors.numpy import save_file
from small_models import small
from transformers import CONFIG_MAPPING, AutoModelForCausalLM, GenerationConfig
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

import deploykit.convert.seq2seq.families as seq2seq
from deploykit.artifact import Artifact
from deploykit.config import ConvertConfig, EngineConfig
from deploykit.convert import convert, torch_reference
from deploykit.convert.fused import FAMILIES
from deploykit.engine import Engine, SamplingParams
from deploykit.errors import DeploykitError
from deploykit.spec import DecoderSpec
from deploykit.validate import validate

DOCS = Path(__file__).parents[2] / "docs" / "models.md"
TOKENS = 8
PROMPTS = ([5, 9, 30, 41, 7, 99, 200, 12], [17, 3])

TRACED: dict[str, tuple[str, dict[str, Any]]] = {
    "bart": ("decoder alone; positions told from the mask", {}),
    "bert": ("as a decoder (`is_decoder`)", {}),
    "biogpt": ("", {}),
    "blenderbot": ("decoder alone; positions told from the mask", {}),
    "bloom": ("ALiBi", {"hidden_size": 64, "n_layer": 2, "n_head": 4, "seq_length": 128}),
    "codegen": ("", {}),
    "ctrl": ("", {}),
    "deepseek_v2": ("latent attention, mixture of experts", {}),
    "deepseek_v3": ("latent attention, mixture of experts", {}),
    "falcon": ("multi-query attention", {}),
    "gemma3n_text": (
        "sliding window; the last layers share keys and values, so the cache has fewer",
        {
            "num_hidden_layers": 4,
            "num_kv_shared_layers": 2,
            "layer_types": ["sliding_attention", "full_attention"] * 2,
            "intermediate_size": 96,
            "activation_sparsity_pattern": [0.9, 0.9, 0.0, 0.0],
            "vocab_size_per_layer_input": 318,
        },
    ),
    "gemma4_text": (
        "layers of two head sizes",
        {
            "layer_types": ["sliding_attention", "full_attention"],
            "global_head_dim": 32,
            "vocab_size_per_layer_input": 318,
        },
    ),
    "gpt_neo": ("local attention", {"attention_types": [[["global", "local"], 1]], "window_size": 6}),
    "gpt_oss": ("attention sinks, sliding window, mixture of experts", {}),
    "gptj": ("", {}),
    "granitemoe": ("mixture of experts", {}),
    "mixtral": ("mixture of experts", {}),
    "modernbert-decoder": ("sliding window", {}),
    "mpt": ("ALiBi", {}),
    "olmoe": ("mixture of experts", {}),
    "opt": ("", {}),
    "phimoe": ("mixture of experts", {}),
    "qwen2_moe": ("mixture of experts", {}),
    "qwen3_moe": ("mixture of experts", {}),
    "xglm": ("", {}),
}
"""Model type → note, and fields over those of `small`."""

REFUSED = (
    *("bailing_hybrid", "bamba", "deepseek_v32", "deepseek_v4", "falcon_mamba", "glm_moe_dsa", "jamba"),
    *("kimi_linear", "led", "mamba", "minimax", "mllama", "nemotron_h", "olmo_hybrid", "openai-gpt", "qwen3_5"),
    *("qwen3_next", "recurrent_gemma", "rwkv", "xlnet"),
)
"""Model types of each kind that can't be converted."""

EVERY_TIME = ("gpt2", "gemma2", "phi3", "deepseek_v3")


def _reference(checkpoint: Path) -> list[tuple[int, ...]]:
    """What transformers itself generates, greedily."""
    model = AutoModelForCausalLM.from_pretrained(checkpoint, dtype=torch.float32, attn_implementation="eager").eval()
    # In place of the model's own, whose forced last tokens and ends would be mixed in.
    model.generation_config = GenerationConfig(max_new_tokens=TOKENS, do_sample=False, pad_token_id=2)
    rows = []
    for prompt in PROMPTS:
        ids = torch.tensor([prompt])
        with torch.inference_mode():
            rows.append(model.generate(ids, attention_mask=torch.ones_like(ids)))
    return [tuple(row[0, len(prompt) :].tolist()) for row, prompt in zip(rows, PROMPTS, strict=True)]


def _generated(artifact: Artifact) -> list[tuple[int, ...]]:
    """What the engine generates for all prompts at once."""
    params = SamplingParams(max_tokens=TOKENS, temperature=0.0, ignore_eos=True)
    queues: list[SimpleQueue[Any]] = [SimpleQueue() for _ in PROMPTS]
    with Engine.open(artifact.path, EngineConfig(threads=1)) as engine:
        for prompt, queue in zip(PROMPTS, queues, strict=True):
            engine.submit(prompt, params, on_event=queue.put)
        return [tokens_of(events_of(queue)) for queue in queues]


def _kind_of_cache(spec: DecoderSpec) -> str:
    sizes = set()
    for layer in spec.layers:
        size = f"{layer.key_dim}" if layer.key_dim == layer.value_dim else f"{layer.key_dim} / {layer.value_dim}"
        sizes.add(f"{layer.heads} × {size}")
    return f"{spec.cache}, {len(spec.layers)} × ({', '.join(sorted(sizes))})"


def line(model_type: str, folder: Path) -> str:
    """Convert, validate and run a small random checkpoint, and return its line of the table."""
    note, own = TRACED.get(model_type, ("", {}))
    checkpoint = make_checkpoint(folder / "checkpoint", model_type, **small(model_type, **own))
    artifact = convert(checkpoint, folder / "out")
    manifest = artifact.manifest
    parity = validate(artifact, None, partial(torch_reference, checkpoint)).manifest.parity["fp32"]
    assert parity["reference"] == "pytorch"
    assert _generated(artifact) == _reference(checkpoint)
    method = manifest.history[0].result["method"]
    assert method == ("fused" if model_type in FAMILIES else "traced")
    rows = "last rows" if manifest.decoder.logits_to_keep else "all rows"
    cells = (f"`{model_type}`", manifest.architecture, method, _kind_of_cache(manifest.decoder), rows)
    return f"| {' | '.join(cells)} | {len(parity['cases'])} | {note} |"


def refusal(model_type: str, folder: Path) -> str:
    """Try to convert a small checkpoint that can't be, and return its line of the second table."""
    with pytest.raises(DeploykitError) as caught:
        convert(_hollow(model_type, folder), folder / "out", ConvertConfig(max_context=64))
    said = str(caught.value).replace(f"{folder / 'checkpoint'}: ", "").partition("; docs/models.md")[0]
    assert "\n" not in said
    return f"| `{model_type}` | {said} |"


def _hollow(model_type: str, folder: Path) -> Path:
    """A configuration with weights that nobody gets to read."""
    checkpoint = folder / "checkpoint"
    CONFIG_MAPPING[model_type](**small(model_type)).save_pretrained(checkpoint)
    save_file({f"{number}": np.zeros(1, np.float32) for number in range(100)}, checkpoint / "model.safetensors")
    return checkpoint


HEAD = """# Models

Written by `tests/convert/test_models.py` (`pytest -m slow --regen`) from small random checkpoints. Each was converted
to fp32, compared with PyTorch in every way a decoder is called (`deploykit validate`), and run by the engine, two
prompts at once: its greedy tokens equal those of transformers' `generate`.

*Cache* is what the test's model keeps: layers × (key/value heads × head size). *Logits*: where it says "last rows",
`num_logits_to_keep` saves the head's product for the other rows. *Ways* counts the cases of `validate`. Model types
that are in neither table are traced like those in the first: they work, or one line says what is missing. Of a model
for more than text (`gemma3`, `llama4`) the language part is converted, and compared with the whole model on text.

Encoder-decoders become two graphs, as [3](architecture/03-the-graph.md) says, and are never traced:
`bart`, `deploykit_transformer`, `m2m_100`, `marian`, `mbart`, `mt5`, `pegasus`, `t5`, `umt5`.
`tests/convert/test_seq2seq.py` compares each with PyTorch in every way its graphs are called.

| model type | class | graph | cache | logits | ways | note |
|---|---|---|---|---|---|---|
"""
SECOND = """
## Refused

| model type | what is said |
|---|---|
"""


def committed() -> dict[str, str]:
    """Return the committed table's lines by model type."""
    found = re.findall(r"^\| `([^`]+)` \|.*$", DOCS.read_text(), re.MULTILINE)
    lines = [text for text in DOCS.read_text().splitlines() if text.startswith("| `")]
    return dict(zip(found, lines, strict=True))


def test_names_every_encoder_decoder() -> None:
    assert ", ".join(f"`{model_type}`" for model_type in seq2seq.FAMILIES) in DOCS.read_text()


@pytest.mark.parametrize("model_type", EVERY_TIME)
def test_works_as_the_table_says(tmp_path: Path, model_type: str) -> None:
    assert line(model_type, tmp_path) == committed()[model_type]


@pytest.mark.parametrize("model_type", ["led", "mamba", "mllama"])
def test_is_refused_as_the_table_says(tmp_path: Path, model_type: str) -> None:
    assert refusal(model_type, tmp_path) == committed()[model_type]


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_the_table_is_what_was_found(tmp_path: Path, regen: bool) -> None:
    assert set(TRACED) <= set(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES) - set(FAMILIES)
    assert len(TRACED) >= 20
    works = [line(model_type, tmp_path / model_type) for model_type in [*FAMILIES, *TRACED]]
    refused = [refusal(model_type, tmp_path / model_type) for model_type in REFUSED]
    text = HEAD + "\n".join(works) + "\n" + SECOND + "\n".join(refused) + "\n"
    if regen:
        DOCS.write_text(text)
    assert DOCS.read_text() == text
