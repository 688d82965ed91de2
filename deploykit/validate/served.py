"""What the served precision costs, not judged: for whoever compares candidates."""

from typing import Any

from deploykit.artifact import Artifact
from deploykit.config import ValidateConfig
from deploykit.progress import Progress, silent
from deploykit.validate.decoder import Decoder
from deploykit.validate.pairs import answered
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
    config, served = config or ValidateConfig(), artifact.manifest.served
    fp32 = Decoder.of(artifact, "fp32")
    text = answered(read_text(artifact, config), fp32, config.tokens, progress=progress)
    quality = summary(measure(fp32, {served: Decoder.of(artifact, served)}, text, progress=progress).scores[served])
    return {**quality.to_json(), "trained": text.known(quality, artifact.manifest.decoder.vocab_size)}
