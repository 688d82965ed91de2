"""dynamic-int8: the arithmetic, what the file holds, and what ONNX Runtime makes of it."""

import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import onnxruntime as ort
import pytest
from numpy.typing import NDArray

from deploykit import graph as graphs
from deploykit.artifact import Artifact
from deploykit.config import QuantizeConfig
from deploykit.errors import ArtifactError
from deploykit.progress import silent
from deploykit.quantize import quantize
from deploykit.quantize.dynamic import quantize_activations
from deploykit.spec import EXACT_INT8, Precision
from deploykit.validate.decoder import Decoder

Array = NDArray[Any]

RNG = np.random.default_rng(0)
V, E, N = 40, 24, 16


def normal(*shape: int) -> Array:
    return RNG.standard_normal(shape).astype(np.float32)


def write(file: Path, inputs: dict[str, Any], nodes: list[ir.Node], outputs: list[ir.Value], **arrays: Array) -> Path:
    """Write a graph whose initializers were made by `weight`."""
    used = {v.name: v for node in nodes for v in node.inputs if v is not None and v.name in arrays}
    values = [weight(name, array, used[name]) for name, array in arrays.items()]
    for value in outputs:
        value.type, value.shape = ir.TensorType(ir.DataType.FLOAT), value.shape or ir.Shape([None, None])
    graph = ir.Graph(list(inputs.values()), outputs, nodes=nodes, initializers=values, opset_imports={"": 20})
    graphs.save(ir.Model(graph, ir_version=10), file)
    return file


def weight(name: str, array: Array, value: ir.Value) -> ir.Value:
    tensor = ir.tensor(array, name=name)
    value.const_value, value.shape, value.type = tensor, ir.Shape(array.shape), ir.TensorType(tensor.dtype)
    return value


def floats(name: str, *shape: Any) -> ir.Value:
    return ir.val(name, dtype=ir.DataType.FLOAT, shape=shape)


def run(file: Path, feeds: dict[str, Array]) -> list[Array]:
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1

    options.add_session_config_entry(EXACT_INT8, "1")
    return list(ort.InferenceSession(str(file), options).run(None, feeds))


def optimized(file: Path) -> list[str]:
    """Return the operators that ONNX Runtime makes of a graph."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    options.optimized_model_filepath = str(file.with_suffix(".optimized.onnx"))
    ort.InferenceSession(str(file), options)
    return [node.op_type for node in ir.load(options.optimized_model_filepath).graph]


def logits(artifact: Artifact, precision: Precision) -> Array:
    decoder = Decoder(artifact.graph(precision), artifact.contract(precision))
    ids = np.random.default_rng(1).integers(0, decoder.spec.vocab_size, (2, 16))
    return decoder.run(ids, np.ones_like(ids))[0]


def quantized(source: Path) -> Path:
    target = source.with_name("quantized.onnx")
    quantize_activations(source, target, progress=silent)
    return target


def rounded(matrix: Array) -> Array:
    """Return a weight [K, N] as 127 levels on each side leave it, a scale for each column."""
    scales = np.abs(matrix).max(axis=0) / np.float32(127)
    return np.asarray(np.rint(matrix * (1 / scales)) * scales, np.float32)


def levels_of(x: Array) -> Array:
    """Return an activation as 127 levels on each side leave it, a scale for each row."""
    return rounded(x.T).T


@pytest.mark.parametrize("turned", [False, True])
@pytest.mark.parametrize("kind", ["MatMul", "MatMul + Add", "Gemm", "Gemm with bias"])
def test_a_product_is_the_product_of_the_rounded_factors(kind: str, turned: bool, tmp_path: Path) -> None:
    matrix, bias = normal(E, N) * np.logspace(-3, 3, N, dtype=np.float32), normal(N)
    x, w, b = floats("x", None, E), ir.val("w"), ir.val("b")
    if kind.startswith("Gemm"):
        operands = [x, w, b] if "bias" in kind else [x, w]
        nodes = [ir.node("Gemm", operands, attributes={"transB": int(turned)})]
    else:
        nodes = [ir.node("Transpose", [w], attributes={"perm": [1, 0]})] if turned else []
        nodes.append(ir.node("MatMul", [x, nodes[0].outputs[0] if turned else w]))
        if kind.endswith("Add"):
            nodes.append(ir.node("Add", [nodes[-1].outputs[0], b]))
    arrays = {"w": matrix.T.copy() if turned else matrix} | ({"b": bias} if nodes[-1].inputs[-1] is b else {})
    file = quantized(write(tmp_path / "source.onnx", {"x": x}, nodes, list(nodes[-1].outputs), **arrays))
    given = (normal(5, E) * 3 + 1) * np.logspace(-3, 3, 5, dtype=np.float32)[:, None]
    wanted = levels_of(given) @ rounded(matrix) + (bias if "b" in arrays else 0)
    size = np.linalg.norm(given, axis=1)[:, None] * np.linalg.norm(matrix, axis=0)
    np.testing.assert_allclose(run(file, {"x": given})[0] / size, wanted / size, rtol=0, atol=1e-5)
    kinds = ["Abs", "ReduceMax", "Max", "Div", "QuantizeLinear", "MatMulIntegerToFloat", "Mul"]
    assert optimized(file) == kinds + ["Add"] * ("b" in arrays)


@pytest.mark.parametrize("beside", [1, 2, 7, 40])
def test_a_row_gives_the_same_bits_whatever_is_beside_it(beside: int, tmp_path: Path) -> None:
    x = floats("x", None, E)
    product = ir.node("MatMul", [x, ir.val("w")])
    file = quantized(write(tmp_path / "source.onnx", {"x": x}, [product], list(product.outputs), w=normal(E, N)))
    row, others = normal(1, E), normal(beside, E) * 100
    alone, among = (run(file, {"x": given})[0][-1] for given in (row, np.concatenate([others, row])))
    np.testing.assert_array_equal(alone, among)


def test_a_row_of_zeros_gives_zeros(tmp_path: Path) -> None:
    x = floats("x", None, E)
    product = ir.node("MatMul", [x, ir.val("w")])
    file = quantized(write(tmp_path / "source.onnx", {"x": x}, [product], list(product.outputs), w=normal(E, N)))
    given = normal(3, E)
    given[1] = 0
    y = run(file, {"x": given})[0]
    assert (y[1] == 0).all()
    assert np.abs(y[[0, 2]]).min() > 0


def test_products_of_one_input_round_it_once(tmp_path: Path) -> None:
    x = floats("x", None, E)
    nodes = [ir.node("MatMul", [x, ir.val(name)]) for name in ("one", "two")]
    outputs = [node.outputs[0] for node in nodes]
    file = quantized(write(tmp_path / "source.onnx", {"x": x}, nodes, outputs, one=normal(E, N), two=normal(E, N)))
    kinds = [node.op_type for node in ir.load(file).graph]
    assert (kinds.count("QuantizeLinear"), kinds.count("MatMulIntegerToFloat")) == (1, 2)


@pytest.mark.parametrize("tied", [True, False])
def test_a_table_is_rounded_by_row_and_shared_with_its_head(tied: bool, tmp_path: Path) -> None:
    table, head = normal(V, E) * np.linspace(0.01, 9, V, dtype=np.float32)[:, None], normal(E, V)
    ids = ir.val("input_ids", dtype=ir.DataType.INT64, shape=[None])
    t, h = ir.val("t"), ir.val("h")
    lookup = ir.node("Gather", [t, ids])
    turn = [ir.node("Transpose", [t], attributes={"perm": [1, 0]})] if tied else []
    product = ir.node("MatMul", [lookup.outputs[0], turn[0].outputs[0] if tied else h])
    outputs = [lookup.outputs[0], product.outputs[0]]
    outputs[0].name, outputs[1].name = "rows", "logits"
    arrays = {"t": table} if tied else {"t": table, "h": head}
    source = write(tmp_path / "source.onnx", {"ids": ids}, [lookup, *turn, product], outputs, **arrays)
    file = quantized(source)
    asked = np.array([3, 0, V - 1, 3])
    rows, logits = run(file, {"input_ids": asked})
    looked_up = rounded(table.T).T[asked]
    np.testing.assert_allclose(rows, looked_up, rtol=1e-6)
    wanted = levels_of(looked_up) @ rounded(table.T if tied else head)
    np.testing.assert_allclose(logits, wanted, rtol=0, atol=1e-5 * np.abs(wanted).max())
    stored = [v.const_value for v in ir.load(file).graph.initializers.values()]
    levels = sum(t.nbytes for t in stored if t is not None and t.dtype == ir.DataType.INT8)
    assert levels == (V * E if tied else 2 * V * E)
    assert "Transpose" not in optimized(file), "turned at load, not at every step"


def test_an_output_without_weights_is_zero(tmp_path: Path) -> None:
    matrix = normal(E, N)
    matrix[:, 2] = 0
    x = floats("x", None, E)
    product = ir.node("MatMul", [x, ir.val("w")])
    file = quantized(write(tmp_path / "source.onnx", {"x": x}, [product], list(product.outputs), w=matrix))
    y = run(file, {"x": normal(3, E)})[0]
    assert (y[:, 2] == 0).all()
    assert np.isfinite(y).all()


@pytest.mark.parametrize("broken", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("turned", [False, True])
def test_a_weight_that_is_not_finite_is_named(broken: float, turned: bool, tmp_path: Path) -> None:
    matrix = normal(E, N)
    matrix[-1, -1] = broken
    x = floats("x", None, N if turned else E)
    product = ir.node("Gemm", [x, ir.val("w")], attributes={"transB": int(turned)})
    source = write(tmp_path / "source.onnx", {"x": x}, [product], list(product.outputs), w=matrix)
    with pytest.raises(ArtifactError, match="weight 'w' holds NaN or Inf"):
        quantized(source)


def test_memory_follows_the_largest_weight_and_bytes_are_the_same_again(tmp_path: Path) -> None:
    size, count = 1500, 6
    x = floats("x", None, size)
    nodes, value = [], x
    for number in range(count):
        nodes.append(ir.node("Gemm", [value, ir.val(f"w{number}")], attributes={"transB": number % 2}))
        value = nodes[-1].outputs[0]
    arrays = {f"w{number}": normal(size, size) for number in range(count)}
    source = write(tmp_path / "source.onnx", {"x": x}, nodes, [value], **arrays)
    del arrays, nodes, value
    file = tmp_path / "quantized.onnx"
    written = []
    for _ in range(2):
        tracemalloc.start()
        try:
            quantize_activations(source, file, progress=silent)
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
        # int8 levels, for a turned weight twice, and the arrays of one chunk; one weight in fp32 is four times that.
        assert peak < 2 * size * size + (8 << 20) < 2 * 4 * size * size
        written.append(file.read_bytes() + file.with_name("quantized.onnx_data").read_bytes())
    assert written[0] == written[1]


@pytest.mark.parametrize("kind", ["tied", "untied"])
def test_every_product_of_a_decoder_is_covered(kind: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    source: Artifact = request.getfixturevalue(kind)
    products = sum(node.op_type == "MatMul" for node in graphs.load(source.graph("fp32")).graph)
    result = quantize(source, tmp_path / "out", QuantizeConfig(precision="dynamic-int8"))
    kinds = [node.op_type for node in graphs.load(result.graph("dynamic-int8")).graph]
    assert (kinds.count("MatMulIntegerToFloat"), kinds.count("MatMul")) == (products, 0)
    record = result.manifest.history[-1]
    assert (record.result["products"], record.result["embeddings"], record.result["products_left"]) == (products, 1, {})
    assert record.result["bytes_after"] < record.result["bytes_before"] / 2.5
    files = {file.name for file in (result.path / "onnx").iterdir()}
    assert files == {"model.onnx", "model.onnx_data", "model_quantized.onnx", "model_quantized.onnx_data"}
    gap = logits(result, "dynamic-int8") - logits(source, "fp32")
    assert np.sqrt(np.square(gap).mean() / np.square(logits(source, "fp32")).mean()) < 0.2
