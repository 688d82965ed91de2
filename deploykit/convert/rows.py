"""Logits of the last rows only, cut into a finished graph before the product that makes them."""

from typing import Final

import numpy as np
import onnx_ir as ir

from deploykit.spec import LOGITS, LOGITS_TO_KEEP, NUM_LOGITS

_POINTWISE: Final = frozenset({"Add", "Cast", "Div", "Identity", "Mul", "Sub", "Tanh"})
"""What models do to their logits after the product: a bias, a scale, a soft cap."""
_VIEWS: Final = frozenset({"Cast", "Identity", "Transpose"})
_TO_THE_END: Final = np.iinfo(np.int64).max


def keep_last_rows(graph: ir.Graph) -> bool:
    """Give the graph the input `num_logits_to_keep` (0 = all rows, its default), and return whether that can be done.

    The hidden states [B, S, E] are cut before the head's product, which saves the product of all other rows. It can't
    where the logits aren't a product with constant weights followed by pointwise operations.
    """
    logits = next(value for value in graph.outputs if value.name == LOGITS)
    way = _way_to_head(logits)
    if way is None:
        return False
    head = way[-1]
    hidden = head.inputs[0]
    assert hidden is not None
    wanted = ir.val(LOGITS_TO_KEEP, dtype=ir.DataType.INT64, shape=())
    wanted.const_value = ir.tensor(np.array(0, np.int64), name=LOGITS_TO_KEEP)
    tape = ir.tape.Tape()
    shape, ends, axes = (
        tape.initializer(ir.tensor(np.array([number], np.int64), name=f"{LOGITS_TO_KEEP}.{name}"))
        for name, number in (("shape", 1), ("ends", _TO_THE_END), ("axes", 1))
    )
    # A start before the first row begins there, and minus zero begins there too.
    starts = tape.op("Reshape", [tape.op("Neg", [wanted]), shape])
    kept = tape.op("Slice", [hidden, starts, ends, axes])
    kept.type = hidden.type
    graph.insert_before(head, tape.nodes)
    head.replace_input_with(0, kept)
    graph.inputs.insert(2, wanted)
    for value in (wanted, *tape.initializers):
        graph.register_initializer(value)
    for node in way:
        made = node.outputs[0]
        if made.shape is not None:
            made.shape = ir.Shape([made.shape[0], NUM_LOGITS, *made.shape[2:]])
    return True


def _way_to_head(logits: ir.Value) -> list[ir.Node] | None:
    """Return the nodes from the logits back to the product that makes them, or None where rows mix on the way."""
    way, value = [], logits
    while (node := value.producer()) is not None:
        if value is not logits and (value.is_graph_output() or len(value.uses()) > 1):
            return None
        way.append(node)
        if node.op_type == "MatMul":
            hidden, weight = node.inputs
            alike = hidden is not None and hidden.shape is not None and len(hidden.shape) == 3
            return way if alike and _constant(weight) else None
        moving = [x for x in node.inputs if x is not None and not _constant(x)]
        if node.op_type not in _POINTWISE or len(moving) != 1 or not all(map(_same_for_all_rows, node.inputs)):
            return None
        value = moving[0]
    return None


def _constant(value: ir.Value | None) -> bool:
    """Whether a value is a weight, or a weight turned or cast."""
    while value is not None and value.const_value is None:
        node = value.producer()
        if node is None or (node.op_type != "Constant" and node.op_type not in _VIEWS):
            return False
        if node.op_type == "Constant":
            return True
        value = node.inputs[0]
    return value is not None and not value.is_graph_input()


def _same_for_all_rows(value: ir.Value | None) -> bool:
    """Whether a constant has no axis of rows of its own; true for what is no constant."""
    if value is None or not _constant(value):
        return True
    return value.shape is not None and all(axis == 1 for axis in value.shape[:-1])
