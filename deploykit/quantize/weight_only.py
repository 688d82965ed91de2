"""int8 and int4 weights: each product becomes a MatMulNBits whose weights are packed while the file is written."""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any, Final

import onnx_ir as ir
from onnx_ir.passes.common import RemoveUnusedNodesPass

from deploykit import graph as graphs
from deploykit.progress import Progress
from deploykit.quantize.blocks import Bits, ByteArray, FloatArray, quantize_weight
from deploykit.quantize.products import Product, find_embeddings, find_products, shape
from deploykit.spec import LOGITS

_DOMAIN: Final = "com.microsoft"
_ACCURACY: Final = 4
"""Activations are rounded to int8, block by block of a row, for ONNX Runtime's fastest kernel."""

Pair = tuple[ByteArray, FloatArray]


@dataclass(frozen=True, kw_only=True)
class Packed:
    """A weight's two new initializers, and what each place of use must know."""

    data: ir.Value
    scales: ir.Value
    rows: int
    columns: int
    bits: Bits


@dataclass(kw_only=True)
class _Rewriter:
    """Replaces nodes of a graph one by one; a weight that several nodes use is packed once."""

    graph: ir.Graph
    bits_of: Callable[[str], Bits]
    """How many bits a weight keeps, by name."""
    block: int
    quantized: Callable[[str, bool], Pair]
    """Packs a weight, by name and whether it is [N, K] already; remembers the latest only."""
    packed: dict[tuple[str, bool], Packed] = field(default_factory=dict)
    twins: dict[str, str] = field(default_factory=dict)

    def pack(self, weight: ir.Value, *, transposed: bool) -> Packed:
        key = (str(weight.name), transposed)
        if key not in self.packed:
            rows, columns = shape(weight) if transposed else shape(weight)[::-1]
            blocks, name = -(-columns // self.block), f"{key[0]}{'' if transposed else '.T'}"
            bits = self.bits_of(key[0])
            size = self.block * bits // 8
            data = self._lazy(f"{name}.q{bits}", ir.DataType.UINT8, (rows, blocks, size), 0, key)
            scales = self._lazy(f"{name}.scales", ir.DataType.FLOAT, (rows, blocks), 1, key)
            self.packed[key] = Packed(data=data, scales=scales, rows=rows, columns=columns, bits=bits)
        return self.packed[key]

    def product(self, product: Product) -> None:
        packed = self.pack(product.weight, transposed=product.transposed)
        attributes = {
            "K": packed.columns,
            "N": packed.rows,
            "bits": packed.bits,
            "block_size": self.block,
            "accuracy_level": _ACCURACY,
        }
        node = ir.node(
            "MatMulNBits",
            [product.node.inputs[0], packed.data, packed.scales],
            attributes=attributes,
            domain=_DOMAIN,
            name=product.node.name,
        )
        nodes = [node]
        if product.bias is not None:
            nodes.append(ir.node("Add", [node.outputs[0], product.bias], name=f"{product.node.name}.bias"))
        self._replace(product.node, nodes)

    def embedding(self, node: ir.Node) -> None:
        table = node.inputs[0]
        assert table is not None
        packed = self.pack(table, transposed=True)
        # The same bytes as the product's, seen without the axis of blocks.
        flat = (packed.rows, packed.columns * packed.bits // 8)
        data = self._lazy(f"{packed.data.name}.rows", ir.DataType.UINT8, flat, 0, (str(table.name), True))
        self.twins[str(data.name)] = str(packed.data.name)
        attributes = {"gather_axis": 0, "quantize_axis": 1, "block_size": self.block, "bits": packed.bits}
        gather = ir.node(
            "GatherBlockQuantized",
            [data, node.inputs[1], packed.scales],
            attributes=attributes,
            domain=_DOMAIN,
            name=node.name,
        )
        self._replace(node, [gather])

    def _lazy(self, name: str, dtype: ir.DataType, dims: tuple[int, ...], part: int, key: tuple[str, bool]) -> ir.Value:
        def evaluate() -> ir.TensorProtocol:
            return ir.Tensor(self.quantized(*key)[part].reshape(dims), name=name)

        tensor = ir.LazyTensor(evaluate, dtype=dtype, shape=ir.Shape(dims), name=name)
        value = ir.Value(name=name, shape=ir.Shape(dims), type=ir.TensorType(dtype), const_value=tensor)
        self.graph.register_initializer(value)
        return value

    def _replace(self, old: ir.Node, new: list[ir.Node]) -> None:
        ir.convenience.replace_nodes_and_values(self.graph, old, [old], new, old.outputs, new[-1].outputs)


def quantize_weights(
    source: Path, target: Path, bits: Bits, block: int, *, head_bits: Bits, progress: Progress
) -> dict[str, Any]:
    """Write the graph in `source` to `target` with its weights in `bits` bits, and return what was done and left.

    The weights that make the logits, and the embedding table, keep `head_bits`. About the largest tensor is in memory
    at a time.

    Raises:
        ArtifactError: a weight holds NaN or Inf, or the file can't be read.
    """
    model = graphs.load(source)
    graph = model.graph
    products, left = find_products(graph)
    embeddings = [node for node in find_embeddings(graph) if _divides(node, block)]
    weights = {str(name): value.const_value for name, value in graph.initializers.items()}
    done: set[str] = set()
    head = {str(p.weight.name) for p in products if p.node.outputs[0].name == LOGITS}
    head |= {str(node.inputs[0].name) for node in embeddings if node.inputs[0] is not None}
    tables = [node.inputs[0] for node in embeddings]
    total = len({(p.weight.name, p.transposed) for p in products} | {(t.name, True) for t in tables if t is not None})

    def bits_of(name: str) -> Bits:
        return head_bits if name in head else bits

    @lru_cache(maxsize=1)
    def quantized(name: str, transposed: bool) -> Pair:
        tensor = weights[name]
        assert tensor is not None
        pair = quantize_weight(tensor.numpy() if transposed else tensor.numpy().T, bits_of(name), block, name=name)
        if isinstance(tensor, ir.ExternalTensor):
            tensor.release()
        done.add(f"{name}{transposed}")
        progress("quantize", len(done), total + 1, name)
        return pair

    rewriter = _Rewriter(graph=graph, bits_of=bits_of, block=block, quantized=quantized)
    for product in products:
        rewriter.product(product)
    for node in embeddings:
        rewriter.embedding(node)
    graph.opset_imports.setdefault(_DOMAIN, 1)
    RemoveUnusedNodesPass()(model)
    # An untied table has no product to share its bytes with.
    twins = {name: twin for name, twin in rewriter.twins.items() if twin in graph.initializers}
    graphs.save(model, target, same_bytes=twins)
    progress("quantize", total + 1, total + 1)
    return {"products": len(products), "products_left": left, "embeddings": len(embeddings)}


def _divides(node: ir.Node, block: int) -> bool:
    """Return whether a table's rows are whole blocks: a padded row could not be looked up without its padding."""
    table = node.inputs[0]
    assert table is not None
    return shape(table)[1] % block == 0
