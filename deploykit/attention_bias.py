"""The attention bias that fused graphs make of their mask, so that rows may be padded on either side."""

from collections.abc import Callable
from typing import Any, Final

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from deploykit.spec import ATTENTION_MASK

ATTENTION: Final = "GroupQueryAttention"
_BIAS: Final = 10
"""Its input `attention_bias`."""
_CLOSED: Final = -1e6
"""Biases below it leave nothing of a place: no score comes near."""


def drop_mask_bias(graph: ir.Graph) -> int:
    """Take from every attention the bias that says no more than the mask, and return how many had one.

    `seqlens_k` alone then closes places to a row: enough where rows are padded on the right. A bias that says anything
    else stays. The nodes that computed it are left to whoever removes unused ones.
    """
    found = [node for node in graph if node.op_type == ATTENTION and _says_the_mask(_bias(node))]
    for node in found:
        node.replace_input_with(_BIAS, None)
        used = max(at for at, value in enumerate(node.inputs) if value is not None)
        node.resize_inputs(used + 1)
    return len(found)


def _bias(node: ir.Node) -> ir.Value | None:
    return node.inputs[_BIAS] if len(node.inputs) > _BIAS else None


def _says_the_mask(bias: ir.Value | None) -> bool:
    """Return whether a bias is 0 where the mask is 1 and closed where it is 0, and nothing besides."""
    node = bias.producer() if bias else None
    while node is not None and node.op_type in ("Expand", "Unsqueeze"):
        node = _producer(node, 0)
    if node is None or node.op_type != "Where" or not _is_the_mask(_producer(node, 0)):
        return False
    _, kept, closed = node.inputs
    return _constant(kept, lambda numbers: numbers == 0) and _constant(closed, lambda numbers: numbers <= _CLOSED)


def _is_the_mask(cast: ir.Node | None) -> bool:
    if cast is None or cast.op_type != "Cast" or cast.inputs[0] is None:
        return False
    return cast.inputs[0].is_graph_input() and cast.inputs[0].name == ATTENTION_MASK


def _producer(node: ir.Node, at: int) -> ir.Node | None:
    value = node.inputs[at]
    return value.producer() if value else None


def _constant(value: ir.Value | None, fits: Callable[[NDArray[Any]], NDArray[np.bool_]]) -> bool:
    tensor = ir.convenience.get_const_tensor(value) if value else None
    return tensor is not None and bool(fits(tensor.numpy()).all())
