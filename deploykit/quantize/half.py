"""fp16 and int4-fp16: the files for a GPU. Weights, cache and products in fp16, logits in fp32."""

import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO, Final

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray
from onnx_ir.passes.common import LiftConstantsToInitializersPass, RemoveUnusedNodesPass

from deploykit import graph as graphs
from deploykit.attention_bias import drop_mask_bias
from deploykit.errors import ArtifactError
from deploykit.progress import Progress
from deploykit.quantize.autocast import FILLER, LARGEST, Mixer
from deploykit.spec import LOGITS

_CHUNK: Final = 1 << 20
"""Weights turned at once: 6 MiB in both types."""
_MASKED: Final = -1e6
"""Numbers below it are masks' fillers (transformers takes -1e9 and the lowest number of a type) and no weights."""

Write = Callable[[Path], dict[str, Any]]


def halve_quantized(write: Write, target: Path, *, progress: Progress) -> dict[str, Any]:
    """Write an fp16 graph with quantized weights to `target`, and return the figures of both steps.

    Args:
        write: writes the quantized fp32 graph to the path it is given and returns what was done.
        target: the graph file.
        progress: told which weight is being turned.

    Raises:
        ArtifactError: as `halve`.
    """
    with tempfile.TemporaryDirectory(dir=target.parent) as folder:
        quantized = Path(folder) / "quantized.onnx"
        figures = write(quantized)
        return {**halve(quantized, target, progress=progress), **figures}


def halve(source: Path, target: Path, *, progress: Progress) -> dict[str, Any]:
    """Write the graph in `source` to `target` in fp16, and return what was done.

    The mask's attention bias goes: ONNX Runtime's CUDA kernels refuse it or lose their fastest path by it, and rows
    padded on the right need none. One tensor is turned at a time, piece by piece, while the file is written.

    Raises:
        ArtifactError: a weight is too large for fp16 or not finite, a node holds a graph of its own, or the file can't
            be read.
    """
    model = graphs.load(source)
    graph = model.graph
    biases = drop_mask_bias(graph)
    RemoveUnusedNodesPass()(model)
    LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0)(model)
    halves: dict[str, ir.Value] = {}
    done: set[str] = set()

    def told(name: str) -> None:
        done.add(name)
        progress("halve", len(done), len(halves) + 1, name)

    def halved(value: ir.Value) -> ir.Value:
        name, tensor = str(value.name), value.const_value
        assert tensor is not None
        if name not in halves:
            half = HalfTensor(f"{name}.fp16", tensor, on_write=lambda: told(name))
            halves[name] = ir.Value(name=half.name, shape=half.shape, type=ir.TensorType(half.dtype), const_value=half)
            graph.register_initializer(halves[name])
        return halves[name]

    mixer = Mixer(graph=graph, halved=halved)
    mixer.run()
    for at, value in enumerate(list(graph.outputs)):
        _finish(mixer, at, value)
    RemoveUnusedNodesPass()(model)
    graphs.save(model, target, same_bytes=_twins(graph))
    progress("halve", len(halves) + 1, len(halves) + 1)
    return {
        "products": mixer.half_products,
        "weights_in_fp16": len(halves),
        "nodes_in_fp32": mixer.wide_nodes,
        "casts": len(mixer.casts),
        "attention_biases_removed": biases,
    }


class HalfTensor(ir.LazyTensor):
    """An fp32 initializer in fp16: turned when it is written, piece by piece, and never kept."""

    def __init__(self, name: str, source: ir.TensorProtocol, *, on_write: Callable[[], None]) -> None:
        dims = ir.Shape(source.shape.numpy())
        super().__init__(self._whole, ir.DataType.FLOAT16, dims, name=name, cache=False)
        self._source = source
        self._on_write = on_write

    def tofile(self, file: BinaryIO) -> None:
        """Write the elements, little-endian, to `file`."""
        file.writelines(piece.data for piece in self._pieces())

    def _whole(self) -> ir.TensorProtocol:
        pieces = [np.empty(0, np.float16), *self._pieces()]
        return ir.Tensor(np.concatenate(pieces).reshape(self.shape.numpy()), name=self.name)

    def _pieces(self) -> Iterator[NDArray[np.float16]]:
        flat = self._source.numpy().reshape(-1)
        for start in range(0, flat.size, _CHUNK):
            yield _turn(flat[start : start + _CHUNK], flat, name=str(self._source.name))
        del flat
        if isinstance(self._source, ir.ExternalTensor):
            self._source.release()
        self._on_write()


def _turn(part: NDArray[np.float32], whole: NDArray[np.float32], *, name: str) -> NDArray[np.float16]:
    """Return a part of a weight in fp16; what is beyond its range must be a mask's filler."""
    largest = np.abs(part).max(initial=0)
    # Written so that NaN comes here too.
    if not largest <= LARGEST:
        beyond = whole[~(np.abs(whole) <= LARGEST)]
        if not np.isfinite(beyond).all() and not (beyond == -np.inf).all():
            raise ArtifactError(f"weight {name!r} holds NaN or Inf; the checkpoint is damaged")
        if not beyond.max() == beyond.min() <= _MASKED:
            raise ArtifactError(
                f"weight {name!r} reaches {beyond[np.abs(beyond).argmax()]:.4g}, and fp16 ends at {LARGEST:.0f}; "
                "use --quantize int8"
            )
        part = np.maximum(part, np.float32(FILLER))
    return part.astype("<f2")


def _finish(mixer: Mixer, at: int, value: ir.Value) -> None:
    """Give a graph output its type: logits fp32, the cache fp16."""
    if value not in mixer.kinds:
        return
    name, graph = str(value.name), mixer.graph
    result = mixer.cast(value, "wide" if name == LOGITS else "half")
    if result is not value:
        value.name, result.name = f"{name}.computed", name
        graph.outputs[at] = result


def _twins(graph: ir.Graph) -> dict[str, str]:
    """Return the initializers that share their bytes with an earlier one, as head and table do."""
    first: dict[tuple[str, int | None, int | None], str] = {}
    twins: dict[str, str] = {}
    for name, value in graph.initializers.items():
        tensor = value.const_value
        if isinstance(tensor, ir.ExternalTensor):
            known = first.setdefault((str(tensor.path), tensor.offset, tensor.length), name)
            if known != name:
                twins[name] = known
    return twins
