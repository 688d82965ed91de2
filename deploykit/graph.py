"""ONNX files with their weights left on disk: read lazily, written tensor by tensor."""

from collections.abc import Mapping
from pathlib import Path
from typing import BinaryIO, Final

import onnx_ir as ir

from deploykit.errors import ArtifactError
from deploykit.external import check_external_data
from deploykit.spec import data_file

INLINE_BYTES: Final = 1024
"""Tensors smaller than this stay in the graph file, where shape inference and folding see them."""
_PAGE: Final = 4096
"""Large tensors start on a page (x86 and most Arm), so that mapping one doesn't map its neighbour's end."""
_LARGE: Final = 1 << 20


def load(file: Path) -> ir.Model:
    """Return the graph in `file`; its external tensors are mapped only when they are read.

    Raises:
        ArtifactError: the file is no ONNX model, or an external tensor lies outside the graph's own data file.
    """
    if not file.is_file():
        raise ArtifactError(f"{file}: is not there; export the checkpoint again")
    check_external_data(file)
    try:
        model = ir.load(file)
    except Exception as error:  # protobuf, onnx and onnx-ir each have errors of their own for damaged files
        raise ArtifactError(
            f"{file}: can't be read as ONNX: {error.__cause__ or error}; export the checkpoint again"
        ) from error
    data = file.with_name(data_file(file.name))
    size = data.stat().st_size if data.is_file() else 0
    for name, value in model.graph.initializers.items():
        if value.const_value is not None and any(axis < 0 for axis in value.const_value.shape.numpy()):
            raise ArtifactError(f"{file}: tensor {name!r} has a negative axis; export the checkpoint again")
        if isinstance(value.const_value, ir.ExternalTensor):
            _check_external(file, value.const_value, size)
    if size and data.stat().st_nlink > 1:
        # onnx-ir refuses such a file when it maps it; said here, it is one line that names the remedy.
        raise ArtifactError(f"{data}: has other hard links, so it could change under its hash; copy the artifact first")
    return model


def _check_external(file: Path, tensor: ir.ExternalTensor, size: int) -> None:
    start, length = tensor.offset or 0, tensor.length
    if str(tensor.location) != data_file(file.name):
        raise ArtifactError(f"{file}: tensor {tensor.name!r} is stored in {str(tensor.location)!r}, outside its data")
    if length is None or start < 0 or length != tensor.nbytes or start + length > size:
        raise ArtifactError(
            f"{file}: tensor {tensor.name!r} claims bytes {start} to {start + (length or 0)} of {size} in its data file"
        )


def save(model: ir.Model, file: Path, *, same_bytes: Mapping[str, str] | None = None) -> int:
    """Write `model` to `file` and its weights beside it, one tensor in memory at a time; return both files' bytes.

    Args:
        model: its initializers refer to the new file afterwards.
        file: the graph file; its data file is named after it and is left out where it would be empty.
        same_bytes: initializers whose bytes equal those of another one, by name: both then share one place.
    """
    twins = same_bytes or {}
    data = file.with_name(data_file(file.name))
    initializers = model.graph.initializers
    kept: dict[str, ir.TensorProtocol] = {}
    with data.open("wb") as stream:
        for name, value in initializers.items():
            tensor = value.const_value
            if name in twins or tensor is None:
                continue
            if tensor.nbytes < INLINE_BYTES:
                if isinstance(tensor, ir.LazyTensor):
                    # onnx-ir would wrap the error of a damaged weight in one of its own.
                    value.const_value = ir.Tensor(tensor.numpy(), dtype=tensor.dtype, name=tensor.name)
                continue
            stream.write(b"\0" * (-stream.tell() % (_PAGE if tensor.nbytes >= _LARGE else 64)))
            start = stream.tell()
            _write(tensor, stream)
            if isinstance(tensor, ir.ExternalTensor):
                tensor.release()
            kept[name] = _external(tensor, data, start)
    for name, tensor in kept.items():
        initializers[name].const_value = tensor
    for name, twin in twins.items():
        initializers[name].const_value = _twin(initializers[name], initializers[twin])
    ir.save(model, file)
    if not kept:
        data.unlink()
    return file.stat().st_size + (data.stat().st_size if kept else 0)


def _write(tensor: ir.TensorProtocol, stream: BinaryIO) -> None:
    # These write themselves without a copy; the protocol alone promises only bytes.
    if isinstance(tensor, ir.ExternalTensor | ir.LazyTensor | ir.Tensor):
        tensor.tofile(stream)
    else:
        stream.write(tensor.tobytes())


def _external(tensor: ir.TensorProtocol, data: Path, start: int) -> ir.ExternalTensor:
    return ir.ExternalTensor(
        data.name,
        start,
        tensor.nbytes,
        tensor.dtype,
        shape=ir.Shape(tensor.shape.numpy()),
        name=tensor.name or "",
        base_dir=data.parent,
    )


def _twin(value: ir.Value, other: ir.Value) -> ir.TensorProtocol:
    wanted, stored = value.const_value, other.const_value
    assert wanted is not None
    assert stored is not None
    assert wanted.nbytes == stored.nbytes, (value.name, other.name)
    if isinstance(stored, ir.ExternalTensor):
        return _external(wanted, Path(stored.path), stored.offset or 0)
    return wanted
