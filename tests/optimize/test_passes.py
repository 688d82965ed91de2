"""Single passes, and the order of all."""

from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
from altering import constant
from numpy.typing import NDArray

from deploykit.errors import DeploykitError
from deploykit.optimize.passes import PASSES, run_passes


def model_with(*arrays: NDArray[Any]) -> ir.Model:
    """Return `x + a + b …` for one constant each."""
    x = ir.Value(name="x", shape=ir.Shape(arrays[0].shape), type=ir.TensorType(ir.DataType.FLOAT))
    graph = ir.Graph([x], [], nodes=[], opset_imports={"": 20}, name="sum")
    value = x
    for number, array in enumerate(arrays):
        node = ir.node("Add", [value, constant(graph, f"c{number}", array)])
        graph.append(node)
        value = node.outputs[0]
    value.name, value.shape, value.type = "y", x.shape, x.type
    graph.outputs.append(value)
    return ir.Model(graph, ir_version=10)


def test_equal_weights_become_one() -> None:
    array = np.random.default_rng(0).standard_normal(5000).astype(np.float32)
    model = model_with(array, array.copy())
    assert PASSES["merge equal initializers"](model)
    assert list(model.graph.initializers) == ["c0"]
    assert not PASSES["merge equal initializers"](model)


@pytest.mark.parametrize(
    ("at", "one", "other"), [(0, 1.0, 2.0), (4999, 1.0, 2.0), (4999, 0.0, -0.0), (4999, np.nan, 1.0)]
)
def test_weights_that_differ_anywhere_stay_apart(at: int, one: float, other: float) -> None:
    arrays = [np.ones(5000, np.float32) for _ in range(2)]
    arrays[0][at], arrays[1][at] = one, other
    model = model_with(*arrays)
    assert not PASSES["merge equal initializers"](model)
    assert len(model.graph.initializers) == 2


def test_equal_bytes_of_another_shape_stay_apart() -> None:
    model = model_with(np.ones((2, 8), np.float32), np.ones((1, 8), np.float32))
    constant(model.graph, "long", np.ones(16, np.float32))
    assert not PASSES["merge equal initializers"](model)


def test_a_default_is_not_a_constant() -> None:
    model = model_with(np.ones(4, np.float32), np.full(4, 2, np.float32))
    first = model.graph.initializers["c0"]
    model.graph.inputs.append(first)
    double = ir.node("Add", [first, model.graph.initializers["c1"]])
    model.graph.append(double)
    double.outputs[0].name = "z"
    model.graph.outputs.append(double.outputs[0])
    run_passes(model)
    assert sorted(node.op_type for node in model.graph) == ["Add", "Add", "Add"]
    default = model.graph.initializers["c0"].const_value
    assert default is not None
    np.testing.assert_array_equal(default.numpy(), np.ones(4, np.float32))
    assert model.graph.inputs[-1].name == "c0"


def test_a_pass_that_fails_is_named_with_those_before_it() -> None:
    def broken(model: ir.Model) -> bool:
        raise ValueError("out of cheese")

    passes = {"remove identities": PASSES["remove identities"], "rub out": broken}
    with pytest.raises(DeploykitError, match=r"'rub out' failed on a graph of 1 nodes: out of cheese.*remove ident"):
        run_passes(model_with(np.ones(4, np.float32)), passes)


def test_reports_follow_the_passes_and_count_nodes() -> None:
    model = model_with(np.ones(4, np.float32))
    unused = ir.node("Exp", [model.graph.inputs[0]])
    model.graph.append(unused)
    _, reports = run_passes(model)
    assert [report.name for report in reports] == list(PASSES)
    assert [(report.nodes_before, report.nodes_after) for report in reports if report.changed] == [(2, 1)]
