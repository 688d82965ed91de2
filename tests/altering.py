"""Artifacts with a change in one of their graphs, hashed anew: what a defect of an earlier stage would have left."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from deploykit import graph
from deploykit.artifact import Artifact
from deploykit.draft import draft
from deploykit.spec import Precision, data_file

Array = NDArray[Any]


def altered(
    artifact: Artifact,
    out: Path,
    change: Callable[[ir.Graph], None],
    *,
    precision: Precision = "fp32",
    encoder: bool = False,
) -> Artifact:
    """Return a copy of `artifact` at `out` whose graph (or encoder) of that precision went through `change`."""
    file = artifact.graphs(precision)[int(encoder)]
    model = graph.load(file)
    change(model.graph)
    model.graph.sort()
    name = file.relative_to(artifact.path).as_posix()
    with draft(out) as sheet:
        sheet.carry(artifact, [file for file in artifact.manifest.files if file not in (name, data_file(name))])
        graph.save(model, sheet.file(name))
        return sheet.commit(artifact.manifest)


def without(artifact: Artifact, out: Path, *names: str) -> Artifact:
    """Return a copy of `artifact` at `out` that lacks some files."""
    with draft(out) as sheet:
        sheet.carry(artifact, [name for name in artifact.manifest.files if name not in names])
        return sheet.commit(artifact.manifest)


def constant(graph: ir.Graph, name: str, array: Array) -> ir.Value:
    """Add an initializer and return it."""
    tensor = ir.tensor(array, name=name)
    value = ir.Value(name=name, shape=ir.Shape(array.shape), type=ir.TensorType(tensor.dtype), const_value=tensor)
    graph.register_initializer(value)
    return value


def append(graph: ir.Graph, output: str, op_type: str, *more: ir.Value, **attributes: int) -> None:
    """Put a node of `op_type` behind a graph output, which keeps its name."""
    at, old = next((at, value) for at, value in enumerate(graph.outputs) if value.name == output)
    old.name = f"{output}.{len(graph)}"
    node = ir.node(op_type, [old, *more], attributes=attributes)
    node.outputs[0].name, node.outputs[0].shape, node.outputs[0].type = output, old.shape, old.type
    graph.append(node)
    graph.outputs[at] = node.outputs[0]


def replace_weight(graph: ir.Graph, name: str, change: Callable[[Array], Array]) -> None:
    """Put `change` of an initializer in its place."""
    tensor = graph.initializers[name].const_value
    assert tensor is not None
    graph.initializers[name].const_value = ir.tensor(np.ascontiguousarray(change(tensor.numpy())), name=name)


def failing(artifact: Artifact, out: Path) -> Artifact:
    """Return a copy whose fp32 graph loads, and fails when it runs: it looks up a row that isn't there."""

    def change(graph: ir.Graph) -> None:
        ids = next(value for value in graph.inputs if value.name == "input_ids")
        lookup = next(node for node in graph if node.op_type == "Gather" and node.inputs[1] is ids)
        far = ir.node("Add", [ids, constant(graph, "far", np.array(10**6, np.int64))])
        graph.insert_before(lookup, far)
        lookup.replace_input_with(1, far.outputs[0])

    return altered(artifact, out, change)


def rewritten(artifact: Artifact, out: Path, old: bytes, new: bytes) -> Artifact:
    """Return a copy in whose fp32 graph file `new` stands for each `old`, as long: what no library writes."""
    assert len(old) == len(new)
    with draft(out) as sheet:
        sheet.carry(artifact)
        graph_file = sheet.file(artifact.graph("fp32").relative_to(artifact.path).as_posix())
        graph_file.write_bytes(artifact.graph("fp32").read_bytes().replace(old, new))
        return sheet.commit(artifact.manifest)
