"""What the tables say of ONNX Runtime, beside the one that is installed."""

from pathlib import Path

import numpy as np
import onnx_ir as ir
import onnxruntime as ort
import onnxruntime.capi.onnxruntime_pybind11_state as state
import pytest

from deploykit.artifact import Artifact
from deploykit.doctor.releases import version
from deploykit.doctor.runtimes import needed_version, runtime
from deploykit.outline import Node, read_outline


def loads(folder: Path, ir_version: int, opset: int) -> bool:
    x = ir.val("x", ir.DataType.FLOAT, [1])
    node = ir.node("Relu", [x])
    node.outputs[0].name = "y"
    node.outputs[0].type, node.outputs[0].shape = ir.TensorType(ir.DataType.FLOAT), ir.Shape([1])
    graph = ir.Graph([x], node.outputs, nodes=[node], opset_imports={"": opset}, name="g")
    ir.save(ir.Model(graph, ir_version=ir_version), folder / "model.onnx")
    options = ort.SessionOptions()
    options.log_severity_level, options.intra_op_num_threads = 4, 1
    try:
        session = ort.InferenceSession(str(folder / "model.onnx"), options, providers=["CPUExecutionProvider"])
    except Exception:  # ONNX Runtime's errors share no class of their own
        return False
    return bool(session.run(None, {"x": np.ones(1, np.float32)})[0][0] == 1)


def test_the_installed_onnx_runtime_reads_what_the_table_says(tmp_path: Path) -> None:
    table = runtime(ort.__version__)
    assert loads(tmp_path, table.ir, 17)
    assert not loads(tmp_path, table.ir + 1, 17)
    assert loads(tmp_path, 8, table.opset)
    assert not loads(tmp_path, 8, table.opset + 1)


def test_every_operator_of_the_installed_onnx_runtime_is_in_the_table() -> None:
    here = version(ort.__version__)
    for schema in state.get_all_operator_schema():
        if schema.domain == "com.microsoft":
            node = Node(
                op_type=schema.name,
                domain=schema.domain,
                inputs=("x",) * min(schema.max_input, 50),
                attributes=dict.fromkeys(schema.attributes),
            )
            needed, part = needed_version(node)
            assert needed, f"{schema.name}: {part}"
            assert version(needed) <= here


@pytest.mark.parametrize(("precision", "oldest"), [("fp32", "1.22"), ("int8", "1.23")])
def test_our_graphs_need_the_versions_that_were_found_to_run_them(
    artifact: Artifact, precision: str, oldest: str
) -> None:
    # Found by running these graphs under 1.19.2 to 1.24.4, 1.27 and 1.32: fp32 from 1.22, int8 and int4 from 1.23 on.
    nodes = read_outline(artifact.graph(precision)).nodes  # type: ignore[arg-type]
    needs = [needed_version(node)[0] for node in nodes if node.domain == "com.microsoft"]
    assert max(needs, key=version) == oldest


def test_between_two_versions_the_lower_counts() -> None:
    assert runtime("1.24.1").measured == "1.24"
    assert runtime("9.0").measured == max((f"1.{minor}" for minor in range(18, 33)), key=version)
    assert runtime("1.2").measured == "1.18"


def test_an_operator_nobody_knows() -> None:
    assert needed_version(Node(op_type="Invented", domain="com.microsoft")) == ("", "the operator")
