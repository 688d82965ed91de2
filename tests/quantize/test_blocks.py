"""The packing, bit for bit against what ONNX Runtime makes of it."""

from typing import Any

import numpy as np
import onnx_ir as ir
import onnxruntime as ort
import pytest
from numpy.typing import NDArray

from deploykit.errors import ArtifactError
from deploykit.quantize.blocks import Bits, dequantize, quantize_weight

RNG = np.random.default_rng(0)
BITS: list[Bits] = [4, 8]
BLOCKS = [16, 32, 64, 128, 256]


def session(op_type: str, x: ir.Value, weights: list[NDArray[Any]], **attributes: int) -> ort.InferenceSession:
    constants = [
        ir.Value(name=f"w{number}", const_value=ir.tensor(array, name=f"w{number}"))
        for number, array in enumerate(weights)
    ]
    inputs = [x, *constants] if op_type == "MatMulNBits" else [constants[0], x, *constants[1:]]
    node = ir.node(op_type, inputs, attributes=attributes, domain="com.microsoft")
    node.outputs[0].name, node.outputs[0].type = "y", ir.TensorType(ir.DataType.FLOAT)
    graph = ir.Graph(
        [x], node.outputs, nodes=[node], initializers=constants, opset_imports={"": 20, "com.microsoft": 1}
    )
    graph.name = "one node"
    return ort.InferenceSession(ir.to_proto(ir.Model(graph, ir_version=10)).SerializeToString())


def run(op_type: str, x: NDArray[Any], weights: list[NDArray[Any]], **attributes: int) -> NDArray[np.float32]:
    dtype = ir.DataType.FLOAT if x.dtype == np.float32 else ir.DataType.INT64
    value = ir.Value(name="x", shape=ir.Shape(x.shape), type=ir.TensorType(dtype))
    return np.asarray(session(op_type, value, weights, **attributes).run(None, {"x": x})[0])


def rms(array: NDArray[Any]) -> float:
    return float(np.sqrt(np.square(array).mean()))


@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize("block", BLOCKS)
@pytest.mark.parametrize("columns", [256, 80, 17])
def test_a_product_reads_each_packed_weight_as_it_is(bits: Bits, block: int, columns: int) -> None:
    weight = RNG.standard_normal((24, columns)).astype(np.float32)
    packed, scales = quantize_weight(weight, bits, block, name="w")
    assert packed.shape == (24, -(-columns // block), block * bits // 8)
    # The identity as activations: each output is one weight, without a sum that could round.
    found = run(
        "MatMulNBits", np.eye(columns, dtype=np.float32), [packed, scales], K=columns, N=24, bits=bits, block_size=block
    )
    np.testing.assert_array_equal(found.T, dequantize(packed, scales, bits, columns))


@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize("block", BLOCKS)
@pytest.mark.parametrize("columns", [256, 80, 17])
def test_rounded_activations_cost_what_int8_activations_cost(bits: Bits, block: int, columns: int) -> None:
    weight = RNG.standard_normal((24, columns)).astype(np.float32)
    packed, scales = quantize_weight(weight, bits, block, name="w")
    x = RNG.standard_normal((5, columns)).astype(np.float32)
    found = run("MatMulNBits", x, [packed, scales], K=columns, N=24, bits=bits, block_size=block, accuracy_level=4)
    wanted = x @ dequantize(packed, scales, bits, columns).T
    assert 0 < rms(found - wanted) / rms(wanted) < 0.02


@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize("block", BLOCKS)
def test_a_lookup_reads_the_same_bytes_without_the_axis_of_blocks(bits: Bits, block: int) -> None:
    table = RNG.standard_normal((50, 2 * block)).astype(np.float32)
    packed, scales = quantize_weight(table, bits, block, name="w")
    ids = np.array([[0, 3], [49, 7]])
    found = run(
        "GatherBlockQuantized", ids, [packed.reshape(50, -1), scales], bits=bits, block_size=block, quantize_axis=1
    )
    np.testing.assert_array_equal(found, dequantize(packed, scales, bits, 2 * block)[ids])


@pytest.mark.parametrize("bits", BITS)
def test_no_weight_moves_further_than_its_scale_allows(bits: Bits) -> None:
    weight = RNG.standard_normal((40, 96)).astype(np.float32)
    weight[0, :32] = 0
    weight[1, :32] = 1e-38
    packed, scales = quantize_weight(weight, bits, 32, name="w")
    error = np.abs(dequantize(packed, scales, bits, 96) - weight).reshape(40, 3, 32)
    # Half a step; a whole one where a weight is nearly the largest of its block and of the other sign.
    assert (error <= np.abs(scales[..., None]) * 1.001 + 1e-37).all()
    assert (error <= np.abs(scales[..., None]) * 0.501 + 1e-37).mean() > 0.98
    # The farthest weight of a block is a level exactly, up to one rounding.
    farthest = np.abs(weight).reshape(40, 3, 32).argmax(axis=-1, keepdims=True)
    assert np.take_along_axis(error, farthest, axis=-1).max() < 1e-6


@pytest.mark.parametrize(("bits", "block"), [(8, 32), (8, 128), (4, 32), (4, 128)])
def test_the_error_is_that_of_uniform_rounding(bits: Bits, block: int) -> None:
    weight = RNG.standard_normal((256, 1024)).astype(np.float32)
    packed, scales = quantize_weight(weight, bits, block, name="w")
    error = rms(dequantize(packed, scales, bits, 1024) - weight)
    # A step's width over the square root of twelve; the step is the block's largest weight over the levels of a side.
    largest = np.abs(weight).reshape(256, -1, block).max(axis=-1)
    assert error == pytest.approx(rms(largest) / 2 ** (bits - 1) / np.sqrt(12), rel=0.05)


def test_a_transposed_view_packs_like_a_copy(monkeypatch: pytest.MonkeyPatch) -> None:
    weight = RNG.standard_normal((96, 70)).astype(np.float32)
    whole = quantize_weight(np.ascontiguousarray(weight.T), 4, 32, name="w")
    monkeypatch.setattr("deploykit.quantize.blocks._CHUNK", 1000)
    packed, scales = quantize_weight(weight.T, 4, 32, name="w")
    np.testing.assert_array_equal(packed, whole[0])
    np.testing.assert_array_equal(scales, whole[1])


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_damaged_weight_is_refused_by_name(value: float) -> None:
    weight = np.ones((4, 64), np.float32)
    weight[3, 63] = value
    with pytest.raises(ArtifactError, match=r"weight 'h\.0' holds NaN or Inf"):
        quantize_weight(weight, 8, 32, name="h.0")
