"""A graph in ONNX Runtime that was found to take and give what its contract says."""

from collections.abc import Sequence
from pathlib import Path
from typing import Final

import onnxruntime as ort

from deploykit.errors import ArtifactError
from deploykit.external import check_external_data
from deploykit.failing import in_one_line
from deploykit.spec import EXACT_INT8, TensorSpec, shape_text

_TYPES: Final = {"int64": "tensor(int64)", "float32": "tensor(float)", "float16": "tensor(float16)"}
_ERRORS_ONLY: Final = 3  # OrtLoggingLevel; a graph input with a default is a warning, and meant


def open_graph(file: Path, inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec]) -> ort.InferenceSession:
    """Return a session of `file`.

    Raises:
        ArtifactError: its weights lie elsewhere, ONNX Runtime can't load it, or it takes or gives something else.
    """
    check_external_data(file)
    options = ort.SessionOptions()
    options.log_severity_level = _ERRORS_ONLY
    options.add_session_config_entry(EXACT_INT8, "1")
    with in_one_line(file, "load"):
        session = ort.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
    # ONNX Runtime lists an input with a default apart.
    _check(file, "inputs", inputs, [*session.get_inputs(), *session.get_overridable_initializers()])
    _check(file, "outputs", outputs, session.get_outputs())
    return session


def _check(file: Path, what: str, wanted: Sequence[TensorSpec], found: Sequence[ort.NodeArg]) -> None:
    if sorted(tensor.name for tensor in wanted) != sorted(tensor.name for tensor in found):
        raise ArtifactError(
            f"{file}: its {what} are {', '.join(tensor.name for tensor in found)}, but manifest.json "
            f"says {', '.join(tensor.name for tensor in wanted)}; export the checkpoint again"
        )
    shapes = {tensor.name: tensor.shape for tensor in found}
    types = {tensor.name: tensor.type for tensor in found}
    for tensor in wanted:
        if types[tensor.name] != _TYPES[tensor.dtype]:
            raise ArtifactError(
                f"{file}: {tensor.name} is a {types[tensor.name]}, but manifest.json says {tensor.dtype}; "
                "export the checkpoint again"
            )
        fixed = [(a, b) for a, b in zip(tensor.shape, shapes[tensor.name], strict=False) if isinstance(a, int)]
        if len(tensor.shape) != len(shapes[tensor.name]) or any(isinstance(b, int) and a != b for a, b in fixed):
            raise ArtifactError(
                f"{file}: {tensor.name} is {shape_text(shapes[tensor.name])}, but manifest.json says "
                f"{shape_text(tensor.shape)}; export the checkpoint again"
            )
