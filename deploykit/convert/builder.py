"""A graph being written node by node, with weights that are read only when the file is.

Nodes are named by the scope they are written in: `layers.0/attention/MatMul_7`.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, BinaryIO, Final

import numpy as np
import onnx_ir as ir

from deploykit.convert.weights import FloatArray, StoredTensor
from deploykit.spec import DECODER_MASK, LOGITS_TO_KEEP, DecoderSpec, TensorSpec

IR_VERSION: Final = 10
"""Newest ONNX file format that onnxruntime-web and onnxruntime-genai of 2025 read as well."""
CONTRIB: Final = "com.microsoft"
"""Domain of ONNX Runtime's own operators."""
BLOCK_BYTES: Final = 1 << 24
"""Size of the pieces in which a weight is written: all that a transposed copy costs."""

_DEFAULTS: Final = {
    # All rows: onnxruntime-genai sets memory for them aside, and optimum's callers expect them.
    LOGITS_TO_KEEP: np.array(0, np.int64),
    # No place of any row: a graph that has this input takes the places past its end for real tokens.
    DECODER_MASK: np.zeros((1, 0), np.int64),
}

Pieces = Callable[[], Iterator[FloatArray]]
"""Yields the elements of a tensor in order, a few megabytes at a time."""
Change = Callable[[FloatArray], FloatArray]
"""From a tensor as the checkpoint has it to one of the same shape as the graph needs it."""


class StreamedTensor(ir.LazyTensor):
    """An fp32 initializer that is read from the checkpoint when it is written, block by block, and never kept."""

    def __init__(self, name: str, shape: tuple[int, ...], blocks: Pieces) -> None:
        super().__init__(self._whole, ir.DataType.FLOAT, ir.Shape(shape), name=name, cache=False)
        self._blocks = blocks
        self.on_write: Callable[[int], None] = _ignore
        """Told the bytes of each block that was written."""

    def tofile(self, file: BinaryIO) -> None:
        """Write the elements, little-endian, to `file`."""
        for block in self._blocks():
            file.write(np.ascontiguousarray(block, dtype="<f4").data)
            self.on_write(block.nbytes)

    def _whole(self) -> ir.TensorProtocol:
        array = np.concatenate([np.ascontiguousarray(block) for block in self._blocks()])
        return ir.Tensor(array.reshape(self.shape.numpy()), name=self.name)


def _ignore(size: int) -> None:
    """Do nothing with a report that nobody waits for."""


class Graph:
    """A graph being written."""

    def __init__(
        self, inputs: Iterable[TensorSpec], outputs: Iterable[TensorSpec], *, opset: int, name: str = "decoder"
    ) -> None:
        self._opset, self._name = opset, name
        self._tape = ir.tape.Tape()
        self._constants: dict[tuple[str, bytes, tuple[int, ...]], ir.Value] = {}
        self._ones: dict[str, ir.Value] = {}
        self._scope: list[str] = []
        self._count = 0
        self._declared = tuple(outputs)
        self.inputs = {tensor.name: _declare(tensor) for tensor in inputs}
        self.outputs: dict[str, ir.Value] = {}

    @contextmanager
    def scope(self, name: str) -> Iterator[None]:
        """Put `name` before the names of the nodes written inside."""
        self._scope.append(name)
        try:
            yield
        finally:
            self._scope.pop()

    def op(self, kind: str, *inputs: ir.Value | None, domain: str = "", **attributes: Any) -> ir.Value:
        """Write a node with one output and return that."""
        return self.ops(kind, *inputs, outputs=1, domain=domain, **attributes)[0]

    def ops(
        self, kind: str, *inputs: ir.Value | None, outputs: int, domain: str = "", **attributes: Any
    ) -> Sequence[ir.Value]:
        """Write a node with several outputs and return them."""
        name = "/".join([*self._scope, f"{kind}_{self._count}"])
        self._count += 1
        values = [ir.val(name if not number else f"{name}.{number}") for number in range(outputs)]
        return self._tape.op_multi_out(kind, inputs, attributes, outputs=values, domain=domain, name=name)

    def ones(self, size: int) -> ir.Value:
        """Return `size` ones: the weights of a norm that has none."""
        name = f"ones.{size}"
        if name not in self._ones:
            self._ones[name] = self.generated(name, (size,), lambda: iter([np.ones(size, np.float32)]))
        return self._ones[name]

    def constant(self, value: float | Sequence[int]) -> ir.Value:
        """Return a small constant, int64 or float32, written once however often it is asked for."""
        array = np.array(value, np.float32 if isinstance(value, float) else np.int64)
        key = (array.dtype.str, array.tobytes(), array.shape)
        if key not in self._constants:
            name = f"constant_{len(self._constants)}"
            self._constants[key] = self._tape.initializer(ir.tensor(array, name=name))
        return self._constants[key]

    def weight(
        self, *tensors: StoredTensor, name: str | None = None, transpose: bool = False, change: Change | None = None
    ) -> ir.Value:
        """Return an initializer made of checkpoint tensors put one under the other, then transposed if asked.

        Args:
            tensors: at least one; all have the same shape but for their rows.
            name: the initializer's; the first tensor's where None.
            transpose: whether to swap rows and columns.
            change: what else is done to the rows before; it returns an array of the same shape.
        """
        rows = sum(tensor.shape[0] for tensor in tensors)
        shape = (rows, *tensors[0].shape[1:])

        def as_stored() -> Iterator[FloatArray]:
            for tensor in tensors:
                yield from tensor.checked()

        def blocks() -> Iterator[FloatArray]:
            whole, start = np.empty(shape, np.float32), 0
            for tensor in tensors:
                tensor.read_into(whole[start : start + tensor.shape[0]])
                start += tensor.shape[0]
            whole = whole if change is None else change(whole)
            turned = whole.T if transpose else whole
            step = max(1, BLOCK_BYTES // max(1, turned[:1].nbytes))
            for row in range(0, len(turned), step):
                yield turned[row : row + step]

        pieces = blocks if transpose or change else as_stored
        return self.generated(name or tensors[0].name, shape[::-1] if transpose else shape, pieces)

    def generated(self, name: str, shape: tuple[int, ...], blocks: Pieces) -> ir.Value:
        """Return an initializer whose rows `blocks` yields when it is written."""
        return self._tape.initializer(StreamedTensor(name, shape, blocks))

    def model(self) -> ir.Model:
        """Return the finished model, its inputs and outputs in the order in which they were declared."""
        outputs = []
        for tensor in self._declared:
            value, declared = self.outputs[tensor.name], _declare(tensor)
            value.name, value.type, value.shape = declared.name, declared.type, declared.shape
            outputs.append(value)
        graph = ir.Graph(
            inputs=list(self.inputs.values()),
            outputs=outputs,
            nodes=self._tape.nodes,
            initializers=[*self._tape.initializers, *self._defaults()],
            opset_imports={"": self._opset, CONTRIB: 1},
            name=self._name,
        )
        return ir.Model(graph, ir_version=IR_VERSION, producer_name="deploykit")

    def _defaults(self) -> Iterator[ir.Value]:
        """Yield the inputs that nobody has to feed."""
        for name, default in _DEFAULTS.items():
            if name in self.inputs:
                value = self.inputs[name]
                value.const_value = ir.tensor(default, name=name)
                yield value


class DecoderGraph(Graph):
    """A decoder's graph being written."""

    def __init__(self, spec: DecoderSpec, *, opset: int) -> None:
        super().__init__(spec.inputs(), spec.outputs(), opset=opset)
        self.spec = spec


def _declare(tensor: TensorSpec) -> ir.Value:
    kind = {"int64": ir.DataType.INT64, "float32": ir.DataType.FLOAT, "float16": ir.DataType.FLOAT16}[tensor.dtype]
    return ir.val(tensor.name, dtype=kind, shape=tensor.shape)
