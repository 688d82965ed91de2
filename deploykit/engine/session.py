"""An ONNX Runtime session on an artifact's graph."""

import ctypes
import os
from pathlib import Path
from typing import Any, Final

import onnxruntime as ort

from deploykit.artifact import Artifact
from deploykit.cgroup import available_cores
from deploykit.errors import ArtifactError
from deploykit.external import check_external_data
from deploykit.spec import EXACT_INT8, Precision, TensorSpec, shape_text

_FATAL_ONLY: Final = 4  # OrtLoggingLevel: failures reach us as exceptions, which carry the same text
_STOP_SPINNING: Final = "session.force_spinning_stop"
"""ONNX Runtime's session option that lets its threads sleep once a run is over."""


def open_session(artifact: Artifact, *, precision: Precision | None = None, threads: int | None = None) -> Any:
    """Return a session on the graph of a precision (the served one where None); of an encoder-decoder, the decoder's.

    Args:
        artifact: a verified artifact.
        precision: which of its graphs.
        threads: of ONNX Runtime; the cores this process may use where None.

    Raises:
        ArtifactError: the graph isn't there, can't be loaded, keeps weights elsewhere, or breaks the tensor contract.
    """
    spec = artifact.contract(precision)
    return _opened(artifact.graph(precision), spec.inputs(), spec.outputs(), _options(threads))


def open_encoder(artifact: Artifact, *, precision: Precision | None = None, threads: int | None = None) -> Any:
    """Return a session on the graph that reads sources, or None where the model is no encoder-decoder.

    Args:
        artifact: a verified artifact.
        precision: which of its graphs.
        threads: as of `open_session`.

    Raises:
        ArtifactError: as `open_session`.
    """
    spec = artifact.contract(precision).encoder
    if spec is None:
        return None
    options = _options(threads)
    # Its threads would go on looking for work while the decoder's are at theirs.
    options.add_session_config_entry(_STOP_SPINNING, "1")
    return _opened(artifact.graphs(precision)[1], spec.inputs(), spec.outputs(), options)


def _options(threads: int | None) -> ort.SessionOptions:
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads or available_cores()
    options.inter_op_num_threads = 1
    options.log_severity_level = _FATAL_ONLY
    options.add_session_config_entry(EXACT_INT8, "1")
    return options


def _opened(
    graph: Path, inputs: list[TensorSpec], outputs: list[TensorSpec], options: ort.SessionOptions
) -> ort.InferenceSession:
    """Return a session on a graph that keeps its contract."""
    check_external_data(graph)
    try:
        session = ort.InferenceSession(str(graph), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # ONNX Runtime's errors share no class of their own
        reason = str(error).replace(f"{graph.parent}{os.sep}", "").partition("\n")[0]
        raise ArtifactError(f"{graph.name}: ONNX Runtime can't load it: {reason}") from error
    _give_back()
    _check_contract(graph.name, inputs, [*session.get_inputs(), *session.get_overridable_initializers()])
    _check_contract(graph.name, outputs, session.get_outputs())
    return session


def _give_back() -> None:
    """Hand freed memory back to the system.

    While a session opens, weights are held twice; glibc would keep as much for later: 105 MB with 71 M weights in
    dynamic-int8 on a processor without VNNI.
    """
    try:
        ctypes.CDLL(None).malloc_trim(0)
    except (AttributeError, OSError, TypeError):
        # Another C library, which keeps or returns what it likes.
        return


def _check_contract(graph: str, wanted: list[TensorSpec], found: list[Any]) -> None:
    """Compare a graph's inputs or outputs with the manifest: names, types, and the axes that both sides fix."""
    by_name = {tensor.name: tensor for tensor in found}
    if len(by_name) != len(wanted) or any(spec.name not in by_name for spec in wanted):
        raise ArtifactError(f"{graph} has the tensors {', '.join(by_name)}: not those of its manifest; export again")
    for spec in wanted:
        tensor = by_name[spec.name]
        dtype = {"int64": "tensor(int64)", "float32": "tensor(float)", "float16": "tensor(float16)"}[spec.dtype]
        fits = len(tensor.shape) == len(spec.shape) and all(
            want == have
            for want, have in zip(spec.shape, tensor.shape, strict=True)
            if isinstance(have, int) and isinstance(want, int)
        )
        if tensor.type != dtype or not fits:
            raise ArtifactError(
                f"{graph}: {spec.name} is {tensor.type} {shape_text(tensor.shape)}, but the manifest says "
                f"{spec.dtype} {shape_text(spec.shape)}; export again"
            )
