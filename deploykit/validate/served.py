"""What the served precision costs, not judged: for whoever compares candidates."""

from typing import Any

from deploykit.artifact import Artifact
from deploykit.config import ValidateConfig
from deploykit.progress import Progress, silent
from deploykit.validate.decoder import Decoder
from deploykit.validate.quality import measure, summary
from deploykit.validate.text import read_text


def measure_quality(
    artifact: Artifact, config: ValidateConfig | None = None, *, progress: Progress = silent
) -> dict[str, Any]:
    """Return the figures of the served precision beside fp32 on text, and whether the model is `trained` to know it.

    Raises:
        ParityError: a model gives NaN or Inf.
        ArtifactError: a graph can't be loaded.
        ConfigError: a text can't be read.
    """
    spec, served = artifact.manifest.decoder, artifact.manifest.served
    text = read_text(artifact, config or ValidateConfig())
    fp32 = Decoder(artifact.graph("fp32"), spec)
    other = Decoder(artifact.graph(served), artifact.contract(served))
    quality = summary(measure(fp32, {served: other}, text, progress=progress).scores[served])
    return {**quality.to_json(), "trained": text.natural and quality.trained(spec.vocab_size)}
