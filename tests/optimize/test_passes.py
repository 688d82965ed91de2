"""Single passes, and the order of all."""

from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
from altering import constant
from graph_outputs import run
from numpy.typing import NDArray

from deploykit import graph
from deploykit.artifact import Artifact
from deploykit.errors import DeploykitError
from deploykit.optimize.passes import PASSES, Pass, run_passes


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
    model, changed = PASSES["merge equal initializers"](model)
    assert changed
    assert list(model.graph.initializers) == ["c0"]
    assert not PASSES["merge equal initializers"](model)[1]


def test_what_is_folded_of_a_weight_lets_go_of_its_file(tmp_path: Path) -> None:
    array = np.random.default_rng(0).standard_normal((20, 20)).astype(np.float32)
    model = model_with(array)
    turned = ir.node("Transpose", [model.graph.initializers["c0"]])
    added = ir.node("Add", [model.graph.outputs[0], turned.outputs[0]])
    model.graph.extend([turned, added])
    value = added.outputs[0]
    value.name, value.shape, value.type = "z", model.graph.outputs[0].shape, model.graph.outputs[0].type
    model.graph.outputs[0] = value
    graph.save(model, tmp_path / "model.onnx")
    model, _ = run_passes(graph.load(tmp_path / "model.onnx"))
    assert [node.op_type for node in model.graph] == ["Add", "Add"]
    graph.save(model, tmp_path / "folded.onnx")
    folded = graph.load(tmp_path / "folded.onnx").graph.initializers
    assert any(np.array_equal(tensor.numpy(), array.T) for value in folded.values() if (tensor := value.const_value))


@pytest.mark.parametrize(
    ("at", "one", "other"), [(0, 1.0, 2.0), (4999, 1.0, 2.0), (4999, 0.0, -0.0), (4999, np.nan, 1.0)]
)
def test_weights_that_differ_anywhere_stay_apart(at: int, one: float, other: float) -> None:
    arrays = [np.ones(5000, np.float32) for _ in range(2)]
    arrays[0][at], arrays[1][at] = one, other
    model = model_with(*arrays)
    assert not PASSES["merge equal initializers"](model)[1]
    assert len(model.graph.initializers) == 2


def test_equal_bytes_of_another_shape_stay_apart() -> None:
    model = model_with(np.ones((2, 8), np.float32), np.ones((1, 8), np.float32))
    constant(model.graph, "long", np.ones(16, np.float32))
    assert not PASSES["merge equal initializers"](model)[1]


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
    def broken(model: ir.Model) -> tuple[ir.Model, bool]:
        raise ValueError("out of cheese")

    passes: dict[str, Pass] = {"remove identities": PASSES["remove identities"], "rub out": broken}
    with pytest.raises(DeploykitError, match=r"'rub out' failed on a graph of 1 nodes: out of cheese.*remove ident"):
        run_passes(model_with(np.ones(4, np.float32)), passes)


def test_reports_follow_the_passes_and_count_nodes() -> None:
    model = model_with(np.ones(4, np.float32))
    unused = ir.node("Exp", [model.graph.inputs[0]])
    model.graph.append(unused)
    _, reports = run_passes(model)
    assert [report.name for report in reports] == list(PASSES)
    assert [(report.nodes_before, report.nodes_after) for report in reports if report.changed] == [(2, 1)]


@pytest.fixture(scope="module")
def before(fused: Artifact, traced: Artifact) -> dict[str, list[Any]]:
    """Every output before any pass."""
    return {"fused": run(fused, rows=0), "traced": run(traced, rows=0)}


def content(model: ir.Model) -> bytes:
    """Return what a graph computes: shapes noted on inner values and the order of initializers are no part of it."""
    proto = ir.to_proto(model)
    proto.graph.ClearField("value_info")
    initializers = sorted(proto.graph.initializer, key=lambda tensor: tensor.name)
    proto.graph.ClearField("initializer")
    proto.graph.initializer.extend(initializers)
    return proto.SerializeToString(deterministic=True)


@pytest.mark.parametrize("kind", ["fused", "traced"])
@pytest.mark.parametrize("name", PASSES)
def test_each_pass_alone_keeps_results_and_is_done_once(
    name: str, kind: str, before: dict[str, list[Any]], request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    artifact: Artifact = request.getfixturevalue(kind)
    model = graph.load(artifact.graph("fp32"))
    untouched = content(model)
    model, (report,) = run_passes(model, {name: PASSES[name]})
    after = content(model)
    assert report.changed == (after != untouched)
    model, (again,) = run_passes(model, {name: PASSES[name]})
    assert not again.changed
    assert content(model) == after
    graph.save(model, tmp_path / "model.onnx")
    for old, new in zip(before[kind], run(artifact, rows=0, file=tmp_path / "model.onnx"), strict=True):
        np.testing.assert_allclose(new, old, rtol=0, atol=1e-5)


def test_passes_that_change_nothing_leave_the_graph_as_it_is(fused: Artifact) -> None:
    model, _ = run_passes(graph.load(fused.graph("fp32")))
    simplified = content(model)
    model, reports = run_passes(model)
    assert not any(report.changed for report in reports)
    assert content(model) == simplified
