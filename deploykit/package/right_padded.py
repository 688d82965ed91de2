"""A graph for rows that are padded on the right only, as our engine pads them: it asks less of the mask in every step.

The other runtimes' graphs take padding on either side. That costs a bias in each layer's attention, and positions that
count the mask's ones; both say nothing where a row's tokens come first.
"""

from typing import Final

import numpy as np
import onnx_ir as ir
from onnx_ir.passes.common import RemoveUnusedNodesPass

from deploykit import graph as graphs
from deploykit.artifact import Artifact
from deploykit.attention_bias import ATTENTION, drop_mask_bias
from deploykit.package.replay import replay
from deploykit.spec import ATTENTION_MASK, Precision

_LAST: Final = 5
"""GroupQueryAttention's input `seqlens_k`: the place of each row's last token."""


def pad_right_only(artifact: Artifact, precision: Precision) -> float | None:
    """Rewrite an artifact's graph for rows padded on the right; return the seconds it took to load, None if left alone.

    The new graph stays only if its logits are the old one's, bit for bit, run as the engine runs it. Its weights, and
    the file that holds them, are left alone; so is a graph that has nothing to lose.

    Raises:
        ArtifactError: the graph can't be read, or ONNX Runtime can't run it.
    """
    if artifact.contract(precision).cache != "shared":
        return None
    file = artifact.graph(precision)
    old, model = file.read_bytes(), graphs.load(file)
    if not drop_mask_bias(model.graph):
        return None
    _count_places(model.graph)
    RemoveUnusedNodesPass()(model)
    wanted = replay(artifact, precision)
    ir.save(model, file)
    found = replay(artifact, precision)
    if all(np.array_equal(new, known) for new, known in zip(found.logits, wanted.logits, strict=True)):
        return found.load_seconds
    file.write_bytes(old)
    return None


def _count_places(graph: ir.Graph) -> None:
    """Make a row's length the sum of its mask, and its new tokens' positions their places in the cache.

    Where a graph finds them in another way than `convert` writes, they are left as they are.
    """
    mask = next(value for value in graph.inputs if value.name == ATTENTION_MASK)
    seen = next(node.inputs[_LAST] for node in graph if node.op_type == ATTENTION)
    last = _input(seen, "Cast")
    search = _source(_input(last, "Sub"), "ReduceMax")
    if search is None:
        return
    axes = search.inputs[1]
    _put(graph, search, ir.node("ReduceSum", [mask, axes], {"keepdims": 0}))
    for node in [node for node in graph if node.op_type == "GatherElements"]:
        if _counts(node.inputs[0], mask):
            # Padding behind a row's last token has that token's position, as it had before.
            bound = ir.node("Unsqueeze", [last, axes])
            graph.insert_before(node, bound)
            places = (
                _input(node.inputs[1], "Min") or node.inputs[1]
            )  # without the bound they have, which is a wider one
            _put(graph, node, ir.node("Min", [places, bound.outputs[0]]))


def _put(graph: ir.Graph, old: ir.Node, new: ir.Node) -> None:
    """Put a node in another's place."""
    ir.convenience.replace_nodes_and_values(graph, old, [old], [new], old.outputs, new.outputs)


def _source(value: ir.Value | None, kind: str) -> ir.Node | None:
    """Return the node that computes a value, if it is of that kind."""
    node = value.producer() if value else None
    return node if node is not None and node.op_type == kind else None


def _input(value: ir.Value | None, kind: str) -> ir.Value | None:
    """Return the first input of the node that computes a value, if that is of that kind."""
    node = _source(value, kind)
    return node.inputs[0] if node else None


def _counts(value: ir.Value | None, mask: ir.Value) -> bool:
    """Return whether a value comes of counting the mask's ones."""
    node = value.producer() if value else None
    if node is None:
        return False
    if node.op_type == "CumSum":
        return node.inputs[0] is mask
    return node.op_type in ("Add", "Sub", "Max") and _counts(node.inputs[0], mask)
