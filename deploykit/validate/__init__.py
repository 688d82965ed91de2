"""`validate`: an artifact's models compared with a reference and with each other, within stated limits."""

import os
from contextlib import nullcontext
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

from deploykit.artifact import Artifact, Manifest, StageRecord
from deploykit.config import ValidateConfig
from deploykit.draft import draft
from deploykit.errors import OutputError, ParityError
from deploykit.progress import Progress, silent
from deploykit.spec import REPORT, REPORT_PAGE, REPORTS
from deploykit.validate.against import Compared, against
from deploykit.validate.bisect import Bisection, Hidden, bisect
from deploykit.validate.gate import check
from deploykit.validate.page import render
from deploykit.validate.parity import OpenReference, Reference
from deploykit.validate.report import Report
from deploykit.validate.served import measure_quality

_BEGINNING: Final = b"<!doctype html>"

__all__ = [
    "Bisection",
    "Compared",
    "Hidden",
    "OpenReference",
    "Reference",
    "against",
    "bisect",
    "check_page",
    "measure_quality",
    "render",
    "validate",
]


def validate(
    source: Artifact | str | os.PathLike[str],
    out: str | os.PathLike[str] | None,
    reference: OpenReference | None = None,
    config: ValidateConfig | None = None,
    *,
    name: str | None = None,
    overwrite: bool = False,
    link: bool = False,
    progress: Progress = silent,
) -> Artifact:
    """Return the artifact with what was found in its manifest: at `out`, or where it is and unwritten if that is None.

    fp32 is compared with the reference in every way a decoder is called (see `cases`), each other precision with fp32
    on text (see `quality`). All of it is in `report.json` and, to look at, in `report.html`.

    Args:
        source: an artifact, or the path of one, which is then verified.
        out: the new artifact's folder; None only checks.
        reference: loads logits [S, V] of one row of token ids [S]; without it fp32 is compared with itself, uncached.
        config: limits, the text to measure on, and where to put the page even if a limit is passed.
        name: what the page calls the model; what it was last packaged as, or else its architecture, where None.
        overwrite: whether an artifact at `out` may be replaced.
        link: whether unchanged files may be hard links: only where `source` is removed afterwards.
        progress: told which case runs.

    Raises:
        ParityError: a limit is passed; nothing but `config.report` is written then.
        ArtifactError: `source` is no sound artifact, or holds no fp32 graph.
        ConfigError: a text can't be read.
        OutputError: `out` exists, or it or `config.report` can't be written.
    """
    config = config or ValidateConfig()
    artifact = source if isinstance(source, Artifact) else Artifact.open(source)
    check_page(config.report)
    with nullcontext() if out is None else draft(out, overwrite=overwrite) as sheet:
        report = Report.of(artifact, config, name=name)
        try:
            check(artifact, reference, config, report, progress=progress)
        except ParityError as error:
            # Whoever must find out why it failed needs the report most.
            if config.report is not None:
                _write_page(config.report, report.to_json())
                error.add_note(f"report: {config.report}")
            raise
        if config.report is not None:
            _write_page(config.report, report.to_json())
        manifest = _recorded(artifact.manifest, report.parity(), config)
        if sheet is None:
            return Artifact(artifact.path, manifest)
        sheet.carry(artifact, [name for name in artifact.manifest.files if name not in REPORTS], link=link)
        sheet.write_json(REPORT, report.to_json())
        _write_page(sheet.file(REPORT_PAGE), report.to_json())
        return sheet.commit(manifest)


def check_page(file: Path | None) -> None:
    """Say before the work, not after it, that the page can't be written.

    Raises:
        OutputError: there is no folder for it, or what is there is no page.
    """
    if file is None:
        return
    problem = None
    if not file.absolute().parent.is_dir():
        problem = "there is no such folder"
    elif os.path.lexists(file) and not file.is_file():
        problem = "it is no regular file"
    elif not os.access(file if file.exists() else file.absolute().parent, os.W_OK):
        problem = "permission denied"
    elif file.exists() and not _begins_as_page(file):
        problem = "it is there already, and no page"
    if problem:
        raise OutputError(f"{file}: can't be written: {problem}; choose another --report")


def _begins_as_page(file: Path) -> bool:
    with file.open("rb") as stream:
        return stream.read(len(_BEGINNING)).lower() in (b"", _BEGINNING)


def _write_page(file: Path, report: dict[str, Any]) -> None:
    try:
        file.write_text(render(report), encoding="utf-8")
    except OSError as error:
        raise OutputError(f"{file}: can't be written: {error.strerror}; choose another --report") from error


def _recorded(manifest: Manifest, parity: dict[str, Any], config: ValidateConfig) -> Manifest:
    options = {
        "atol": config.atol,
        "max_kl": config.max_kl,
        "max_perplexity_loss": config.max_perplexity_loss,
        "text": [file.name for file in config.text_files().values()] or None,
        "tokens": config.tokens,
    }
    versions = {name: version(name) for name in ("numpy", "onnxruntime", "tokenizers")}
    record = StageRecord(stage="validate", options=options, versions=versions)
    return replace(manifest, parity=parity, history=(*manifest.history, record))
