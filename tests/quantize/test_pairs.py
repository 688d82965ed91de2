"""Both graphs of an encoder-decoder in fewer bits, and what it can't have yet."""

import json
from pathlib import Path
from typing import Literal

import numpy as np
import onnx_ir as ir
import pytest

from deploykit import graph
from deploykit.artifact import Artifact
from deploykit.config import Quantization, QuantizeConfig
from deploykit.errors import ConfigError
from deploykit.quantize import quantize
from deploykit.quantize.products import find_products
from deploykit.validate.decoder import Decoder

Small = Literal["int8", "int4", "dynamic-int8"]


def kinds(file: Path) -> set[str]:
    return {node.op_type for node in graph.load(file).graph}


@pytest.mark.parametrize("precision", ["int8", "int4", "dynamic-int8"])
def test_no_product_with_a_weight_is_left_in_either_graph(pair: Artifact, tmp_path: Path, precision: Small) -> None:
    result = quantize(pair, tmp_path / "out", QuantizeConfig(precision=precision))
    assert result.manifest.served == precision
    assert result.precisions() == ["fp32", precision]
    product = "MatMulIntegerToFloat" if precision == "dynamic-int8" else "MatMulNBits"
    for file in result.graphs(precision):
        products, _ = find_products(graph.load(file).graph)
        assert not products
        assert product in kinds(file)
    record = result.manifest.history[-1].result
    wanted = sum(len(find_products(graph.load(file).graph)[0]) for file in pair.graphs("fp32"))
    assert (record["products"], record["embeddings"]) == (wanted, 2)
    assert record["bytes_after"] == result.size_of(precision) < record["bytes_before"] / 2.5
    assert record["bytes_before"] == pair.size_of("fp32")


def test_the_encoder_computes_nearly_the_same(pair: Artifact, tmp_path: Path) -> None:
    result = quantize(pair, tmp_path / "out", QuantizeConfig(precision="int8"))
    source = np.arange(3, 40)
    exact, near = (Decoder.of(result, precision).read([source]).source for precision in ("fp32", "int8"))
    assert exact is not None
    assert near is not None
    error = np.sqrt(np.mean((near.states - exact.states) ** 2) / np.mean(exact.states**2))
    assert 0 < error < 0.05


def test_transformers_js_is_told_of_both_files(pair: Artifact, tmp_path: Path) -> None:
    result = quantize(pair, tmp_path / "out", QuantizeConfig(precision="int8"))
    told = json.loads((result.path / "config.json").read_text())["transformers.js_config"]["use_external_data_format"]
    assert {"decoder_model_merged_int8.onnx", "encoder_model_int8.onnx"} <= set(told)


def bits_of(file: Path) -> dict[str, int]:
    nodes = [node for node in graph.load(file).graph if node.op_type == "MatMulNBits"]
    return {str(ir_name(node)): node.attributes["bits"].as_int() for node in nodes}


def ir_name(node: ir.Node) -> str | None:
    return node.inputs[1].name if node.inputs[1] else None


def test_more_bits_reach_the_graph_that_has_the_name(pair: Artifact, tmp_path: Path) -> None:
    config = QuantizeConfig(precision="int4", more_bits=("encoder.block.0",))
    result = quantize(pair, tmp_path / "out", config)
    decoder, encoder = (bits_of(file) for file in result.graphs("int4"))
    assert {bits for name, bits in encoder.items() if name.startswith("encoder.block.0")} == {8}
    assert {bits for name, bits in encoder.items() if name.startswith("encoder.block.1")} == {4}
    # The head keeps 8 bits as ever.
    assert sorted(decoder.values()).count(8) == 1
    weights = result.manifest.history[-1].result["weights"]
    assert any(name.startswith("encoder/encoder.block.0") and found["bits"] == 8 for name, found in weights.items())
    with pytest.raises(ConfigError, match=r"more_bits 'nowhere': in none of the"):
        quantize(pair, tmp_path / "wrong", QuantizeConfig(precision="int4", more_bits=("nowhere",)))


@pytest.mark.parametrize("precision", ["fp16", "int4-fp16"])
def test_half_precision_is_refused(pair: Artifact, tmp_path: Path, precision: Quantization) -> None:
    with pytest.raises(ConfigError, match=f"quantize {precision}: an encoder-decoder has no half precision yet"):
        quantize(pair, tmp_path / "out", QuantizeConfig(precision=precision))
    assert not (tmp_path / "out").exists()
