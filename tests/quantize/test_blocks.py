"""The packing, bit for bit against what ONNX Runtime makes of it."""

from typing import Any

import numpy as np
import onnx_ir as ir
import onnxruntime as ort
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray

from deploykit.quantize.blocks import Bits, Blocks, pack, unpack
from deploykit.quantize.rounding import Scheme, quantize_weight

RNG = np.random.default_rng(0)
BITS: list[Bits] = [4, 8]
BLOCKS = [16, 32, 64, 128, 256]
SYMMETRIC = pytest.mark.parametrize("symmetric", [True, False], ids=["symmetric", "zero-points"])


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


def rounded(weight: NDArray[np.float32], bits: Bits, block: int, *, symmetric: bool) -> Blocks:
    return quantize_weight(weight, Scheme(bits=bits, block=block, symmetric=symmetric), name="w").blocks


def inputs(blocks: Blocks, *, flat: bool = False) -> list[NDArray[Any]]:
    data = blocks.data.reshape(len(blocks.data), -1) if flat else blocks.data
    return [data, blocks.scales, *([] if blocks.zeros is None else [blocks.zeros])]


def rms(array: NDArray[Any]) -> float:
    return float(np.sqrt(np.square(array).mean()))


@SYMMETRIC
@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize("block", BLOCKS)
@pytest.mark.parametrize("columns", [256, 80, 17])
def test_a_product_reads_each_packed_weight_as_it_is(bits: Bits, block: int, columns: int, symmetric: bool) -> None:
    weight = (RNG.standard_normal((25, columns)) + 0.3).astype(np.float32)
    blocks = rounded(weight, bits, block, symmetric=symmetric)
    assert blocks.data.shape == (25, -(-columns // block), block * bits // 8)
    assert (blocks.zeros is None) == symmetric
    # The identity as activations: each output is one weight, without a sum that could round.
    one = np.eye(columns, dtype=np.float32)
    found = run("MatMulNBits", one, inputs(blocks), K=columns, N=25, bits=bits, block_size=block)
    np.testing.assert_array_equal(found.T, blocks.weights(columns))


@SYMMETRIC
@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize("block", BLOCKS)
@pytest.mark.parametrize("columns", [256, 80, 17])
def test_rounded_activations_cost_what_int8_activations_cost(
    bits: Bits, block: int, columns: int, symmetric: bool
) -> None:
    weight = (RNG.standard_normal((24, columns)) + 0.3).astype(np.float32)
    blocks = rounded(weight, bits, block, symmetric=symmetric)
    x = RNG.standard_normal((5, columns)).astype(np.float32)
    found = run("MatMulNBits", x, inputs(blocks), K=columns, N=24, bits=bits, block_size=block, accuracy_level=4)
    wanted = x @ blocks.weights(columns).T
    assert 0 < rms(found - wanted) / rms(wanted) < 0.02


@SYMMETRIC
@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize("block", BLOCKS)
@pytest.mark.parametrize("count", [1, 2, 3])
def test_a_lookup_reads_the_same_bytes_without_the_axis_of_blocks(
    bits: Bits, block: int, count: int, symmetric: bool
) -> None:
    table = (RNG.standard_normal((51, count * block)) - 0.3).astype(np.float32)
    blocks = rounded(table, bits, block, symmetric=symmetric)
    ids = np.array([[0, 3], [50, 7]])
    found = run("GatherBlockQuantized", ids, inputs(blocks, flat=True), bits=bits, block_size=block, quantize_axis=1)
    np.testing.assert_array_equal(found, blocks.weights(count * block)[ids])


@given(
    levels=arrays(np.uint8, st.tuples(st.integers(1, 9), st.integers(1, 5)), elements=st.integers(0, 15)),
    bits=st.sampled_from(BITS),
)
def test_packed_levels_come_back(levels: NDArray[np.uint8], bits: Bits) -> None:
    packed = pack(levels, bits)
    assert packed.shape == (-(-len(levels) * bits // 8), levels.shape[1])
    np.testing.assert_array_equal(unpack(packed.T, bits)[:, : len(levels)].T, levels)


@given(
    weight=arrays(np.float32, st.tuples(st.integers(1, 5), st.integers(1, 70)), elements=st.floats(-4, 4, width=32)),
    bits=st.sampled_from(BITS),
    block=st.sampled_from([16, 32]),
    symmetric=st.booleans(),
)
def test_what_is_stored_is_stored_again_unchanged(
    weight: NDArray[np.float32], bits: Bits, block: int, symmetric: bool
) -> None:
    stored = rounded(weight, bits, block, symmetric=symmetric).weights(weight.shape[1])
    assert stored.shape == weight.shape
    assert np.isfinite(stored).all()
    # A step; in 4 bits up to a quarter of a range may be clipped, besides the level that the far side lacks.
    limit = 1 / 127 if bits == 8 else 1 - 0.75 * 7 / 8
    assert np.abs(stored - weight).max() <= np.abs(weight).max() * limit * 1.001 + 1e-30
