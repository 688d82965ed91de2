"""Which nodes of an fp32 graph may compute in fp16, and the casts between those and the others.

The scheme is that of PyTorch's autocast, known from training. A float value is one of

    half      fp16: weights, cache, and what products make of them
    wide      fp32, since fp16 would lose too much or overflow: squares, means, exponentials (the insides of a norm, a
              softmax) and what is computed from them, until a product takes it
    plain     fp32, made of integers and constants alone: positions, rotary angles, masks
    constant  an initializer in another shape or order: of both types, as the initializer itself

A node with inputs of several kinds computes in the widest, but products take fp16, and what only moves values about
keeps the cache as it is.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final, Literal

import numpy as np
import onnx_ir as ir

from deploykit.errors import ArtifactError

Kind = Literal["half", "wide", "plain", "constant"]

LARGEST: Final = 65504.0
"""The largest number of fp16."""
FILLER: Final = -32752.0
"""What masks' "minus infinity" becomes: half of fp16's range, so that the score it is added to can't overflow, and a
row of it alone is no NaN."""

_PRODUCTS: Final = frozenset({"MatMul", "Gemm", "Einsum", "Conv", "ConvTranspose", "Attention"})
_WIDE: Final = frozenset(
    {
        *("Pow", "Sqrt", "Reciprocal", "Exp", "Log", "Softplus", "Softmax", "LogSoftmax", "CumSum"),
        *("ReduceMean", "ReduceSum", "ReduceSumSquare", "ReduceL1", "ReduceL2", "ReduceLogSumExp", "ReduceProd"),
    }
)
_MOVES: Final = frozenset(
    {
        *("Concat", "Where", "Expand", "Reshape", "Transpose", "Slice", "Split", "Squeeze", "Unsqueeze", "Tile", "Pad"),
        *("Gather", "GatherElements", "GatherND", "ScatterElements", "ScatterND", "TensorScatter", "Identity"),
    }
)
_LOOKUPS: Final = frozenset({"Gather", "GatherBlockQuantized"})
_NOT_FLOAT: Final = frozenset(
    {
        *("Shape", "Size", "NonZero", "ArgMax", "ArgMin", "IsNaN", "IsInf"),
        *("Equal", "Greater", "GreaterOrEqual", "Less", "LessOrEqual"),
    }
)
_FIRST_ONLY: Final = frozenset({"TopK", "Dropout"})
"""Operators of whose outputs only the first is float."""
_GRAPHS: Final = (ir.AttributeType.GRAPH, ir.AttributeType.GRAPHS)


@dataclass(kw_only=True)
class Mixer:
    """Goes through a graph once, node by node, and gives each its type."""

    graph: ir.Graph
    halved: Callable[[ir.Value], ir.Value]
    """Returns the fp16 twin of an fp32 initializer."""
    kinds: dict[ir.Value, Kind] = field(default_factory=dict)
    """Of every float value but the initializers."""
    casts: dict[tuple[ir.Value, Kind], ir.Value] = field(default_factory=dict)
    twins: dict[ir.Value, ir.Value] = field(default_factory=dict)
    """The constants in fp16."""
    wide_nodes: int = 0
    half_products: int = 0

    def run(self) -> None:
        """Rewrite the graph; its float inputs become fp16.

        Raises:
            ArtifactError: a node holds a graph of its own.
        """
        for value in self.graph.inputs:
            if value.dtype == ir.DataType.FLOAT:
                self.kinds[value] = "half"
                value.type = ir.TensorType(ir.DataType.FLOAT16)
        for node in list(self.graph):
            if any(attribute.type in _GRAPHS for attribute in node.attributes.values()):
                raise ArtifactError(
                    f"node {node.name!r} ({node.op_type}) holds a graph of its own, which can't be turned to fp16; "
                    "use --quantize int8"
                )
            self._node(node)

    def cast(self, value: ir.Value, kind: Kind, before: ir.Node | None = None) -> ir.Value:
        """Return `value` in the type of a kind, cast where need be, before a node or at the graph's end."""
        kind = "half" if kind == "half" else "wide"
        have = self.kinds[value]
        if (have == "half") == (kind == "half"):
            return value
        if have == "constant":
            return self._twin(value) if kind == "half" else value
        if (value, kind) not in self.casts:
            wanted = ir.DataType.FLOAT16 if kind == "half" else ir.DataType.FLOAT
            nodes = [ir.node("Cast", [value], attributes={"to": wanted}, name=f"{value.name}.{kind}")]
            if have == "plain":
                # It may be a mask, and -3.4e38 would be cast to -inf.
                bounds = [self._number("lowest", FILLER), self._number("highest", LARGEST)]
                clip = ir.node("Clip", [value, *bounds], name=f"{value.name}.clipped")
                nodes[0].replace_input_with(0, clip.outputs[0])
                nodes.insert(0, clip)
            if before is None:
                self.graph.extend(nodes)
            else:
                self.graph.insert_before(before, nodes)
            self._declare(nodes[-1].outputs[0], kind, value.shape)
            self.casts[value, kind] = nodes[-1].outputs[0]
        return self.casts[value, kind]

    def _node(self, node: ir.Node) -> None:
        outputs = [value for value in node.outputs[: 1 if node.op_type in _FIRST_ONLY else None] if self._float(value)]
        if node.op_type == "Cast":
            self._keep_cast(node)
            return
        places = [
            (at, value)
            for at, value in enumerate(node.inputs)
            if value is not None and (value in self.kinds or _is_weight(value))
        ]
        live = {self.kinds[value] for _, value in places if value in self.kinds} - {"constant"}
        kind = self._kind(node, live, floats=bool(places))
        for at, value in places:
            if value in self.kinds:
                node.replace_input_with(at, self.cast(value, kind, before=node))
            elif kind == "half":
                node.replace_input_with(at, self.halved(value))
        for value in outputs:
            self._declare(value, kind, value.shape)
        self.wide_nodes += kind == "wide"
        self.half_products += kind == "half" and (node.op_type in _PRODUCTS or node.op_type == "MatMulNBits")

    def _kind(self, node: ir.Node, live: set[Kind], *, floats: bool) -> Kind:
        """Return the kind a node computes in, from those of its inputs that aren't constant."""
        if not live and floats and node.op_type in _LOOKUPS | _MOVES:
            return "half" if node.op_type in _LOOKUPS else "constant"
        if live <= {"plain"}:
            return "plain"
        squares = node.op_type == "Mul" and node.inputs[0] is node.inputs[1]
        if node.op_type in _WIDE or squares:
            return "wide"
        takes_half = node.op_type in _PRODUCTS or node.domain or (node.op_type in _MOVES and "half" in live)
        return "half" if takes_half or live == {"half"} else "wide"

    def _twin(self, value: ir.Value) -> ir.Value:
        """Return a constant's twin in fp16: the same node on the initializers' twins."""
        if value not in self.twins:
            node = value.producer()
            assert node is not None
            inputs = [self._half_of(v) if v is not None else None for v in node.inputs]
            outputs = len(node.outputs)
            twin = ir.node(
                node.op_type, inputs, attributes=node.attributes, num_outputs=outputs, name=f"{node.name}.half"
            )
            self.graph.insert_after(node, twin)
            for old, new in zip(node.outputs, twin.outputs, strict=True):
                self._declare(new, "half", old.shape)
                self.twins[old] = new
        return self.twins[value]

    def _half_of(self, value: ir.Value) -> ir.Value:
        if value in self.kinds:
            return self._twin(value)
        return self.halved(value) if _is_weight(value) else value

    def _keep_cast(self, node: ir.Node) -> None:
        """Leave a cast as it is: to fp32, it was meant."""
        value, to = node.inputs[0], node.attributes.get_int("to", 0)
        assert value is not None
        if to == ir.DataType.FLOAT:
            computed = self.kinds.get(value) in ("half", "wide")
            self._declare(node.outputs[0], "wide" if computed else "plain", value.shape)
        elif to == ir.DataType.FLOAT16:
            self._declare(node.outputs[0], "half", value.shape)

    def _float(self, value: ir.Value) -> bool:
        """Return whether an output is float: as declared, or else as its operator's inputs are."""
        if value.dtype is not None:
            return value.dtype == ir.DataType.FLOAT
        node = value.producer()
        assert node is not None
        if node.op_type == "ConstantOfShape":
            return "value" not in node.attributes or node.attributes["value"].as_tensor().dtype == ir.DataType.FLOAT
        if node.op_type in _NOT_FLOAT or not value.name:
            return False
        return any(v is not None and (v in self.kinds or _is_weight(v)) for v in node.inputs)

    def _declare(self, value: ir.Value, kind: Kind, shape: ir.Shape | None) -> None:
        self.kinds[value] = kind
        value.type = ir.TensorType(ir.DataType.FLOAT16 if kind == "half" else ir.DataType.FLOAT)
        value.shape = shape

    def _number(self, name: str, number: float) -> ir.Value:
        name = f"half.{name}"
        if name not in self.graph.initializers:
            tensor = ir.tensor(np.array(number, np.float32), name=name)
            value = ir.Value(name=name, shape=ir.Shape(()), type=ir.TensorType(tensor.dtype), const_value=tensor)
            self.graph.register_initializer(value)
        return self.graph.initializers[name]


def _is_weight(value: ir.Value) -> bool:
    return value.is_initializer() and value.const_value is not None and value.const_value.dtype == ir.DataType.FLOAT
