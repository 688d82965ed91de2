"""An artifact's fp32 graph, run on text with a look inside: values on the way, and weights put in others' places."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

import numpy as np
import onnx_ir as ir
import onnxruntime as ort
from numpy.typing import NDArray

from deploykit import graph as graphs
from deploykit.artifact import Artifact
from deploykit.errors import ArtifactError
from deploykit.failing import in_one_line
from deploykit.quantize.blocks import FloatArray
from deploykit.spec import ATTENTION_MASK, INPUT_IDS, LOGITS_TO_KEEP

IntArray = NDArray[np.int64]

_ERRORS_ONLY: Final = 3  # OrtLoggingLevel; a weight that may be replaced is a warning, and meant


class Replay:
    """A session of the graph as it is written, its weights mapped and not copied."""

    def __init__(self, artifact: Artifact, *, values: Iterable[str] = (), weights: Iterable[str] = ()) -> None:
        """Load the graph.

        Args:
            artifact: holds it.
            values: names of the values that `run` may give.
            weights: names of the initializers that `run` may replace.

        Raises:
            ArtifactError: ONNX Runtime can't load it, or it doesn't compute one of the values.
        """
        self._spec = artifact.manifest.decoder
        self._file = file = artifact.graph("fp32")
        model = graphs.load(file)
        known = {value.name: value for node in model.graph for value in node.outputs}
        for name in sorted(set(values) - {value.name for value in model.graph.outputs}):
            if name not in known:
                raise ArtifactError(f"{file}: nothing computes {name!r} in it; export the checkpoint again")
            known[name].type = ir.TensorType(ir.DataType.FLOAT)
            model.graph.outputs.append(known[name])
        # An initializer that is an input as well is that input's default.
        model.graph.inputs.extend(model.graph.initializers[name] for name in weights)
        options = ort.SessionOptions()
        options.log_severity_level = _ERRORS_ONLY
        # An optimized graph would hold folded and repacked copies of the weights, and lack values.
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
        options.add_session_config_entry("session.disable_prepacking", "1")
        # Between two runs the cores belong to numpy.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        options.add_session_config_entry("session.model_external_initializers_file_folder_path", str(file.parent))
        with in_one_line(file, "load"):
            data = ir.to_proto(model).SerializeToString()
            self._session = ort.InferenceSession(data, options, providers=["CPUExecutionProvider"])

    def run(
        self, ids: IntArray, values: Sequence[str], weights: Mapping[str, FloatArray] | None = None
    ) -> dict[str, FloatArray]:
        """Return values of one row of tokens [S] without a past, [S, K] each.

        Args:
            ids: the tokens.
            values: which; nothing that they don't depend on is computed.
            weights: what to put in the places of weights.
        """
        feeds: dict[str, Any] = {INPUT_IDS: ids[None], ATTENTION_MASK: np.ones((1, len(ids)), np.int64)}
        for tensor in self._spec.past():
            _, heads, _, size = tensor.shape
            feeds[tensor.name] = np.zeros((1, int(heads), 0, int(size)), np.float32)
        if self._spec.logits_to_keep:
            feeds[LOGITS_TO_KEEP] = np.array(0, np.int64)
        options = ort.RunOptions()
        options.only_execute_path_to_fetches = True
        with in_one_line(self._file, "run"):
            found = self._session.run(list(values), {**feeds, **(weights or {})}, options)
        return {name: value.reshape(-1, value.shape[-1]) for name, value in zip(values, found, strict=True)}
