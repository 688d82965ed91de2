"""`optimize`: an artifact's fp32 graphs, simplified without changing what they compute."""

import os
from collections.abc import Sequence
from dataclasses import asdict, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

import onnx_ir as ir

from deploykit import graph
from deploykit.artifact import Artifact, StageRecord
from deploykit.draft import Draft, draft
from deploykit.optimize.passes import PASSES, PassReport, run_passes
from deploykit.progress import Progress, of_part, silent
from deploykit.spec import REPORTS, data_file, graph_files, graph_parts

WORTH_WRITING: Final = 0.01
"""Share of the weights that must have become unused before the rest are written again without them."""

__all__ = ["PASSES", "PassReport", "optimize", "run_passes"]


def optimize(
    source: Artifact | str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    overwrite: bool = False,
    link: bool = False,
    progress: Progress = silent,
) -> Artifact:
    """Return the artifact at `out`: `source` with its fp32 graph simplified, the other files carried over.

    Weights stay on disk throughout; where no pass changes anything, the graph's files are carried over untouched. An
    encoder-decoder has two graphs; the record counts their nodes together.

    Args:
        source: an artifact, or the path of one, which is then verified.
        out: the new artifact's folder.
        overwrite: whether an artifact at `out` may be replaced.
        link: whether unchanged files may be hard links: only where `source` is removed afterwards.
        progress: told which pass runs.

    Raises:
        ArtifactError: `source` is no sound artifact, or holds no fp32 graph.
        OutputError: `out` exists, or can't be written.
    """
    artifact = source if isinstance(source, Artifact) else Artifact.open(source)
    artifact.graph("fp32")  # refuses one without it before any work is done
    with draft(out, overwrite=overwrite) as sheet:
        written: set[str] = set()
        reports: list[list[PassReport]] = []
        spec = artifact.manifest.decoder
        for name, part in zip(graph_files("fp32", spec), graph_parts(spec), strict=True):
            changed, found = _optimized(artifact.path / name, sheet, name, of_part(progress, part))
            written |= changed
            reports.append(found)
        sheet.carry(artifact, [name for name in artifact.manifest.files if name not in written | REPORTS], link=link)
        record = StageRecord(
            stage="optimize",
            options={},
            versions={name: version(name) for name in ("onnx-ir", "onnxscript")},
            result=_result([_together(of_one_pass) for of_one_pass in zip(*reports, strict=True)]),
        )
        return sheet.commit(replace(artifact.manifest, history=(*artifact.manifest.history, record)))


def _optimized(file: Path, sheet: Draft, name: str, progress: Progress) -> tuple[set[str], list[PassReport]]:
    """Write a graph if a pass changes it; return the names of the files written, and what each pass did."""
    model = graph.load(file)
    stored = _stored(model)
    model, reports = run_passes(model, progress=progress)
    return _write(model, sheet, name, stored) if any(report.changed for report in reports) else set(), reports


def _together(reports: Sequence[PassReport]) -> PassReport:
    """Return what a pass did in all graphs."""
    return PassReport(
        name=reports[0].name,
        changed=any(report.changed for report in reports),
        nodes_before=sum(report.nodes_before for report in reports),
        nodes_after=sum(report.nodes_after for report in reports),
        seconds=round(sum(report.seconds for report in reports), 4),
    )


def _write(model: ir.Model, sheet: Draft, name: str, stored: set[tuple[int, int]]) -> set[str]:
    """Write what changed and return the names of the files that must not be carried over."""
    tensors = [value.const_value for value in model.graph.initializers.values()]
    grown = any(
        tensor is not None and not isinstance(tensor, ir.ExternalTensor) and tensor.nbytes >= graph.INLINE_BYTES
        for tensor in tensors
    )
    freed = sum(size for _, size in stored - _stored(model))
    if grown or freed > WORTH_WRITING * sum(size for _, size in stored):
        graph.save(model, sheet.file(name))
        return {name, data_file(name)}
    # The weights left are where they were: only the graph is new.
    ir.save(model, sheet.file(name))
    return {name}


def _stored(model: ir.Model) -> set[tuple[int, int]]:
    """Return offset and size of each weight in the data file."""
    tensors = [value.const_value for value in model.graph.initializers.values()]
    return {(tensor.offset or 0, tensor.nbytes) for tensor in tensors if isinstance(tensor, ir.ExternalTensor)}


def _result(reports: list[PassReport]) -> dict[str, Any]:
    return {
        "changed": any(report.changed for report in reports),
        "nodes_before": reports[0].nodes_before,
        "nodes_after": reports[-1].nodes_after,
        "seconds": round(sum(report.seconds for report in reports), 3),
        "passes": [asdict(report) for report in reports],
    }
