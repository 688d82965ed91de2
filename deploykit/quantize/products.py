"""Finds the products with constant weights in a graph, and says why others are left alone."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import onnx_ir as ir

from deploykit.spec import INPUT_IDS, LOGITS

_SAME_VALUES: Final = ("Reshape", "Cast", "Identity", "Squeeze", "Unsqueeze")
_TO_LOGITS: Final = (*_SAME_VALUES, "Add", "Sub", "Mul", "Div", "Tanh", "Clip", "Neg")
"""What stands between a head's product and the logits: a bias, a scale, a soft cap."""


@dataclass(frozen=True, kw_only=True)
class Product:
    """`x @ weight` (+ bias), weight [K, N], or [N, K] where it is transposed first."""

    node: ir.Node
    weight: ir.Value
    transposed: bool
    bias: ir.Value | None = None

    @property
    def rows(self) -> int:
        """N, the product's outputs."""
        return shape(self.weight)[0 if self.transposed else 1]

    @property
    def columns(self) -> int:
        """K, the product's inputs."""
        return shape(self.weight)[1 if self.transposed else 0]


def shape(value: ir.Value) -> tuple[int, ...]:
    """Return the shape of an initializer."""
    assert value.const_value is not None
    return tuple(value.const_value.shape.numpy())


def find_products(graph: ir.Graph) -> tuple[list[Product], dict[str, int]]:
    """Return the products that can be quantized, and how many others there are for each reason."""
    products: list[Product] = []
    left: Counter[str] = Counter()
    for node in ir.traversal.RecursiveGraphIterator(graph):
        if node.domain or node.op_type not in ("MatMul", "Gemm"):
            continue
        found = _product(node) if node.graph is graph else "in a subgraph"
        if isinstance(found, Product):
            products.append(found)
        else:
            left[found] += 1
    return products, dict(left)


def find_heads(graph: ir.Graph, products: Sequence[Product]) -> list[Product]:
    """Return the products that the logits are made of, which only elementwise nodes may follow."""
    by_node = {product.node: product for product in products}
    heads: dict[ir.Node, Product] = {}
    values: list[ir.Value | None] = [value for value in graph.outputs if value.name == LOGITS]
    seen: set[ir.Value | None] = set()
    while values:
        value = values.pop()
        node = value.producer() if value is not None and value not in seen else None
        seen.add(value)
        if node in by_node:
            heads[node] = by_node[node]
        elif node is not None and not node.domain and node.op_type in _TO_LOGITS:
            values += node.inputs
    return list(heads.values())


def find_embeddings(graph: ir.Graph) -> list[ir.Node]:
    """Return the nodes that look tokens up in a constant fp32 table [V, K]."""
    return [
        node
        for node in graph
        if (node.domain, node.op_type) == ("", "Gather")
        and node.attributes.get_int("axis", 0) == 0
        and _are_token_ids(node.inputs[1])
        and node.inputs[0] is not None
        and _why_not(node.inputs[0]) is None
    ]


def _are_token_ids(value: ir.Value | None) -> bool:
    """Return whether a value is the graph's token ids, possibly in another shape, as traced graphs have them."""
    while value is not None and value.name != INPUT_IDS:
        node = value.producer()
        value = node.inputs[0] if node is not None and node.op_type in _SAME_VALUES else None
    return value is not None


def _product(node: ir.Node) -> Product | str:
    second = node.inputs[1]
    assert second is not None
    producer = second.producer()
    weight, transposed = second, False
    if producer is not None and _swaps_axes(producer) and producer.inputs[0] is not None:
        weight, transposed = producer.inputs[0], True
    bias = None
    if node.op_type == "Gemm":
        if node.attributes.get_int("transA", 0) or any(
            node.attributes.get_float(name, 1.0) != 1.0 for name in ("alpha", "beta")
        ):
            return "Gemm that scales or transposes"
        transposed ^= bool(node.attributes.get_int("transB", 0))
        bias = node.inputs[2] if len(node.inputs) > 2 else None
    return _why_not(weight) or Product(node=node, weight=weight, transposed=transposed, bias=bias)


def _swaps_axes(node: ir.Node) -> bool:
    return (node.domain, node.op_type) == ("", "Transpose") and list(node.attributes.get_ints("perm", (1, 0))) == [1, 0]


def _why_not(weight: ir.Value) -> str | None:
    tensor = weight.const_value
    if not weight.is_initializer() or weight.is_graph_input() or tensor is None:
        return "both factors are activations"
    if tensor.dtype != ir.DataType.FLOAT:
        return f"weight is {tensor.dtype.name.lower()}, not float"
    if len(tensor.shape) != 2:
        return f"weight has {len(tensor.shape)} axes, not 2"
    return None
