"""A graph whose inner values can be read: bound as outputs of a session, with nothing written for it."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import onnx_ir as ir
import onnxruntime as ort

from deploykit import graph
from deploykit.failing import in_one_line
from deploykit.spec import ATTENTION_MASK, INPUT_IDS, LOGITS, LOGITS_TO_KEEP, DecoderSpec
from deploykit.validate.decoder import FloatArray, IntArray

_KINDS: Final = frozenset(
    {"Add", "Mul", "MatMul", "Gemm", "Gather", "Reshape", "Cast", "MatMulNBits", "GatherBlockQuantized"}
    | {f"{kind}Normalization" for kind in ("Layer", "SimplifiedLayer", "RMS", "SkipLayer", "SkipSimplifiedLayer")}
)
"""What hidden states come out of; the scores and gates between them are as large and never needed."""
_ERRORS_ONLY: Final = 3  # OrtLoggingLevel


class Probe:
    """A graph in ONNX Runtime that gives its inner values, too."""

    def __init__(self, file: Path, spec: DecoderSpec, *, width: int = 0, inner: Sequence[str] | None = None) -> None:
        """Load `file`.

        Args:
            file: the graph.
            spec: its contract.
            width: E, to find the inner values that may be hidden states.
            inner: names of the inner values instead; those that the graph doesn't have are left out.

        Raises:
            ArtifactError: the graph can't be read or loaded.
        """
        self._file = file
        self._spec = spec
        model = graph.load(file)
        names = {value.name: None for node in model.graph for value in node.outputs if value.name}
        own = {value.name for value in model.graph.outputs}
        chosen = _candidates(model.graph, width) if inner is None else inner
        self.inner = [name for name in dict.fromkeys(chosen) if name in names and name not in own]
        proto = ir.to_proto(model)
        for name in self.inner:
            # Without a type: ONNX Runtime infers it.
            proto.graph.output.add(name=name)
        options = ort.SessionOptions()
        options.log_severity_level = _ERRORS_ONLY
        options.add_session_config_entry("session.model_external_initializers_file_folder_path", str(file.parent))
        with in_one_line(file, "load"):
            self._session = ort.InferenceSession(proto.SerializeToString(), options, providers=["CPUExecutionProvider"])

    def run(self, ids: IntArray, pieces: Sequence[IntArray]) -> dict[str, FloatArray]:
        """Return logits [S, V], keys and values [K, S, D] by place, and inner values [S, ...] by name.

        Args:
            ids: the row, [S].
            pieces: the same row cut into what is run at once, each piece on the past of those before it.
        """
        sizes = [tensor.shape for tensor in self._spec.past()]
        past = [np.zeros((1, int(heads), 0, int(size)), self._spec.cache_dtype) for _, heads, _, size in sizes]
        outputs = [LOGITS, *(tensor.name for tensor in self._spec.present()), *self.inner]
        parts: list[list[FloatArray]] = []
        done = 0
        for piece in pieces:
            done += len(piece)
            feeds: dict[str, Any] = {INPUT_IDS: piece[None], ATTENTION_MASK: np.ones((1, done), np.int64)}
            if self._spec.logits_to_keep:
                feeds[LOGITS_TO_KEEP] = np.array(0, np.int64)
            feeds.update(zip((tensor.name for tensor in self._spec.past()), past, strict=True))
            with in_one_line(self._file, "run"):
                logits, *rest = self._session.run(outputs, feeds)
            past = rest[: len(past)]
            inner = [_by_token(value, len(piece)) for value in rest[len(past) :]]
            parts.append([logits[0], *inner])
        assert done == len(ids)
        joined = [np.concatenate(values) for values in zip(*parts, strict=True)]
        caches = {cache_place(number): value[0].astype(np.float32) for number, value in enumerate(past)}
        return {LOGITS: joined[0], **caches, **dict(zip(self.inner, joined[1:], strict=True))}


def _candidates(of: ir.Graph, width: int) -> list[str]:
    """Return the values that may be hidden states, by what gives them and, where it is known, by shape."""
    return [
        str(value.name)
        for node in of
        if node.op_type in _KINDS
        for value in node.outputs
        if value.name
        and (value.dtype is None or value.dtype in (ir.DataType.FLOAT, ir.DataType.FLOAT16))
        and (value.shape is None or (len(value.shape) > 1 and value.shape[-1] == width))
    ]


def _by_token(value: Any, tokens: int) -> FloatArray:
    """Return a value of one row as [S, ...] in fp32; one that isn't as long as the row comes out with no elements."""
    array = np.asarray(value)
    if not np.issubdtype(array.dtype, np.floating) or array.ndim < 2 or array.size != tokens * array.shape[-1]:
        return np.zeros((tokens, 0), np.float32)
    return array.reshape(tokens, -1).astype(np.float32, copy=False)


def cache_place(number: int) -> str:
    """Return the place of the cache's tensor of that number: `layers.N/keys` or `layers.N/values`."""
    return f"layers.{number // 2}/{('keys', 'values')[number % 2]}"
