"""`validate`: an artifact's models compared with a reference and with each other, within stated limits."""

import os
from contextlib import nullcontext
from dataclasses import replace
from importlib.metadata import version
from typing import Any

from deploykit.artifact import Artifact, Manifest, StageRecord, draft
from deploykit.config import ValidateConfig
from deploykit.progress import Progress, silent
from deploykit.validate.decoder import Decoder
from deploykit.validate.parity import Reference, check_parity
from deploykit.validate.quality import check_quality
from deploykit.validate.text import make_rows, read_text

__all__ = ["Reference", "validate"]


def validate(
    source: Artifact | str | os.PathLike[str],
    out: str | os.PathLike[str] | None,
    reference: Reference | None = None,
    config: ValidateConfig | None = None,
    *,
    overwrite: bool = False,
    link: bool = False,
    progress: Progress = silent,
) -> Artifact:
    """Return the artifact with what was found in its manifest: at `out`, or where it is and unwritten if that is None.

    fp32 is compared with `reference` in every way a decoder is called (see `cases`), each other precision with fp32
    on text (see `quality`).

    Args:
        source: an artifact, or the path of one, which is then verified.
        out: the new artifact's folder; None only checks.
        reference: logits [S, V] of one row of token ids [S]; without it fp32 is compared with itself, uncached.
        config: limits, and the text to measure on.
        overwrite: whether an artifact at `out` may be replaced.
        link: whether unchanged files may be hard links: only where `source` is removed afterwards.
        progress: told which case runs.

    Raises:
        ParityError: a limit is passed; nothing is written then.
        ArtifactError: `source` is no sound artifact, or holds no fp32 graph.
        ConfigError: the text can't be read.
        OutputError: `out` exists, or can't be written.
    """
    config = config or ValidateConfig()
    artifact = source if isinstance(source, Artifact) else Artifact.open(source)
    with nullcontext() if out is None else draft(out, overwrite=overwrite) as sheet:
        parity = check(artifact, reference, config, progress=progress)
        manifest = _recorded(artifact.manifest, parity, config)
        if sheet is None:
            return Artifact(artifact.path, manifest)
        sheet.carry(artifact, link=link)
        return sheet.commit(manifest)


def check(
    artifact: Artifact, reference: Reference | None, config: ValidateConfig, *, progress: Progress = silent
) -> dict[str, Any]:
    """Return every precision's figures, as `manifest.parity` holds them.

    Raises:
        ParityError: a limit is passed.
    """
    spec = artifact.manifest.decoder
    text = read_text(artifact, config)
    fp32 = Decoder(artifact.graph("fp32"), spec)
    rows = make_rows(text, spec.max_context, spec.vocab_size)
    parity = {"fp32": check_parity(fp32, rows, reference, config.atol, progress=progress)}
    for precision in artifact.precisions():
        if precision != "fp32":
            other = Decoder(artifact.graph(precision), artifact.contract(precision))
            parity[precision] = check_quality(precision, fp32, other, text, config, progress=progress)
    return parity


def _recorded(manifest: Manifest, parity: dict[str, Any], config: ValidateConfig) -> Manifest:
    options = {
        "atol": config.atol,
        "max_kl": config.max_kl,
        "max_perplexity_loss": config.max_perplexity_loss,
        "text": config.text and config.text.name,
        "tokens": config.tokens,
    }
    versions = {name: version(name) for name in ("numpy", "onnxruntime", "tokenizers")}
    record = StageRecord(stage="validate", options=options, versions=versions)
    return replace(manifest, parity=parity, history=(*manifest.history, record))
