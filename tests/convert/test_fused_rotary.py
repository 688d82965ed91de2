"""Every kind of rotary embedding equal to PyTorch, within the length the model was trained for and beyond."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
import torch
from checkpoints import make_checkpoint
from numpy.typing import NDArray
from ways import (
    IDS,
    assert_close,
    chunks_in_place,
    left_padded,
    ones,
    prefill,
    right_padded_in_place,
    same_on_the_right,
    token_by_token,
)

from deploykit.artifact import Artifact
from deploykit.config import ConvertConfig
from deploykit.convert import convert, torch_reference
from deploykit.convert.checkpoint import open_checkpoint
from deploykit.convert.reference import load_model
from deploykit.errors import ConfigError
from deploykit.package.right_padded import pad_right_only
from deploykit.validate.decoder import Decoder

THETA = {"rope_theta": 1e4}
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32, **THETA}
LLAMA3 = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, **THETA}
DYNAMIC = {"rope_type": "dynamic", "factor": 4.0, **THETA}
TWO_HEADS = {"num_attention_heads": 2, "num_key_value_heads": 2}
FACTORS = {"short_factor": [1.0, 1.1, 1.2, 1.3, 1.4, 1.5, 1.6, 1.7], "long_factor": [1.0, 2, 3, 4, 5, 6, 7, 8]}
LONGROPE = {"rope_type": "longrope", **FACTORS, **THETA}

STATIC: dict[str, tuple[str, dict[str, Any], bool]] = {
    "linear": ("llama", {"rope_parameters": {"rope_type": "linear", "factor": 4.0, **THETA}}, True),
    "llama3": ("llama", {"rope_parameters": {**LLAMA3, "original_max_position_embeddings": 16}}, True),
    "yarn": ("llama", {"rope_parameters": YARN}, True),
    "yarn by scales": ("llama", {"rope_parameters": {**YARN, "mscale": 0.7, "mscale_all_dim": 0.9}}, True),
    "yarn by factor": ("llama", {"rope_parameters": {**YARN, "attention_factor": 1.3, "truncate": False}}, True),
    "dynamic within its limit": ("llama", {"rope_parameters": DYNAMIC}, True),
    "longrope within its limit": (
        "llama",
        {"rope_parameters": {**LONGROPE, "original_max_position_embeddings": 128, "factor": 4.0}},
        True,
    ),
    "heads the kernel can't turn": ("llama", {"head_dim": 24, "rope_parameters": YARN}, False),
    "heads of 8": ("llama", {"head_dim": 8}, False),
    "a part the kernel can turn": ("stablelm", {"hidden_size": 128, **TWO_HEADS, "partial_rotary_factor": 0.25}, True),
    "a part it can't": ("stablelm", {"hidden_size": 128, "partial_rotary_factor": 0.25}, False),
    "a part by yarn": (
        "glm",
        {"rope_parameters": {**YARN, "partial_rotary_factor": 0.5}, "partial_rotary_factor": 0.5},
        True,
    ),
}
"""Model type, fields of its configuration, and whether the attention kernel turns the heads."""


def kinds(run: Decoder) -> list[str]:
    return [node.op_type for node in ir.load(run.file).graph]


@pytest.mark.parametrize("case", STATIC)
def test_static_kinds(tmp_path: Path, case: str) -> None:
    model_type, fields, in_kernel = STATIC[case]
    checkpoint = make_checkpoint(tmp_path / "checkpoint", model_type, **fields)
    artifact = convert(checkpoint, tmp_path / "out", ConvertConfig(method="fused"))
    run, reference = Decoder(artifact.graph(), artifact.manifest.decoder), torch_reference(checkpoint)
    assert ("RotaryEmbedding" not in kinds(run)) == in_kernel
    for way in (prefill, token_by_token, left_padded, right_padded_in_place, chunks_in_place):
        way(run, reference)


BY_LENGTH: dict[str, tuple[str, dict[str, Any]]] = {
    "dynamic": ("llama", {"max_position_embeddings": 12, "rope_parameters": DYNAMIC}),
    "dynamic with heads of 24": ("llama", {"head_dim": 24, "max_position_embeddings": 12, "rope_parameters": DYNAMIC}),
    "longrope": ("llama", {"rope_parameters": {**LONGROPE, "original_max_position_embeddings": 12, "factor": 4.0}}),
    "longrope of phi3, in part": (
        "phi3",
        {
            "hidden_size": 128,
            "partial_rotary_factor": 0.5,
            "original_max_position_embeddings": 12,
            "rope_parameters": {**LONGROPE, "attention_factor": 1.7, "original_max_position_embeddings": 12},
        },
    ),
}
"""Model types and fields with a rotary embedding whose frequencies change past 12 tokens."""


class Fresh:
    """PyTorch's logits; of a new model each time, since one remembers the longest sequence that it has seen."""

    def __init__(self, checkpoint: Path) -> None:
        self.load: Callable[[], Any] = lambda: load_model(open_checkpoint(checkpoint, ConvertConfig()), ConvertConfig())

    def __call__(self, ids: NDArray[np.int64]) -> NDArray[np.float32]:
        with torch.inference_mode():
            return np.asarray(self.load()(input_ids=torch.from_numpy(ids)[None], use_cache=False).logits[0])

    def steps(self, ids: NDArray[np.int64], start: int) -> list[NDArray[np.float32]]:
        """Return the logits after `start` tokens, after one more, and so on, each computed with a cache."""
        model, found = self.load(), []
        with torch.inference_mode():
            output = model(input_ids=torch.from_numpy(ids)[None, :start], use_cache=True)
            for place in range(start, len(ids) + 1):
                found.append(np.asarray(output.logits[0, -1]))
                if place < len(ids):
                    token = torch.from_numpy(ids)[None, place : place + 1]
                    output = model(input_ids=token, past_key_values=output.past_key_values, use_cache=True)
        return found


@pytest.fixture(scope="module", params=BY_LENGTH)
def long(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Decoder, Fresh]:
    folder = tmp_path_factory.mktemp("long")
    model_type, fields = BY_LENGTH[request.param]
    checkpoint = make_checkpoint(folder / "checkpoint", model_type, **fields)
    artifact = convert(checkpoint, folder / "out", ConvertConfig(method="fused", max_context=48))
    return Decoder(artifact.graph(), artifact.manifest.decoder), Fresh(checkpoint)


@pytest.mark.parametrize("length", [11, 12, 13, 20])
def test_a_prompt_of_any_length(long: tuple[Decoder, Fresh], length: int) -> None:
    run, pytorch = long
    assert_close(run.run(IDS[None, :length], ones(1, length))[0][0], pytorch(IDS[:length]))


@pytest.mark.parametrize("side", ["left", "right"])
def test_a_row_knows_its_own_length_only(long: tuple[Decoder, Fresh], side: str) -> None:
    """Short and long rows in one batch, and steps that lead each past the limit at its own time."""
    run, pytorch = long
    lengths, width, steps = (15, 9, 12), 15, 5
    wanted = {n: pytorch(IDS[:n]) for n in lengths}
    stepped = {n: pytorch.steps(IDS[: n + steps], n) for n in lengths}
    pads = [((width - n, 0) if side == "left" else (0, width - n)) for n in lengths]
    ids = np.stack([np.pad(IDS[:n], pad, constant_values=1) for n, pad in zip(lengths, pads, strict=True)])
    mask = np.stack([np.pad(ones(n), pad) for n, pad in zip(lengths, pads, strict=True)])
    cache = run.empty_cache(len(lengths), 32)
    logits = run.run_in_place(ids, mask, cache)
    for row, n in enumerate(lengths):
        assert_close(logits[row][mask[row] == 1], wanted[n])
    for step in range(1, steps + 1):
        if side == "left":
            mask = np.c_[mask, ones(len(lengths))]
        else:
            mask = (np.arange(width + step) < np.array(lengths)[:, None] + step).astype(np.int64)
        logits = run.run_in_place(np.array([[IDS[n + step - 1]] for n in lengths]), mask, cache)
        for row, n in enumerate(lengths):
            assert_close(logits[row, 0], stepped[n][step])


def test_padded_on_the_right_only_the_logits_are_the_same_bits(long: tuple[Decoder, Fresh], tmp_path: Path) -> None:
    before, _ = long
    served = Artifact.open(shutil.copytree(before.file.parents[1], tmp_path / "served"))
    assert pad_right_only(served, "fp32")
    same_on_the_right(before.file, served.graph(), before.spec)


def test_a_dynamic_context_ends_at_its_factor(tmp_path: Path) -> None:
    checkpoint = make_checkpoint(tmp_path / "checkpoint", "llama", **BY_LENGTH["dynamic"][1])
    with pytest.raises(ConfigError, match="max_context 49 exceeds the 48 positions"):
        convert(checkpoint, tmp_path / "out", ConvertConfig(max_context=49))
    assert convert(checkpoint, tmp_path / "out").manifest.decoder.max_context == 12


def test_a_longrope_context_is_its_longest(tmp_path: Path) -> None:
    checkpoint = make_checkpoint(tmp_path / "checkpoint", "llama", **BY_LENGTH["longrope"][1])
    assert convert(checkpoint, tmp_path / "out").manifest.decoder.max_context == 128
