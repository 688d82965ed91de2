"""The stage: same results, weights on disk, nothing written twice."""

import tracemalloc
from pathlib import Path

import numpy as np
import onnx_ir as ir
import onnxruntime as ort
import pytest
from altering import altered, append, constant, without
from graph_outputs import quiet, run

from deploykit import graph
from deploykit.artifact import Artifact
from deploykit.errors import ArtifactError, OutputError
from deploykit.optimize import optimize
from deploykit.spec import LOGITS_TO_KEEP


def redundant(graph: ir.Graph) -> None:
    """Plant one of each thing that the passes remove, the logits unchanged."""
    logits = next(value for value in graph.outputs if value.name == "logits")
    one, same = constant(graph, "one", np.ones(7, np.float32)), constant(graph, "same", np.ones(7, np.float32))
    constant(graph, "unused", np.ones(3000, np.float32))
    zero = ir.node("Sub", [one, same])
    sums = [ir.node("ReduceSum", [zero.outputs[0]], attributes={"keepdims": 0}) for _ in range(2)]
    both = ir.node("Add", [sums[0].outputs[0], sums[1].outputs[0]])
    identity = ir.node("Identity", [both.outputs[0]])
    unused = ir.node("Exp", [logits])
    graph.extend([zero, *sums, both, identity, unused])
    append(graph, "logits", "Add", identity.outputs[0])


@pytest.mark.parametrize("kind", ["fused", "traced"])
def test_results_stay_the_same(kind: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    source: Artifact = request.getfixturevalue(kind)
    result = optimize(source, tmp_path / "out")
    for before, after in zip(run(source, rows=0), run(result, rows=0), strict=True):
        np.testing.assert_allclose(after, before, rtol=0, atol=1e-5)


def test_outputs_that_nobody_reads_stay_without_a_name(fused: Artifact, tmp_path: Path) -> None:
    artifact = optimize(altered(fused, tmp_path / "redundant", redundant), tmp_path / "out")
    assert artifact.manifest.history[-1].result["changed"]
    skips = [node for node in graph.load(artifact.graph("fp32")).graph if node.op_type.startswith("Skip")]
    assert skips
    assert not any(value.name for node in skips for value in node.outputs[1:3])


def test_what_is_redundant_goes_and_the_record_says_so(fused: Artifact, tmp_path: Path) -> None:
    clean = optimize(fused, tmp_path / "clean")
    planted = altered(clean, tmp_path / "planted", redundant)
    result = optimize(planted, tmp_path / "out")
    record = result.manifest.history[-1]
    assert (record.stage, record.result["changed"]) == ("optimize", True)
    assert record.result["nodes_before"] == clean.manifest.history[-1].result["nodes_after"] + 7
    # The sum of constants is computed ahead; adding it to the logits stays, since 0 + -0.0 is not -0.0.
    assert record.result["nodes_after"] == clean.manifest.history[-1].result["nodes_after"] + 1
    changed = {entry["name"] for entry in record.result["passes"] if entry["changed"]}
    assert changed >= {"remove identities", "fold constants", "remove unused nodes"}
    names = graph.load(result.graph("fp32")).graph.initializers
    assert not {"one", "same", "unused"} & set(names)
    for before, after in zip(run(fused, rows=0), run(result, rows=0), strict=True):
        np.testing.assert_allclose(after, before, rtol=0, atol=1e-5)


@pytest.mark.parametrize("kind", ["fused", "traced"])
def test_a_second_time_changes_nothing_and_carries_the_files(
    kind: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    once = optimize(request.getfixturevalue(kind), tmp_path / "once")
    twice = optimize(once, tmp_path / "twice")
    assert twice.manifest.files == once.manifest.files
    assert not twice.manifest.history[-1].result["changed"]
    assert not any(entry["changed"] for entry in twice.manifest.history[-1].result["passes"])


def test_callers_may_still_ask_for_other_rows(fused: Artifact, tmp_path: Path) -> None:
    result = optimize(altered(fused, tmp_path / "planted", redundant), tmp_path / "out")
    session = ort.InferenceSession(str(result.graph("fp32")), quiet())
    assert [value.name for value in session.get_overridable_initializers()] == [LOGITS_TO_KEEP]
    assert [run(result, rows=rows)[0].shape[1] for rows in (None, 1, 3, 0)] == [5, 1, 3, 5]


def test_a_new_graph_over_unchanged_weights_leaves_the_data_file(fused: Artifact, tmp_path: Path) -> None:
    def change(graph: ir.Graph) -> None:
        middle = ir.node("Identity", [next(node for node in graph if node.op_type == "MatMul").inputs[0]])
        graph.append(middle)
        next(node for node in graph if node.op_type == "MatMul").replace_input_with(0, middle.outputs[0])

    source = altered(optimize(fused, tmp_path / "clean"), tmp_path / "planted", change)
    result = optimize(source, tmp_path / "out", link=True)
    assert result.manifest.history[-1].result["changed"]
    assert (result.path / "onnx/model.onnx_data").samefile(source.path / "onnx/model.onnx_data")


def test_weights_are_never_in_memory_as_a_whole(fused: Artifact, tmp_path: Path) -> None:
    size = 6 << 20

    def change(graph: ir.Graph) -> None:
        redundant(graph)
        big = constant(graph, "big", np.arange(size, dtype=np.float32))
        twin = constant(graph, "twin", np.arange(size, dtype=np.float32))
        extreme = [ir.node("ReduceMax", [value], attributes={"keepdims": 0}) for value in (big, twin)]
        zero = ir.node("Sub", [extreme[0].outputs[0], extreme[1].outputs[0]])
        graph.extend([*extreme, zero])
        append(graph, "logits", "Add", zero.outputs[0])

    source = altered(fused, tmp_path / "planted", change)
    tracemalloc.start()
    try:
        result = optimize(source, tmp_path / "out")
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    # Both large weights are 4 * size bytes; what is mapped isn't counted. The comparison's one Boolean per byte is.
    assert peak < 5 * size
    names = graph.load(result.graph("fp32")).graph.initializers
    assert len({"big", "twin"} & set(names)) == 1
    assert result.manifest.files["onnx/model.onnx_data"].size < source.manifest.files["onnx/model.onnx_data"].size


def test_an_artifact_without_fp32_is_refused(fused: Artifact, tmp_path: Path) -> None:
    source = without(fused, tmp_path / "source", "onnx/model.onnx", "onnx/model.onnx_data")
    with pytest.raises(ArtifactError, match="no fp32 model in it"):
        optimize(source, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_an_output_that_exists_is_left_alone(fused: Artifact, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine.txt").write_text("mine")
    with pytest.raises(OutputError, match="exists already"):
        optimize(fused, tmp_path / "out")
    assert (tmp_path / "out" / "mine.txt").read_text() == "mine"
