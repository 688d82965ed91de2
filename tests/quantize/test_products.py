"""Which products make the logits."""

from pathlib import Path
from typing import Any

import pytest
from checkpoints import make_checkpoint

from deploykit import graph
from deploykit.config import QuantizeConfig
from deploykit.convert import convert
from deploykit.quantize import quantize
from deploykit.quantize.products import find_heads, find_products

HEADS: dict[str, dict[str, Any]] = {
    "llama": {},
    "phi": {},  # a bias
    "cohere": {"logit_scale": 0.5},
    "gemma2": {"final_logit_softcapping": 30.0},
    "nanochat": {"final_logit_softcapping": 15.0},
}


@pytest.mark.parametrize("model_type", HEADS)
def test_the_head_is_found_behind_a_bias_a_scale_and_a_soft_cap(tmp_path: Path, model_type: str) -> None:
    checkpoint = make_checkpoint(tmp_path / "checkpoint", model_type, **HEADS[model_type])
    artifact = convert(checkpoint, tmp_path / "onnx")
    model = graph.load(artifact.graph("fp32"))
    (head,) = find_heads(model.graph, find_products(model.graph)[0])
    assert head.rows == artifact.manifest.decoder.vocab_size
    result = quantize(artifact, tmp_path / "int4", QuantizeConfig(precision="int4"))
    weights = result.manifest.history[-1].result["weights"]
    assert {name for name, entry in weights.items() if entry["bits"] == 8} >= {head.weight.name}
