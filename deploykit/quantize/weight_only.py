"""int8 and int4 weights: each product becomes a MatMulNBits whose weights are packed while the file is written."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import onnx_ir as ir
from numpy.typing import NDArray
from onnx_ir.passes.common import RemoveUnusedNodesPass

from deploykit import graph as graphs
from deploykit.artifact import Artifact
from deploykit.config import QuantizeConfig
from deploykit.progress import Progress
from deploykit.quantize.blocks import Bits, Blocks, zero_bytes
from deploykit.quantize.plan import Key, Plan, table_block
from deploykit.quantize.products import Product, find_embeddings, find_heads, find_products, shape
from deploykit.quantize.rounder import Rounder
from deploykit.quantize.rounding import Scheme

_DOMAIN: Final = "com.microsoft"
_ACCURACY: Final = 4
"""Activations are rounded to int8, block by block of a row, for ONNX Runtime's fastest kernel."""

Part = Callable[[Blocks], NDArray[Any]]


@dataclass(frozen=True, kw_only=True)
class Packed:
    """A weight's new initializers, and what each place of use must know."""

    data: ir.Value
    scales: ir.Value
    zeros: ir.Value | None
    rows: int
    columns: int
    scheme: Scheme

    @property
    def tail(self) -> list[ir.Value]:
        """What a node takes after the weight itself."""
        return [self.scales] if self.zeros is None else [self.scales, self.zeros]


@dataclass(kw_only=True)
class _Rewriter:
    """Replaces nodes of a graph one by one; a weight that several nodes use is packed once."""

    graph: ir.Graph
    plan: Plan
    quantized: Callable[[Key], Blocks]
    """Packs a weight; remembers the latest only."""
    packed: dict[Key, Packed] = field(default_factory=dict)
    twins: dict[str, str] = field(default_factory=dict)

    def pack(self, weight: ir.Value, key: Key) -> Packed:
        if key not in self.packed:
            rows, columns = shape(weight) if key.transposed else shape(weight)[::-1]
            scheme = self.plan.scheme(key.name, looked_up=key.looked_up)
            name = f"{key.label}{'' if key.transposed else '.T'}"
            bits, blocks = scheme.bits, -(-columns // scheme.block)
            dims = (rows, blocks, scheme.block * bits // 8)
            self.packed[key] = Packed(
                data=self._lazy(f"{name}.q{bits}", ir.DataType.UINT8, dims, key, lambda w: w.data),
                scales=self._lazy(f"{name}.scales", ir.DataType.FLOAT, (rows, blocks), key, lambda w: w.scales),
                zeros=None if scheme.symmetric else self._zeros(f"{name}.zeros", rows, blocks, bits, key),
                rows=rows,
                columns=columns,
                scheme=scheme,
            )
        return self.packed[key]

    def product(self, product: Product) -> None:
        packed = self.pack(product.weight, Key(str(product.weight.name), product.transposed))
        attributes = {
            "K": packed.columns,
            "N": packed.rows,
            "bits": packed.scheme.bits,
            "block_size": packed.scheme.block,
            "accuracy_level": _ACCURACY,
        }
        node = ir.node(
            "MatMulNBits",
            [product.node.inputs[0], packed.data, *packed.tail],
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
        key = Key(str(table.name), True, self.plan.twice(str(table.name)))
        packed = self.pack(table, key)
        bits, block = packed.scheme.bits, packed.scheme.block
        # The same bytes as the product's, seen without the axis of blocks.
        flat = (packed.rows, packed.columns * bits // 8)
        data = self._lazy(f"{packed.data.name}.rows", ir.DataType.UINT8, flat, key, lambda w: w.data)
        self.twins[str(data.name)] = str(packed.data.name)
        gather = ir.node(
            "GatherBlockQuantized",
            [data, node.inputs[1], *packed.tail],
            attributes={"gather_axis": 0, "quantize_axis": 1, "block_size": block, "bits": bits},
            domain=_DOMAIN,
            name=node.name,
        )
        self._replace(node, [gather])

    def _zeros(self, name: str, rows: int, blocks: int, bits: Bits, key: Key) -> ir.Value:
        dims = (rows, zero_bytes(blocks, bits))

        def stored(weight: Blocks) -> NDArray[Any]:
            assert weight.zeros is not None
            return weight.zeros

        return self._lazy(name, ir.DataType.UINT8, dims, key, stored)

    def _lazy(self, name: str, dtype: ir.DataType, dims: tuple[int, ...], key: Key, part: Part) -> ir.Value:
        def evaluate() -> ir.TensorProtocol:
            return ir.Tensor(part(self.quantized(key)).reshape(dims), name=name)

        tensor = ir.LazyTensor(evaluate, dtype=dtype, shape=ir.Shape(dims), name=name)
        value = ir.Value(name=name, shape=ir.Shape(dims), type=ir.TensorType(dtype), const_value=tensor)
        self.graph.register_initializer(value)
        return value

    def _replace(self, old: ir.Node, new: list[ir.Node]) -> None:
        ir.convenience.replace_nodes_and_values(self.graph, old, [old], new, old.outputs, new[-1].outputs)


def quantize_weights(
    artifact: Artifact, source: Path, target: Path, config: QuantizeConfig, *, progress: Progress
) -> dict[str, Any]:
    """Write an fp32 graph of the artifact to `target` with its weights in fewer bits; return what was done and left.

    About the largest tensor is in memory at a time, and what calibration needs.

    Raises:
        ArtifactError: a weight holds NaN or Inf, or the file can't be read.
        ConfigError: no weight has a name that `config` asks for, or the calibration text can't be read.
    """
    model = graphs.load(source)
    graph = model.graph
    products, left = find_products(graph)
    # Rows that can't be cut into whole blocks stay as they are.
    embeddings = [n for n in find_embeddings(graph) if table_block(shape(_table(n))[1], config.block_size)]
    tables = [_table(node) for node in embeddings]
    rounder = Rounder(artifact, config, products, tables, heads=find_heads(graph, products), progress=progress)
    rewriter = _Rewriter(graph=graph, plan=rounder.plan, quantized=rounder.quantized)
    for product in products:
        rewriter.product(product)
    for node in embeddings:
        rewriter.embedding(node)
    graph.opset_imports.setdefault(_DOMAIN, 1)
    RemoveUnusedNodesPass()(model)
    # An untied table, or one stored twice, has no product to share its bytes with.
    twins = {name: twin for name, twin in rewriter.twins.items() if twin in graph.initializers}
    graphs.save(model, target, same_bytes=twins)
    progress("quantize", rounder.total + 1, rounder.total + 1)
    return {"products": len(products), "products_left": left, "embeddings": len(embeddings), **rounder.record()}


def _table(node: ir.Node) -> ir.Value:
    table = node.inputs[0]
    assert table is not None
    return table
