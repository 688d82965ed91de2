"""The stage: what is quantized, what is left, what the files hold."""

import json
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import onnxruntime as ort
import pytest
from altering import altered, append, constant, replace_weight, without
from checkpoints import make_checkpoint

from deploykit import graph
from deploykit.artifact import Artifact
from deploykit.config import QuantizeConfig
from deploykit.convert import convert
from deploykit.errors import ArtifactError
from deploykit.quantize import quantize
from deploykit.quantize.blocks import Bits, Blocks
from deploykit.spec import EXACT_INT8, LOGITS_TO_KEEP, VARIANT_FILES, Precision, data_file

WEIGHT_ONLY: list[tuple[Any, Any]] = [("int8", 8), ("int4", 4)]


def logits(artifact: Artifact, precision: Precision) -> Any:
    spec = artifact.manifest.decoder
    options = ort.SessionOptions()
    options.log_severity_level = 3
    options.add_session_config_entry(EXACT_INT8, "1")
    session = ort.InferenceSession(str(artifact.graph(precision)), options)
    ids = np.random.default_rng(1).integers(0, spec.vocab_size, (2, 16))
    feeds: dict[str, Any] = {"input_ids": ids, "attention_mask": np.ones_like(ids), LOGITS_TO_KEEP: np.array(0)}
    feeds |= {t.name: np.zeros((2, int(t.shape[1]), 0, int(t.shape[3])), np.float32) for t in spec.past()}
    return session.run(["logits"], feeds)[0]


def operators(artifact: Artifact, precision: Precision) -> list[str]:
    return [node.op_type for node in graph.load(artifact.graph(precision)).graph]


def initializers(artifact: Artifact, precision: Precision) -> dict[str, Any]:
    values = graph.load(artifact.graph(precision)).graph.initializers
    return {str(name): value.const_value for name, value in values.items()}


def relative(one: Any, other: Any) -> float:
    return float(np.sqrt(np.square(one - other).mean() / np.square(other).mean()))


@pytest.mark.parametrize(("precision", "head_bits", "expected"), [("int8", 8, 8), ("int4", 8, 8), ("int4", 4, 4)])
@pytest.mark.parametrize("kind", ["tied", "untied"])
def test_head_and_table_keep_the_bits_they_are_given(
    kind: str, precision: Any, head_bits: Any, expected: int, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    config = QuantizeConfig(precision=precision, head_bits=head_bits)
    result = quantize(request.getfixturevalue(kind), tmp_path / "out", config)
    nodes = list(graph.load(result.graph(precision)).graph)
    ends = [n for n in nodes if n.outputs[0].name == "logits" or n.op_type == "GatherBlockQuantized"]
    assert [node.attributes.get_int("bits") for node in ends] == [expected, expected]
    inner = {n.attributes.get_int("bits") for n in nodes if n.op_type == "MatMulNBits" and n not in ends}
    assert inner == {8 if precision == "int8" else 4}


@pytest.mark.parametrize("precision", ["int4", "int4-fp16"])
@pytest.mark.parametrize(("kind", "shared"), [("tied", True), ("untied", False)])
@pytest.mark.parametrize(("head", "table"), [(4, 8), (8, 4), (4, 4)])
def test_a_table_keeps_its_own_bits_and_shares_the_heads_where_they_are_as_many(
    head: Any, table: Any, kind: str, shared: bool, precision: Any, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    source: Artifact = request.getfixturevalue(kind)
    config = QuantizeConfig(precision=precision, block_size=64, head_bits=head, table_bits=table)
    result = quantize(source, tmp_path / "out", config)
    # The last product is the head.
    nodes = {node.op_type: node for node in graph.load(result.graph(precision)).graph}
    product, lookup = nodes["MatMulNBits"], nodes["GatherBlockQuantized"]
    assert [node.attributes.get_int("bits") for node in (product, lookup)] == [head, table]
    stored = initializers(result, precision)
    data = [stored[str(value.name)] for value in (product.inputs[1], lookup.inputs[0]) if value is not None]
    assert (data[0].offset == data[1].offset) == (shared and head == table)
    if precision == "int4":
        assert 0 < relative(logits(result, precision), logits(source, "fp32")) < 1


@pytest.mark.parametrize(("precision", "bits"), WEIGHT_ONLY)
@pytest.mark.parametrize("kind", ["tied", "untied"])
def test_every_product_and_the_table_are_quantized(
    kind: str, precision: Any, bits: int, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    source: Artifact = request.getfixturevalue(kind)
    products = operators(source, "fp32").count("MatMul")
    result = quantize(source, tmp_path / "out", QuantizeConfig(precision=precision))
    kinds = operators(result, precision)
    assert (kinds.count("MatMulNBits"), kinds.count("MatMul")) == (products, 0)
    assert kinds.count("GatherBlockQuantized") == 1
    record = result.manifest.history[-1]
    options = {"precision": precision, "block_size": 32, "rounding": "rtn", "symmetric": True}
    assert record.options == options | ({"head_bits": 8} if bits == 4 else {})
    assert (record.result["products"], record.result["embeddings"], record.result["products_left"]) == (products, 1, {})
    assert record.result["bytes_after"] < record.result["bytes_before"] / (2 if bits == 8 else 3)
    # A fraction of the weights' own error, which is 0.5 % and 7 % of a product with normal weights.
    assert 0 < relative(logits(result, precision), logits(source, "fp32")) < (0.1 if bits == 8 else 1)


def rounded(artifact: Artifact, precision: Precision, out: Path, source: Artifact) -> Artifact:
    """`source` with the weights that `artifact` holds in fewer bits, as fp32."""
    stored = {name: tensor.numpy() for name, tensor in initializers(artifact, precision).items()}

    def change(graph: ir.Graph) -> None:
        for name in [name for name in stored if name.endswith(".scales")]:
            stem = name.removesuffix(".scales")
            bits: Bits = 8 if f"{stem}.q8" in stored else 4
            plain = stem.removesuffix(".T")
            blocks = Blocks(
                bits=bits,
                data=stored[f"{stem}.q{bits}"],
                scales=stored[name],
                zeros=stored.get(f"{stem}.zeros"),
            )
            size = graph.initializers[plain].shape
            assert size is not None
            weight = blocks.weights(int(size.numpy()[0 if stem != plain else 1]))
            replace_weight(graph, plain, lambda _, w=weight, t=stem != plain: w.T if t else w)  # type: ignore[misc]

    return altered(source, out, change)


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("rounding", ["rtn", "hqq", "gptq"])
@pytest.mark.parametrize("precision", ["int8", "int4"])
def test_the_graph_computes_what_fp32_does_with_the_rounded_weights(
    precision: Any, rounding: Any, symmetric: bool, tied: Artifact, tmp_path: Path
) -> None:
    config = QuantizeConfig(precision=precision, rounding=rounding, symmetric=symmetric)
    result = quantize(tied, tmp_path / "out", config)
    reference = rounded(result, precision, tmp_path / "rounded", tied)
    assert relative(logits(reference, "fp32"), logits(tied, "fp32")) > 0
    # What is left between them is the rounding of activations to int8.
    assert relative(logits(result, precision), logits(reference, "fp32")) < 0.1


def test_token_ids_in_another_shape_are_looked_up_quantized_too(tied: Artifact, tmp_path: Path) -> None:
    def change(graph: ir.Graph) -> None:
        lookup = next(node for node in graph if node.op_type == "Gather" and node.inputs[1] in graph.inputs)
        same = constant(graph, "planted.shape", np.array([0, -1]))
        reshape = ir.node("Reshape", [lookup.inputs[1], same])
        graph.insert_before(lookup, reshape)
        lookup.replace_input_with(1, reshape.outputs[0])

    result = quantize(altered(tied, tmp_path / "source", change), tmp_path / "out")
    assert operators(result, "int8").count("GatherBlockQuantized") == 1
    assert relative(logits(result, "int8"), logits(tied, "fp32")) < 0.1


@pytest.mark.parametrize(("precision", "bits"), WEIGHT_ONLY)
def test_a_tied_head_and_its_table_share_one_place(precision: Any, bits: int, tied: Artifact, tmp_path: Path) -> None:
    result = quantize(tied, tmp_path / "out", QuantizeConfig(precision=precision))
    nodes = list(graph.load(result.graph(precision)).graph)
    table = next(node for node in nodes if node.op_type == "GatherBlockQuantized").inputs[0]
    head = [node for node in nodes if node.op_type == "MatMulNBits"][-1].inputs[1]
    places = [value.const_value for value in (table, head) if value is not None]
    assert all(isinstance(tensor, ir.ExternalTensor) for tensor in places)
    assert len({(tensor.offset, tensor.nbytes) for tensor in places}) == 1  # type: ignore[union-attr]


@pytest.mark.parametrize("precision", ["int8", "int4"])
def test_a_table_takes_the_largest_block_that_its_rows_hold_whole(
    precision: Any, tied: Artifact, tmp_path: Path
) -> None:
    result = quantize(tied, tmp_path / "out", QuantizeConfig(precision=precision, block_size=128))
    nodes = list(graph.load(result.graph(precision)).graph)
    ends = [n for n in nodes if n.outputs[0].name == "logits" or n.op_type == "GatherBlockQuantized"]
    assert [node.attributes.get_int("block_size") for node in ends] == [64, 64]
    inner = {n.attributes.get_int("block_size") for n in nodes if n.op_type == "MatMulNBits" and n not in ends}
    assert inner == {128}
    assert relative(logits(result, precision), logits(tied, "fp32")) < (0.1 if precision == "int8" else 1)


def test_rows_that_are_no_whole_blocks_stay_a_float_table(tmp_path: Path) -> None:
    sizes = {"hidden_size": 40, "num_attention_heads": 1, "num_key_value_heads": 1}
    source = convert(make_checkpoint(tmp_path / "checkpoint", "qwen2", **sizes), tmp_path / "source")
    result = quantize(source, tmp_path / "out", QuantizeConfig(precision="int8"))
    kinds = operators(result, "int8")
    assert "GatherBlockQuantized" not in kinds
    assert "MatMul" not in kinds
    assert result.manifest.history[-1].result["embeddings"] == 0
    assert relative(logits(result, "int8"), logits(source, "fp32")) < 0.1


def test_the_artifact_serves_the_new_model_and_keeps_fp32(tied: Artifact, tmp_path: Path) -> None:
    result = quantize(tied.path, tmp_path / "out", QuantizeConfig(precision="int4"))
    Artifact.open(result.path)
    assert result.manifest.served == "int4"
    assert result.precisions() == ["fp32", "int4"]
    for name in ("onnx/model.onnx", "onnx/model.onnx_data", "tokenizer.json"):
        assert result.manifest.files[name] == tied.manifest.files[name]
    assert data_file(VARIANT_FILES["int4"]) in result.manifest.files
    flags = [
        json.loads((artifact.path / "config.json").read_text())["transformers.js_config"]["use_external_data_format"]
        for artifact in (tied, result)
    ]
    assert flags[1] == {**flags[0], "model_q4.onnx": 1}


def test_two_precisions_live_side_by_side_and_one_is_replaced(tied: Artifact, tmp_path: Path) -> None:
    one = quantize(tied, tmp_path / "one", QuantizeConfig(precision="int8"))
    two = quantize(one, tmp_path / "two", QuantizeConfig(precision="int4"))
    three = quantize(two, tmp_path / "three", QuantizeConfig(precision="int8", block_size=64))
    assert three.precisions() == ["fp32", "int8", "int4"]
    assert three.manifest.served == "int8"
    assert three.manifest.files["onnx/model_q4.onnx"] == two.manifest.files["onnx/model_q4.onnx"]
    assert three.manifest.files["onnx/model_int8.onnx"] != one.manifest.files["onnx/model_int8.onnx"]


def test_none_serves_fp32_and_adds_nothing(tied: Artifact, tmp_path: Path) -> None:
    result = quantize(tied, tmp_path / "out", QuantizeConfig(precision="none"))
    kept = [{k: v for k, v in a.manifest.files.items() if k != "README.md"} for a in (result, tied)]
    assert kept[0] == kept[1]
    assert result.manifest.served == "fp32"
    assert [record.stage for record in result.manifest.history][-1] == "quantize"


@pytest.mark.parametrize("precision", ["int8", "dynamic-int8"])
@pytest.mark.parametrize("turned", [False, True])
def test_a_plain_gemm_is_a_product_too(precision: Any, turned: bool, tied: Artifact, tmp_path: Path) -> None:
    size = tied.manifest.decoder.vocab_size
    rng = np.random.default_rng(0)

    def gemm(graph: ir.Graph, **attributes: Any) -> None:
        weight = constant(graph, "square", rng.standard_normal((size, size)).astype(np.float32) / size**0.5)
        bias = constant(graph, "bias", rng.standard_normal(size).astype(np.float32))
        flat, back = constant(graph, "flat", np.array([-1, size])), constant(graph, "back", np.array([2, -1, size]))
        append(graph, "logits", "Reshape", flat)
        append(graph, "logits", "Gemm", weight, bias, **attributes)
        append(graph, "logits", "Reshape", back)

    source = altered(tied, tmp_path / "source", lambda graph: gemm(graph, transB=int(turned)))
    products = operators(source, "fp32").count("MatMul") + 1
    result = quantize(source, tmp_path / "out", QuantizeConfig(precision=precision))
    assert "Gemm" not in operators(result, precision)
    assert result.manifest.history[-1].result["products"] == products
    assert relative(logits(result, precision), logits(source, "fp32")) < 0.2


def test_what_is_left_is_counted_by_reason(tied: Artifact, tmp_path: Path) -> None:
    def change(graph: ir.Graph) -> None:
        size = tied.manifest.decoder.vocab_size
        append(graph, "logits", "MatMul", constant(graph, "stack", np.eye(size, dtype=np.float32)[None]))
        logits = next(value for value in graph.outputs if value.name == "logits")
        turned = ir.node("Transpose", [logits], attributes={"perm": [0, 2, 1]})
        gram = ir.node("MatMul", [turned.outputs[0], logits])
        zero = ir.node("Sub", [gram.outputs[0], gram.outputs[0]])
        total = ir.node("ReduceSum", [zero.outputs[0]], attributes={"keepdims": 0})
        graph.extend([turned, gram, zero, total])
        append(graph, "logits", "Add", total.outputs[0])

    result = quantize(altered(tied, tmp_path / "source", change), tmp_path / "out")
    assert result.manifest.history[-1].result["products_left"] == {
        "weight has 3 axes, not 2": 1,
        "both factors are activations": 1,
    }


def test_memory_follows_the_largest_weight_not_the_model(tied: Artifact, tmp_path: Path) -> None:
    size, count = tied.manifest.decoder.vocab_size, 6
    wide = 12000

    def change(graph: ir.Graph) -> None:
        for number in range(count):
            there = constant(graph, f"there{number}", np.ones((size, wide), np.float32) * (number + 1))
            back = constant(graph, f"back{number}", np.ones((wide, size), np.float32) / wide)
            append(graph, "logits", "MatMul", there)
            append(graph, "logits", "MatMul", back)

    source = altered(tied, tmp_path / "source", change)
    tracemalloc.start()
    try:
        quantize(source, tmp_path / "out")
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    # One packed weight with its scales (9/8 of a byte a weight) and the arrays of one chunk, out of 12 weights.
    assert peak < 2 * size * wide + (12 << 20)


def test_an_artifact_without_fp32_is_refused(tied: Artifact, tmp_path: Path) -> None:
    source = without(quantize(tied, tmp_path / "both"), tmp_path / "source", "onnx/model.onnx", "onnx/model.onnx_data")
    with pytest.raises(ArtifactError, match="no fp32 model in it, only int8"):
        quantize(source, tmp_path / "out", QuantizeConfig(precision="int4"))
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("precision", ["int8", "dynamic-int8"])
def test_a_graph_without_products_is_refused(precision: Any, tied: Artifact, tmp_path: Path) -> None:
    def change(graph: ir.Graph) -> None:
        for node in list(graph):
            if node.op_type == "MatMul" and node.inputs[1] is not None:
                # No longer constant: whatever it was, plus a number that depends on the ids.
                ids = next(value for value in graph.inputs if value.name == "input_ids")
                cast = ir.node("Cast", [ids], attributes={"to": ir.DataType.FLOAT})
                total = ir.node("ReduceSum", [cast.outputs[0]], attributes={"keepdims": 0})
                weight = ir.node("Add", [node.inputs[1], total.outputs[0]])
                graph.extend([cast, total, weight])
                node.replace_input_with(1, weight.outputs[0])

    source = altered(tied, tmp_path / "source", change)
    with pytest.raises(ArtifactError, match="no product with constant weights"):
        quantize(source, tmp_path / "out", QuantizeConfig(precision=precision))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["source"]


def test_a_damaged_weight_leaves_nothing_behind(tied: Artifact, tmp_path: Path) -> None:
    product = next(node for node in graph.load(tied.graph("fp32")).graph if node.op_type == "MatMul")
    name = str(product.inputs[1].name)  # type: ignore[union-attr]

    def damage(array: Any) -> Any:
        broken = array.copy()
        broken[0, 0] = np.nan
        return broken

    source = altered(tied, tmp_path / "source", lambda graph: replace_weight(graph, name, damage))
    with pytest.raises(ArtifactError, match=f"weight '{name}' holds NaN or Inf"):
        quantize(source, tmp_path / "out")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["source"]
