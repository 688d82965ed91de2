"""`optimize`: an artifact's fp32 graph, simplified without changing what it computes."""

import os
from dataclasses import asdict, replace
from importlib.metadata import version
from typing import Any, Final

import onnx_ir as ir

from deploykit import graph
from deploykit.artifact import Artifact, StageRecord
from deploykit.draft import Draft, draft
from deploykit.optimize.passes import PASSES, PassReport, run_passes
from deploykit.progress import Progress, silent
from deploykit.spec import REPORTS, VARIANT_FILES, data_file

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

    Weights stay on disk throughout; where no pass changes anything, the graph's files are carried over untouched.

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
    file = artifact.graph("fp32")
    with draft(out, overwrite=overwrite) as sheet:
        model = graph.load(file)
        stored = _stored(model)
        model, reports = run_passes(model, progress=progress)
        changed = any(report.changed for report in reports)
        written = _write(model, sheet, stored) if changed else set()
        sheet.carry(artifact, [name for name in artifact.manifest.files if name not in written | REPORTS], link=link)
        record = StageRecord(
            stage="optimize",
            options={},
            versions={name: version(name) for name in ("onnx-ir", "onnxscript")},
            result=_result(reports),
        )
        return sheet.commit(replace(artifact.manifest, history=(*artifact.manifest.history, record)))


def _write(model: ir.Model, sheet: Draft, stored: set[tuple[int, int]]) -> set[str]:
    """Write what changed and return the names of the files that must not be carried over."""
    name = VARIANT_FILES["fp32"]
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
