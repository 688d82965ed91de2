"""dynamic-int8: a scale for each output of a product, found now, and one for each row of its input, found at run time.

A product `x @ W` becomes

    largest = Max(ReduceMax(Abs(x)), tiny)                        [..., 1]; these two shared by all products of x
    xq = QuantizeLinear(x / largest, 1/127, zero=128)
    y = MatMulIntegerToFloat(xq, Wq, 1/127, W_scale, zero=128) * largest  + bias

Sums of whole numbers are exact, and a row is rounded by itself: what it gives depends on no other, to the last bit.
`DynamicQuantizeLinear`, one scale for all rows, would let neighbours change a row's tokens; its error is larger, too.
The product is one kernel, ONNX Runtime's own; from standard operators it would fuse none, since 1/127 is a constant.

Weights are int8, since ONNX Runtime's kernels for AVX-VNNI and AVX-512 VNNI take uint8 x int8 (MLAS' platform.cpp);
uint8 x uint8 runs on older, slower ones. Without VNNI that pair overflows 16 bits now and then, unless the session asks
for exactness: `spec.EXACT_INT8`.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any, Final

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray
from onnx_ir.passes.common import RemoveUnusedNodesPass

from deploykit import graph as graphs
from deploykit.errors import ArtifactError
from deploykit.progress import Progress
from deploykit.quantize.products import Product, find_embeddings, find_products, shape

FloatArray = NDArray[np.float32]
Pair = tuple[NDArray[np.int8], FloatArray]

_CHUNK: Final = 1 << 18
"""Weights worked on at once: each array in between is 1 MiB and stays in a core's cache, however large the tensor."""
_LEVELS: Final = 127
"""The largest weight's level; -128 is left out, so that levels are symmetric."""
_ZERO: Final = 128
"""The level of zero in activations, which are unsigned: what ONNX Runtime's kernels take beside int8 weights."""
_SMALLEST: Final = 1e-30
"""Outputs whose weights are all smaller are zero, and so are rows of smaller activations: no scale is subnormal."""
_DOMAIN: Final = "com.microsoft"
_CONSTANTS: Final[dict[str, NDArray[Any]]] = {
    "step": np.array(1 / _LEVELS, np.float32),
    "zero": np.array(_ZERO, np.uint8),
    "tiny": np.array(_SMALLEST, np.float32),
    "last_axis": np.array([-1], np.int64),
}
"""What every product shares."""


def quantize_activations(source: Path, target: Path, *, progress: Progress) -> dict[str, Any]:
    """Write the graph in `source` to `target` with integers in each product, and return what was done and left.

    The embedding table is rounded as a head's weights are; where it is the head, both read one place in the file.
    About the largest tensor is in memory at a time.

    Raises:
        ArtifactError: a weight holds NaN or Inf, or the file can't be read.
    """
    model = graphs.load(source)
    graph = model.graph
    products, left = find_products(graph)
    embeddings = find_embeddings(graph)
    tables = {str(node.inputs[0].name) for node in embeddings if node.inputs[0] is not None}
    weights = {str(name): value.const_value for name, value in graph.initializers.items()}
    total = len({(p.weight.name, p.transposed) for p in products} | {(name, True) for name in tables})
    done: set[tuple[str, bool]] = set()

    @lru_cache(maxsize=1)
    def quantized(name: str, transposed: bool) -> Pair:
        tensor = weights[name]
        assert tensor is not None
        levels, scales = _by_row(tensor.numpy(), name) if transposed else _by_column(tensor.numpy(), name)
        if transposed and name not in tables:
            levels = np.ascontiguousarray(levels.T)
        if isinstance(tensor, ir.ExternalTensor):
            tensor.release()
        done.add((name, transposed))
        progress("quantize", len(done), total + 1, name)
        return levels, scales

    rewriter = _Rewriter(graph=graph, tables=tables, quantized=quantized)
    for product in products:
        rewriter.product(product)
    for node in embeddings:
        rewriter.embedding(node)
    graph.opset_imports.setdefault(_DOMAIN, 1)
    RemoveUnusedNodesPass()(model)
    graphs.save(model, target)
    progress("quantize", total + 1, total + 1)
    return {"products": len(products), "products_left": left, "embeddings": len(embeddings)}


@dataclass(frozen=True, kw_only=True)
class Rounded:
    """A weight's new initializers."""

    levels: ir.Value
    """int8, [K, N]; the table's own [V, E] where it is one."""
    scales: ir.Value
    """float32 [N]."""


@dataclass(frozen=True, kw_only=True)
class Rows:
    """An activation's rows, each rounded by itself."""

    levels: ir.Value
    """uint8, of the activation's shape: 127 levels on each side of `_ZERO`."""
    largest: ir.Value
    """float32, [..., 1]: what the highest level of a row stands for."""


@dataclass(kw_only=True)
class _Rewriter:
    """Replaces nodes of a graph one by one; what several of them need is written once."""

    graph: ir.Graph
    tables: set[str]
    """Names of the embedding tables, which keep their axes."""
    quantized: Callable[[str, bool], Pair]
    """Rounds a weight, by name and whether it is [N, K]; remembers the latest only."""
    rounded: dict[tuple[str, bool], Rounded] = field(default_factory=dict)
    inputs: dict[ir.Value, Rows] = field(default_factory=dict)
    constants: dict[str, ir.Value] = field(default_factory=dict)
    turned: dict[str, ir.Node] = field(default_factory=dict)

    def product(self, product: Product) -> None:
        x, name = product.node.inputs[0], str(product.node.name)
        assert x is not None
        nodes: list[ir.Node] = []
        rows = self._input(x, nodes)
        weight, scales = self._weight(product, nodes)
        operands = [rows.levels, weight, self._constant("step"), scales, self._constant("zero")]
        nodes.append(ir.node("MatMulIntegerToFloat", operands, domain=_DOMAIN, name=name))
        nodes.append(ir.node("Mul", [nodes[-1].outputs[0], rows.largest], name=f"{name}.scaled"))
        if product.bias is not None:
            nodes.append(ir.node("Add", [nodes[-1].outputs[0], product.bias], name=f"{name}.bias"))
        self._replace(product.node, nodes)

    def embedding(self, node: ir.Node) -> None:
        table, ids = node.inputs[0], node.inputs[1]
        assert table is not None
        rounded = self._rounded(table, transposed=True)
        column = self._lazy(f"{rounded.scales.name}.column", ir.DataType.FLOAT, (shape(table)[0], 1), 1, table, True)
        rows = ir.node("Gather", [rounded.levels, ids], name=node.name)
        whole = ir.node("Cast", rows.outputs, attributes={"to": ir.DataType.FLOAT}, name=f"{node.name}.cast")
        scales = ir.node("Gather", [column, ids], name=f"{node.name}.scales")
        scaled = ir.node("Mul", [whole.outputs[0], scales.outputs[0]], name=f"{node.name}.scaled")
        self._replace(node, [rows, whole, scales, scaled])

    def _input(self, x: ir.Value, nodes: list[ir.Node]) -> Rows:
        """Return the rows of `x`, rounded before its first product."""
        if x not in self.inputs:
            sizes = ir.node("Abs", [x], name=f"{x.name}.sizes")
            most = ir.node("ReduceMax", [sizes.outputs[0], self._constant("last_axis")], name=f"{x.name}.most")
            largest = ir.node("Max", [most.outputs[0], self._constant("tiny")], name=f"{x.name}.largest")
            shares = ir.node("Div", [x, largest.outputs[0]], name=f"{x.name}.shares")
            levels = ir.node(
                "QuantizeLinear",
                [shares.outputs[0], self._constant("step"), self._constant("zero")],
                name=f"{x.name}.levels",
            )
            nodes += [sizes, most, largest, shares, levels]
            self.inputs[x] = Rows(levels=levels.outputs[0], largest=largest.outputs[0])
        return self.inputs[x]

    def _constant(self, name: str) -> ir.Value:
        if name not in self.constants:
            tensor = ir.Tensor(_CONSTANTS[name], name=f"dynamic.{name}")
            kind = ir.TensorType(tensor.dtype)
            value = ir.Value(name=tensor.name, shape=ir.Shape(tensor.shape), type=kind, const_value=tensor)
            self.graph.register_initializer(value)
            self.constants[name] = value
        return self.constants[name]

    def _weight(self, product: Product, nodes: list[ir.Node]) -> tuple[ir.Value, ir.Value]:
        """Return a product's levels [K, N] and their scales [N]."""
        name = str(product.weight.name)
        rounded = self._rounded(product.weight, transposed=product.transposed)
        if not product.transposed or name not in self.tables:
            return rounded.levels, rounded.scales
        if name not in self.turned:
            # ONNX Runtime turns it once, when it loads the model; the file holds the table's bytes only.
            axes = {"perm": [1, 0]}
            self.turned[name] = ir.node(
                "Transpose", [rounded.levels], attributes=axes, name=f"{product.node.name}.turn"
            )
            nodes.append(self.turned[name])
        return self.turned[name].outputs[0], rounded.scales

    def _rounded(self, weight: ir.Value, *, transposed: bool) -> Rounded:
        key = (str(weight.name), transposed)
        if key not in self.rounded:
            dims = shape(weight)
            turned = transposed and key[0] not in self.tables
            name = f"{key[0]}.T" if turned else key[0]
            outputs = dims[0] if transposed else dims[1]
            self.rounded[key] = Rounded(
                levels=self._lazy(
                    f"{name}.q8", ir.DataType.INT8, dims[::-1] if turned else dims, 0, weight, transposed
                ),
                scales=self._lazy(f"{name}.scales", ir.DataType.FLOAT, (outputs,), 1, weight, transposed),
            )
        return self.rounded[key]

    def _lazy(
        self, name: str, dtype: ir.DataType, dims: tuple[int, ...], part: int, weight: ir.Value, transposed: bool
    ) -> ir.Value:
        def evaluate() -> ir.TensorProtocol:
            return ir.Tensor(self.quantized(str(weight.name), transposed)[part].reshape(dims), name=name)

        tensor = ir.LazyTensor(evaluate, dtype=dtype, shape=ir.Shape(dims), name=name)
        value = ir.Value(name=name, shape=ir.Shape(dims), type=ir.TensorType(dtype), const_value=tensor)
        self.graph.register_initializer(value)
        return value

    def _replace(self, old: ir.Node, new: list[ir.Node]) -> None:
        ir.convenience.replace_nodes_and_values(self.graph, old, [old], new, old.outputs, new[-1].outputs)


def _by_row(weight: FloatArray, name: str) -> Pair:
    """Return levels [N, K] and a scale for each row, [N], of a weight [N, K] that is read a few rows at a time."""
    levels, scales = np.empty(weight.shape, np.int8), np.empty(len(weight), np.float32)
    for rows in _pieces(weight):
        part = weight[rows]
        scales[rows] = _scales(np.abs(part).max(axis=1, initial=0), name)
        levels[rows] = _round(part, scales[rows, None])
    return levels, scales


def _by_column(weight: FloatArray, name: str) -> Pair:
    """Return levels [K, N] and a scale for each column, [N], of a weight [K, N] that is read twice, in pieces."""
    levels, largest = np.empty(weight.shape, np.int8), np.zeros(weight.shape[1], np.float32)
    for rows in _pieces(weight):
        np.maximum(largest, np.abs(weight[rows]).max(axis=0, initial=0), out=largest)
    scales = _scales(largest, name)
    for rows in _pieces(weight):
        levels[rows] = _round(weight[rows], scales)
    return levels, scales


def _pieces(weight: FloatArray) -> list[slice]:
    step = max(1, _CHUNK // max(1, weight.shape[1]))
    return [slice(start, start + step) for start in range(0, len(weight), step)]


def _scales(largest: FloatArray, name: str) -> FloatArray:
    if not np.isfinite(largest).all():
        raise ArtifactError(f"weight {name!r} holds NaN or Inf; the checkpoint is damaged")
    return np.where(largest < _SMALLEST, np.float32(0), largest / np.float32(_LEVELS)).astype(np.float32)


def _round(weights: FloatArray, scales: FloatArray) -> NDArray[np.int8]:
    inverse = np.divide(1, scales, out=np.zeros_like(scales), where=scales != 0)
    return np.asarray(np.clip(np.rint(weights * inverse), -_LEVELS, _LEVELS), np.int8)
