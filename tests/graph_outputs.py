"""What a decoder graph gives for a ragged batch, prefilled and then with a past."""

from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort

from deploykit.artifact import Artifact
from deploykit.spec import LOGITS_TO_KEEP


def quiet() -> ort.SessionOptions:
    options = ort.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = 1
    return options


def run(artifact: Artifact, *, rows: int | None = None, file: Path | None = None) -> list[Any]:
    """Return every output of two calls: a ragged batch of five tokens, and one more on them.

    Args:
        artifact: holds the graph.
        rows: of logits to ask for; the graph's default where None.
        file: another graph of the same contract.
    """
    spec = artifact.manifest.decoder
    session = ort.InferenceSession(str(file or artifact.graph("fp32")), quiet())
    ids = np.random.default_rng(1).integers(0, spec.vocab_size, (2, 5))
    mask = np.array([[0, 0, 1, 1, 1, 1], [1, 1, 1, 1, 1, 1]])
    keep = {LOGITS_TO_KEEP: np.array(rows)} if rows is not None and spec.logits_to_keep else {}
    names = [tensor.name for tensor in spec.past()]
    empty = [np.zeros((2, int(t.shape[1]), 0, int(t.shape[3])), np.float32) for t in spec.past()]
    first = session.run(
        None, {"input_ids": ids, "attention_mask": mask[:, :5], **dict(zip(names, empty, strict=True)), **keep}
    )
    then = {"input_ids": ids[:, :1], "attention_mask": mask, **dict(zip(names, first[1:], strict=True)), **keep}
    return [*first, *session.run(None, then)]
