"""fp16 and int4-fp16: the callers' cases in half precision, what stays fp32, and what the files hold."""

import json
import tracemalloc
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
from altering import altered, append, constant, replace_weight
from checkpoints import make_checkpoint
from numpy.typing import NDArray

from deploykit import graph as graphs
from deploykit.artifact import Artifact
from deploykit.config import ConvertConfig, QuantizeConfig
from deploykit.convert import convert
from deploykit.errors import ArtifactError
from deploykit.progress import silent
from deploykit.quantize import quantize
from deploykit.quantize.autocast import FILLER, LARGEST
from deploykit.quantize.half import halve
from deploykit.spec import LOGITS, Precision
from deploykit.validate.cases import Rows, cases_for, row_lengths
from deploykit.validate.decoder import Decoder

Array = NDArray[Any]
FP16, FP32 = ir.DataType.FLOAT16, ir.DataType.FLOAT

FAMILIES: Mapping[str, tuple[str, dict[str, Any]]] = {
    "llama": ("llama", {}),
    "gpt2, tied": ("gpt2", {}),
    "traced": ("llama", {"method": "traced"}),
}


@pytest.fixture(scope="module", params=list(FAMILIES))
def source(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    """An fp32 artifact of a model whose logits lie apart."""
    family, options = FAMILIES[request.param]
    folder = tmp_path_factory.mktemp("half")
    return convert(make_checkpoint(folder / "checkpoint", family), folder / "fp32", ConvertConfig(**options))


def decoder(artifact: Artifact, precision: Precision) -> Decoder:
    return Decoder(artifact.graph(precision), artifact.contract(precision))


def random_rows(spec: Any) -> Rows:
    random, (long, ragged) = np.random.default_rng(2), row_lengths(spec.max_context)
    return Rows(
        long=random.integers(0, spec.vocab_size, long),
        ragged=tuple(random.integers(0, spec.vocab_size, length) for length in ragged),
    )


def logits(artifact: Artifact, precision: Precision) -> Array:
    return relogits(decoder(artifact, precision))


def relogits(model: Decoder) -> Array:
    ids = np.random.default_rng(1).integers(0, model.spec.vocab_size, (2, 16))
    return model.run(ids, np.ones_like(ids))[0]


def relative(one: Array, other: Array) -> float:
    return float(np.sqrt(np.square(one - other).mean() / np.square(other).mean()))


def test_every_case_of_the_callers_passes_in_half_precision(source: Artifact, tmp_path: Path) -> None:
    result = quantize(source, tmp_path / "out", QuantizeConfig(precision="fp16"))
    spec = result.contract("fp16")
    rows, half, full = random_rows(spec), decoder(result, "fp16"), decoder(result, "fp32")
    expected = [full.run(row[None], np.ones((1, len(row)), np.int64))[0][0] for row in rows.all()]
    cases = cases_for(spec)
    assert any("left-padded" in name for name in cases) == (spec.cache == "concatenated")
    for name, case in cases.items():
        for seen in case(half, rows):
            wanted = expected[seen.row][seen.start : seen.start + len(seen.logits)]
            assert seen.logits.dtype == np.float32
            # 11 bits of each number, through two layers of wide weights.
            assert np.abs(seen.logits - wanted).max() <= 0.05 * np.sqrt(np.square(wanted).mean()), name


def test_the_graph_takes_and_gives_what_its_contract_says(source: Artifact, tmp_path: Path) -> None:
    result = quantize(source, tmp_path / "out", QuantizeConfig(precision="fp16"))
    graph = graphs.load(result.graph("fp16")).graph
    types = {value.name: value.dtype for value in (*graph.inputs, *graph.outputs)}
    for tensor in (*result.contract("fp16").inputs(), *result.contract("fp16").outputs()):
        assert types.pop(tensor.name) == {"int64": ir.DataType.INT64, "float32": FP32, "float16": FP16}[tensor.dtype]
    assert not types
    attention = [node for node in graph if node.op_type == "GroupQueryAttention"]
    assert all(len(node.inputs) <= 10 for node in attention)
    assert bool(attention) == (source.manifest.decoder.cache == "shared")
    if attention:
        assert "Expand" not in [node.op_type for node in graph], "the bias' own nodes"
    record = result.manifest.history[-1]
    assert (record.stage, record.options) == ("quantize", {"precision": "fp16"})
    assert record.result["attention_biases_removed"] == len(attention)
    assert record.result["products"] >= 2 * 4 + 1
    assert record.result["bytes_after"] < 0.6 * record.result["bytes_before"]
    large = [value.const_value for value in graph.initializers.values() if value.const_value is not None]
    assert {tensor.dtype for tensor in large if tensor.nbytes >= 1024} == {FP16}
    assert result.manifest.served == "fp16"
    told = json.loads((result.path / "config.json").read_text())["transformers.js_config"]
    assert told["kv_cache_dtype"] == {"fp16": "float16"}
    assert told["use_external_data_format"]["model_fp16.onnx"] == 1


def test_int4_in_half_precision_costs_little_more_than_int4(tied: Artifact, tmp_path: Path) -> None:
    small = altered(tied, tmp_path / "source", _narrow)
    one = quantize(small, tmp_path / "one", QuantizeConfig(precision="int4"))
    both = quantize(one, tmp_path / "both", QuantizeConfig(precision="int4-fp16"))
    assert both.precisions() == ["fp32", "int4", "int4-fp16"]
    assert (
        0
        < relative(logits(both, "int4-fp16"), logits(both, "int4"))
        < 0.5 * relative(logits(both, "int4"), logits(both, "fp32"))
    )
    graph = graphs.load(both.graph("int4-fp16")).graph
    nodes = list(graph)
    stored = {value.const_value.dtype for value in graph.initializers.values() if value.const_value is not None}
    assert FP32 not in stored
    table = next(node for node in nodes if node.op_type == "GatherBlockQuantized").inputs[0]
    head = [node for node in nodes if node.op_type == "MatMulNBits"][-1].inputs[1]
    places = [value.const_value for value in (table, head) if value is not None]
    assert len({(tensor.offset, tensor.nbytes) for tensor in places}) == 1  # type: ignore[union-attr]
    told = json.loads((both.path / "config.json").read_text())["transformers.js_config"]
    assert told["kv_cache_dtype"] == {"q4f16": "float16"}


def _narrow(graph: ir.Graph) -> None:
    """Make the layers' products small beside the residual stream, so that rounding isn't all there is."""
    for name in [str(name) for name in graph.initializers]:
        if name.endswith("proj.weight"):
            replace_weight(graph, name, lambda weight: weight * np.float32(0.2))


def test_a_tied_head_and_its_table_are_stored_once(tied: Artifact, tmp_path: Path) -> None:
    result = quantize(tied, tmp_path / "out", QuantizeConfig(precision="fp16"))
    graph = graphs.load(result.graph("fp16")).graph
    spec = result.manifest.decoder
    sizes = [v.const_value.size for v in graph.initializers.values() if v.const_value is not None]
    assert sum(size >= spec.vocab_size * 64 for size in sizes) == 1


def test_files_are_the_same_again(untied: Artifact, tmp_path: Path) -> None:
    one, two = (quantize(untied, tmp_path / name, QuantizeConfig(precision="int4-fp16")) for name in ("one", "two"))
    assert one.manifest.files == two.manifest.files


@pytest.mark.parametrize(("value", "shown"), [(1e5, r"1e\+05"), (-7e4, r"-7e\+04")])
def test_a_weight_too_large_for_fp16_is_named(value: float, shown: str, untied: Artifact, tmp_path: Path) -> None:
    def enlarge(weight: Array) -> Array:
        weight = weight.copy()
        weight[3, 2] = value
        return weight

    source = altered(untied, tmp_path / "source", lambda graph: replace_weight(graph, "lm_head.weight", enlarge))
    with pytest.raises(ArtifactError, match=rf"weight 'lm_head\.weight' reaches {shown}, and fp16 ends at 65504"):
        quantize(source, tmp_path / "out", QuantizeConfig(precision="fp16"))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["source"]


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_weight_that_is_not_finite_is_named(value: float, untied: Artifact, tmp_path: Path) -> None:
    source = altered(
        untied, tmp_path / "source", lambda graph: replace_weight(graph, "model.norm.weight", lambda w: w * 0 + value)
    )
    with pytest.raises(ArtifactError, match=r"weight 'model\.norm\.weight' holds NaN or Inf"):
        quantize(source, tmp_path / "out", QuantizeConfig(precision="fp16"))


@pytest.mark.parametrize("filler", [-np.inf, np.finfo(np.float32).min, -1e9])
@pytest.mark.parametrize("added", [True, False])
def test_a_masks_filler_stays_finite(filler: float, added: bool, untied: Artifact, tmp_path: Path) -> None:
    """The last half of the vocabulary is masked, by a sum or by a choice."""
    size = untied.manifest.decoder.vocab_size

    def change(graph: ir.Graph) -> None:
        mask = np.where(np.arange(size) < size // 2, 0, np.float32(filler)).astype(np.float32)
        if added:
            append(graph, LOGITS, "Add", constant(graph, "mask", mask))
        else:
            node = ir.node(
                "Where", [constant(graph, "hidden", mask < 0), constant(graph, "mask", np.array(filler, np.float32))]
            )
            old = next(value for value in graph.outputs if value.name == LOGITS)
            append(graph, LOGITS, "Max", old)
            last = graph[-1]
            where = ir.node("Where", [node.inputs[0], node.inputs[1], last.inputs[0]])
            graph.insert_before(last, where)
            last.replace_input_with(0, where.outputs[0])
            last.replace_input_with(1, where.outputs[0])

    source = altered(untied, tmp_path / "source", change)
    result = quantize(source, tmp_path / "out", QuantizeConfig(precision="fp16"))
    plain, masked = logits(untied, "fp32"), logits(result, "fp16")
    assert np.isfinite(masked).all()
    assert (masked[..., size // 2 :] < 0.9 * FILLER).all()
    assert relative(masked[..., : size // 2], plain[..., : size // 2]) < 0.02


def small_graph(file: Path, nodes: list[ir.Node], inputs: list[ir.Value], arrays: dict[str, Array]) -> Path:
    """Write nodes whose last output is the logits, and return the file in fp16."""
    values = {v.name: v for node in nodes for v in node.inputs if v is not None and v.name in arrays}
    for name, array in arrays.items():
        tensor = ir.tensor(array, name=name)
        value = values[name]
        value.const_value, value.shape, value.type = tensor, ir.Shape(array.shape), ir.TensorType(tensor.dtype)
    output = nodes[-1].outputs[0]
    output.name, output.type, output.shape = LOGITS, ir.TensorType(FP32), ir.Shape([None, None])
    graph = ir.Graph(
        inputs, [output], nodes=nodes, initializers=[values[name] for name in arrays], opset_imports={"": 20}
    )
    graphs.save(ir.Model(graph, ir_version=10), file)
    halve(file, file.with_name("half.onnx"), progress=silent)
    return file.with_name("half.onnx")


def run(file: Path, feeds: dict[str, Array]) -> Array:
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    return np.asarray(ort.InferenceSession(str(file), options).run(None, feeds)[0])


@pytest.mark.parametrize("square", ["Pow", "Mul"])
def test_squares_that_fp16_can_not_hold_are_taken_in_fp32(square: str, tmp_path: Path) -> None:
    """An RMS norm as traced graphs have it, of a stream whose squares end beyond 65504."""
    random = np.random.default_rng(0)
    x = ir.val("x", dtype=FP32, shape=[None, 32])
    two, epsilon, scale, weight, axis = (ir.val(name) for name in ("two", "epsilon", "scale", "weight", "axis"))
    squared = ir.node(square, [x, two if square == "Pow" else x])
    mean = ir.node("ReduceMean", [squared.outputs[0], axis], attributes={"keepdims": 1})
    root = ir.node("Sqrt", [ir.node("Add", [mean.outputs[0], epsilon]).outputs[0]])
    nodes: list[ir.Node] = [squared, mean, root.inputs[0].producer(), root]  # type: ignore[union-attr, list-item]
    nodes.append(ir.node("Div", [x, root.outputs[0]]))
    nodes.append(ir.node("Mul", [nodes[-1].outputs[0], scale]))
    nodes.append(ir.node("MatMul", [nodes[-1].outputs[0], weight]))
    arrays: dict[str, Array] = {"two": np.array(2, np.float32)} if square == "Pow" else {}
    arrays |= {
        "axis": np.array([-1]),
        "epsilon": np.array(1e-6, np.float32),
        "scale": random.random(32).astype(np.float32),
    }
    arrays["weight"] = random.standard_normal((32, 8)).astype(np.float32)
    file = small_graph(tmp_path / "source.onnx", nodes, [x], arrays)
    given = (random.standard_normal((4, 32)) * 2000).astype(np.float16)
    wide = given.astype(np.float32)
    wanted = wide / np.sqrt((wide**2).mean(axis=-1, keepdims=True)) * arrays["scale"] @ arrays["weight"]
    assert relative(run(file, {"x": given}), wanted) < 2e-3


def test_angles_of_late_positions_are_computed_in_fp32(tmp_path: Path) -> None:
    """Position times frequency, as traced rotary embeddings have it: fp16 counts in steps of 16 up there."""
    ids = ir.val("input_ids", dtype=ir.DataType.INT64, shape=[None])
    table, frequencies, shape = ir.val("table"), ir.val("frequencies"), ir.val("shape")
    rows = ir.node("Gather", [table, ids])
    count = ir.node("Cast", [ids], attributes={"to": FP32})
    column = ir.node("Unsqueeze", [count.outputs[0], ir.val("last")])
    turned = ir.node("Reshape", [frequencies, shape])
    angles = ir.node("MatMul", [column.outputs[0], turned.outputs[0]])
    cosine = ir.node("Cos", [angles.outputs[0]])
    nodes = [rows, count, column, turned, angles, cosine, ir.node("Mul", [rows.outputs[0], cosine.outputs[0]])]
    values: dict[str, Array] = {
        "table": np.ones((30000, 4), np.float32),
        "frequencies": np.array([1, 0.3, 0.07, 0.001], np.float32),
        "shape": np.array([1, 4]),
        "last": np.array([1]),
    }
    file = small_graph(tmp_path / "source.onnx", nodes, [ids], values)
    asked = np.array([7, 12345, 29999])
    wanted = np.cos(asked[:, None] * values["frequencies"])
    np.testing.assert_allclose(run(file, {"input_ids": asked}), wanted, atol=4e-3)
    assert ir.load(file).graph.initializers["table.fp16"].dtype == FP16


@pytest.mark.parametrize("move", ["Concat", "Where"])
def test_what_is_made_of_integers_is_finite_where_it_meets_fp16(move: str, tmp_path: Path) -> None:
    """A mask of -3.4e38 and 3.4e38 that is put beside, or in the place of, looked-up rows."""
    ids = ir.val("input_ids", dtype=ir.DataType.INT64, shape=[None])
    rows = ir.node("Gather", [ir.val("table"), ids])
    count = ir.node("Cast", [ids], attributes={"to": FP32})
    column = ir.node("Unsqueeze", [count.outputs[0], ir.val("last")])
    mask = ir.node("Mul", [ir.node("Sub", [column.outputs[0], ir.val("five")]).outputs[0], ir.val("huge")])
    nodes: list[ir.Node] = [rows, count, column, mask.inputs[0].producer(), mask]  # type: ignore[union-attr, list-item]
    values: dict[str, Array] = {
        "table": np.arange(40, dtype=np.float32).reshape(10, 4),
        "last": np.array([1]),
        "five": np.array(5, np.float32),
        "huge": np.array(3e38, np.float32),
    }
    if move == "Concat":
        nodes.append(ir.node("Concat", [rows.outputs[0], mask.outputs[0]], attributes={"axis": 1}))
    else:
        values["choice"] = np.array([True, True, True, False])
        nodes.append(ir.node("Where", [ir.val("choice"), rows.outputs[0], mask.outputs[0]]))
    file = small_graph(tmp_path / "source.onnx", nodes, [ids], values)
    found = run(file, {"input_ids": np.array([4, 5, 6])})
    np.testing.assert_array_equal(found[:, :3], values["table"][4:7, :3])
    np.testing.assert_array_equal(found[:, -1], [FILLER, 0, LARGEST])


def test_a_graph_within_a_node_is_refused(untied: Artifact, tmp_path: Path) -> None:
    def change(graph: ir.Graph) -> None:
        branches = {}
        for name in ("then_branch", "else_branch"):
            node = ir.node("Constant", [], attributes={"value": ir.tensor(np.float32(1))})
            branches[name] = ir.Graph([], [node.outputs[0]], nodes=[node], name=name)
        choice = ir.node("If", [constant(graph, "yes", np.array(True))], attributes=branches, name="choice")
        graph.append(choice)
        append(graph, LOGITS, "Mul", choice.outputs[0])

    source = altered(untied, tmp_path / "source", change)
    with pytest.raises(ArtifactError, match=r"node 'choice' \(If\) holds a graph of its own.*use --quantize int8"):
        quantize(source, tmp_path / "out", QuantizeConfig(precision="fp16"))


def test_memory_stays_at_pieces_of_a_weight(tmp_path: Path) -> None:
    size, count = 2048, 3
    x = ir.val("x", dtype=FP32, shape=[None, size])
    nodes, value = [], x
    for number in range(count):
        nodes.append(ir.node("MatMul", [value, ir.val(f"w{number}")]))
        value = nodes[-1].outputs[0]
    arrays: dict[str, Array] = {f"w{number}": np.full((size, size), 1e-3, np.float32) for number in range(count)}
    file = small_graph(tmp_path / "source.onnx", nodes, [x], arrays)
    tracemalloc.start()
    try:
        halve(tmp_path / "source.onnx", file, progress=silent)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    # A weight has 16 MiB; a piece 4 MiB, its copies in both types and its absolute values.
    assert peak < 14 << 20
