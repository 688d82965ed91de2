"""How much a model suffers when one of its weights is rounded and the others stay as they are."""

from collections.abc import Iterable, Mapping
from typing import Final

import numpy as np

from deploykit.artifact import Artifact
from deploykit.errors import ArtifactError
from deploykit.quantize.blocks import FloatArray
from deploykit.quantize.calibrate import CalibrationText
from deploykit.quantize.replay import Replay
from deploykit.spec import LOGITS

_LOGITS: Final = 1 << 24
"""Most logits of a run: 64 MiB, of which the whole model's and another's are held; a large vocabulary makes the text
shorter."""


class Sensitivity:
    """A model's logits on a window of text, to compare with those of the model with another weight."""

    def __init__(self, artifact: Artifact, weights: Iterable[str], text: CalibrationText) -> None:
        """Run the whole model.

        Raises:
            ArtifactError: ONNX Runtime can't load it, or it gives NaN or Inf.
        """
        self._replay = Replay(artifact, values=[LOGITS], weights=weights)
        self._ids = text.windows[0][: max(1, _LOGITS // artifact.manifest.decoder.vocab_size)]
        self._logits = self._replay.run(self._ids, [LOGITS])[LOGITS]
        if not np.isfinite(self._logits).all():
            raise ArtifactError(
                f"{LOGITS}: NaN or Inf on the calibration text ({text.name}); the checkpoint is damaged, or leave out "
                "--sensitive"
            )

    def divergence(self, name: str, weight: FloatArray) -> float:
        """Return the mean KL divergence, in nats a token, from the model to the one with `weight` instead of `name`."""
        other = self._replay.run(self._ids, [LOGITS], {name: weight})[LOGITS]
        # Row by row: beside the logits themselves no array is larger than the vocabulary.
        return max(0.0, float(np.mean([_divergence(p, q) for p, q in zip(self._logits, other, strict=True)])))


def most_sensitive(sizes: Mapping[str, int], costs: Mapping[str, float], percent: float) -> frozenset[str]:
    """Return the weights that cost most for their size and together are at most `percent` of all.

    Args:
        sizes: how many numbers each weight has, by name.
        costs: what it costs to round it, by name.
        percent: of the sum of `sizes`.
    """
    room = sum(sizes.values()) * percent / 100
    chosen: list[str] = []
    for name in sorted(sizes, key=lambda name: costs[name] / sizes[name], reverse=True):
        if sizes[name] <= room:
            room -= sizes[name]
            chosen.append(name)
    return frozenset(chosen)


def _divergence(p: FloatArray, q: FloatArray) -> float:
    p, q = _log_probabilities(p), _log_probabilities(q)
    return float(np.dot(np.exp(p), p - q))


def _log_probabilities(logits: FloatArray) -> FloatArray:
    shifted = logits - logits.max()
    return np.asarray(shifted - np.log(np.exp(shifted).sum()), np.float32)
