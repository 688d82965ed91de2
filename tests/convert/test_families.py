"""Every fused family equal to PyTorch, in every way a fused graph is called, with its odd switches on."""

import shutil
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from checkpoints import make_checkpoint
from numpy.typing import NDArray
from ways import EVERYWHERE, IN_PLACE, holes, same_on_the_right

from deploykit.artifact import Artifact
from deploykit.config import ConvertConfig
from deploykit.convert import convert, torch_reference
from deploykit.convert.fused import FAMILIES
from deploykit.package.right_padded import pad_right_only
from deploykit.validate.decoder import Decoder

WINDOW = 5
"""Far shorter than the 20 tokens of the comparisons."""
SLIDING = {"sliding_window": WINDOW}

CASES: dict[str, dict[str, Any]] = {
    "apertus": {"attention_bias": True},
    "arcee": {"attention_bias": True, "mlp_bias": True},
    "cohere": {"use_qk_norm": True, "attention_bias": True},
    "cohere2": {**SLIDING, "layer_types": ["sliding_attention", "full_attention"]},
    "cwm": {**SLIDING, "layer_types": ["full_attention", "sliding_attention"]},
    "ernie4_5": {"use_bias": True},
    "exaone4": {**SLIDING, "layer_types": ["sliding_attention", "full_attention"]},
    "gemma": {"attention_bias": True},
    "gemma2": {**SLIDING, "query_pre_attn_scalar": 24, "attn_logit_softcapping": 2.0, "final_logit_softcapping": 5.0},
    "gemma3_text": {
        **SLIDING,
        "layer_types": ["sliding_attention", "full_attention"],
        "query_pre_attn_scalar": 24,
        "rope_parameters": {
            "sliding_attention": {"rope_type": "default", "rope_theta": 1e4},
            "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 1e6},
        },
    },
    "glm": {},
    "glm with heads that the kernel can't turn": {"head_dim": 24},
    "glm4": {"attention_bias": False},
    "gpt_bigcode": {"multi_query": True, "n_inner": 80},
    "gpt_bigcode with as many key/value heads": {"multi_query": False},
    "gpt_neox": {},
    "gpt_neox one after the other": {"use_parallel_residual": False, "attention_bias": False},
    "granite": {
        "attention_multiplier": 0.1,
        "embedding_multiplier": 3.0,
        "residual_multiplier": 0.3,
        "logits_scaling": 7.0,
        "attention_bias": True,
    },
    "helium": {"attention_bias": True, "mlp_bias": True},
    "hunyuan_v1_dense": {
        "rope_parameters": {"rope_type": "dynamic", "alpha": 1000.0, "factor": 1.0, "rope_theta": 1e4}
    },
    "hunyuan_v1_dense without alpha": {"attention_bias": True},
    "jais2": {},
    "ministral": {**SLIDING, "layer_types": ["sliding_attention", "full_attention"]},
    "mistral": {**SLIDING},
    "mistral without a window": {"sliding_window": None},
    "nanochat": {"final_logit_softcapping": 5.0, "attention_bias": True},
    "nemotron": {"attention_bias": True, "mlp_bias": True},
    "olmo": {"clip_qkv": 1.0, "attention_bias": True},
    "olmo2": {"attention_bias": True},
    "olmo3": {**SLIDING, "layer_types": ["sliding_attention", "full_attention"]},
    "persimmon": {"qk_layernorm": True},
    "phi": {"qk_layernorm": True},
    "phi without norms of heads": {"num_key_value_heads": 2, "hidden_size": 128},
    "phi3": {**SLIDING},
    "phi3 in part": {"partial_rotary_factor": 0.5, "hidden_size": 128},
    "qwen2 in a window": {**SLIDING, "use_sliding_window": True, "max_window_layers": 1},
    "qwen3": {**SLIDING, "use_sliding_window": True, "max_window_layers": 1, "attention_bias": True},
    "seed_oss": {"attention_bias": True, "attention_out_bias": False, "mlp_bias": True},
    "smollm3": {"no_rope_layers": [0, 1], **SLIDING, "use_sliding_window": True, "mlp_bias": True},
    "stablelm": {"qk_layernorm": True, "use_qkv_bias": True},
    "stablelm side by side": {"use_parallel_residual": True},
    "starcoder2": {**SLIDING},
    "vaultgemma": {**SLIDING, "attn_logit_softcapping": 2.0, "final_logit_softcapping": 5.0},
}
"""What is written, beginning with the model type → fields of its configuration."""


def test_no_family_is_left_out() -> None:
    # The two others are held to PyTorch, and to the traced graph, in test_fused.py.
    assert {case.split()[0] for case in CASES} == set(FAMILIES) - {"gpt2", "llama"}


PAIRS = [
    (case, way)
    for case, fields in CASES.items()
    for way in (*EVERYWHERE, *IN_PLACE)
    # A window counts places, as it does in transformers, so padding inside it takes the place of tokens.
    if way is not holes or fields.get("sliding_window") is None
]


def test_the_notes_name_every_family() -> None:
    notes = (Path(__file__).parents[2] / "docs" / "architecture" / "03-the-graph.md").read_text()
    named = notes.partition("## Fused families")[2].partition(".")[0].replace(",", " ").split()
    assert named == list(FAMILIES)


@pytest.fixture(scope="module")
def family_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], tuple[Decoder, Any]]:
    """Of each case, made once: its fused graph, and PyTorch's logits of the same checkpoint."""

    @cache
    def made(case: str) -> tuple[Decoder, Any]:
        folder = tmp_path_factory.mktemp("family")
        checkpoint = make_checkpoint(folder / "checkpoint", case.split(maxsplit=1)[0], **CASES[case])
        artifact = convert(checkpoint, folder / "out", ConvertConfig(method="fused"))
        pytorch = torch_reference(checkpoint)

        @cache
        def logits(ids: bytes) -> NDArray[np.float32]:
            return pytorch(np.frombuffer(ids, np.int64).copy())

        return Decoder(artifact.graph(), artifact.manifest.decoder), lambda ids: logits(ids.tobytes())

    return made


@pytest.mark.parametrize(("case", "way"), PAIRS)
def test_fused_equals_pytorch(
    family_of: Callable[[str], tuple[Decoder, Any]], case: str, way: Callable[..., None]
) -> None:
    way(*family_of(case))


@pytest.mark.parametrize("case", CASES)
def test_padded_on_the_right_only_the_logits_are_the_same_bits(
    family_of: Callable[[str], tuple[Decoder, Any]], case: str, tmp_path: Path
) -> None:
    before, _ = family_of(case)
    served = Artifact.open(shutil.copytree(before.file.parents[1], tmp_path / "served"))
    assert pad_right_only(served, "fp32")
    same_on_the_right(before.file, served.graph(), before.spec)
