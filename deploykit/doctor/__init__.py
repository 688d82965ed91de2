"""`doctor`: whether this machine is fit, and whether a model will run where it is to run."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from deploykit.config import EngineConfig
from deploykit.doctor.finding import LEVELS, Finding, Level, worst
from deploykit.doctor.fit import check_fit
from deploykit.doctor.graph import check_exact, check_graph
from deploykit.doctor.image import check_image
from deploykit.doctor.machine import check_machine, has_dot_product, overflows_int8
from deploykit.doctor.process import process_bytes
from deploykit.doctor.repository import TextContract, check_model, rows_of
from deploykit.doctor.software import check_software
from deploykit.doctor.subject import Subject, check_artifact, open_subject
from deploykit.doctor.target import Device, Target, find_target
from deploykit.doctor.tensors import Tensor
from deploykit.errors import ArtifactError
from deploykit.memory import DEFAULT_CONTEXT, Estimate, Load, estimate
from deploykit.outline import Outline, read_outline
from deploykit.spec import DecoderSpec, Precision, graph_files

__all__ = ["LEVELS", "Finding", "Level", "Report", "Section", "Tensor", "TextContract", "doctor"]

_OF_RUNTIME = frozenset({"ONNX version", "operators", "CUDA kernels"})
"""Findings that hang on the ONNX Runtime's version."""


@dataclass(frozen=True, kw_only=True)
class Section:
    """Findings that belong together."""

    title: str
    findings: tuple[Finding, ...]


@dataclass(frozen=True, kw_only=True)
class Report:
    """All that the doctor found."""

    sections: tuple[Section, ...]
    memory: Estimate | None = None
    """What the engine takes, where a decoder was looked at."""

    @property
    def level(self) -> Level:
        """The worst level in it."""
        return worst(finding for section in self.sections for finding in section.findings)

    def to_json(self) -> dict[str, Any]:
        """Return the report as plain JSON values."""
        return {
            "level": self.level,
            "sections": [
                {"title": section.title, "findings": [finding.to_json() for finding in section.findings]}
                for section in self.sections
            ],
            "memory": self.memory.to_json() if self.memory else None,
        }


def doctor(
    path: Path | None,
    contract: TextContract,
    *,
    release: str | None = None,
    device: Device | None = None,
    precision: Precision | None = None,
    config: EngineConfig = EngineConfig(),
) -> Report:
    """Return what is wrong, and what is right, with this machine and a model.

    Args:
        path: an artifact, a model repository or a model of one; only the machine where None.
        contract: what the packaged text model takes and gives.
        release: the Triton release the model is to run on, such as `26.07`; this machine's ONNX Runtime where None.
        device: where it is to run; a GPU where None and the precision is made for one.
        precision: which graph; the served one where None.
        config: rows, context and chunk to estimate memory for.

    Raises:
        ArtifactError: there is neither an artifact nor a repository at `path`.
        ConfigError: the release is unknown.
    """
    subject = open_subject(path) if path else None
    wanted = subject.precision(precision) if subject else precision
    target = find_target(release, subject.device(device, wanted) if subject else device or "cpu")
    machine = [*check_machine(path or Path()), *check_software()]
    sections = [Section(title="this machine", findings=tuple(machine))]
    if target and target.release:
        sections.append(Section(title=f"Triton {release}", findings=tuple(check_image(target.release))))
    if subject is None:
        return Report(sections=tuple(sections))
    guess: list[Estimate] = []
    findings = tuple(_subject(subject, wanted, target, contract, config, guess))
    title = f"{subject.path} on {target.name}" if target else str(subject.path)
    return Report(sections=(*sections, Section(title=title, findings=findings)), memory=next(iter(guess), None))


def _subject(
    subject: Subject,
    precision: Precision | None,
    target: Target | None,
    contract: TextContract,
    config: EngineConfig,
    guess: list[Estimate],
) -> Iterator[Finding]:
    """Yield what there is to say of a subject; the estimate of its memory goes to `guess`."""
    if target is None:
        remedy = "pip install 'deploykit[cpu]', or name the target with --release"
        yield Finding(level="error", what="target", found="no ONNX Runtime here to compare with", remedy=remedy)
    elif subject.artifact and precision:
        yield from check_artifact(subject.artifact, precision, target)
        yield from _graph(subject, precision, target, config, guess)
    for model in subject.models:
        yield from check_model(model, contract)
        if target and not list(model.glob("*/manifest.json")):
            yield from _graphs_of(sorted(model.glob("*/*.onnx")), target)


def _beside(finding: Finding, subject: Subject, target: Target) -> Finding:
    """Return a finding about a release's ONNX Runtime as it counts for a Python model, which brings its own."""
    if finding.level != "error" or not target.release or not subject.in_python or finding.what not in _OF_RUNTIME:
        return finding
    remedy = (
        f"{finding.remedy}; or install a newer onnxruntime into the image: the packaged Python model runs on that one, "
        "and only the onnxruntime backend on the image's own"
    )
    return replace(finding, level="warning", remedy=remedy)


def _graphs_of(files: Sequence[Path], target: Target) -> Iterator[Finding]:
    for file in files:
        try:
            yield from check_graph(read_outline(file), target)
        except ArtifactError as error:
            yield Finding(level="error", what="graph", found=str(error), remedy="")


def _graph(
    subject: Subject, precision: Precision, target: Target, config: EngineConfig, guess: list[Estimate]
) -> Iterator[Finding]:
    artifact = subject.artifact
    assert artifact is not None
    files = [artifact.path / name for name in graph_files(precision, artifact.manifest.decoder)]
    if not all(file.is_file() for file in files):
        return
    try:
        outlines = [read_outline(file) for file in files]
    except ArtifactError as error:
        yield Finding(level="error", what="graph", found=str(error), remedy="")
        return
    for outline in outlines:
        for finding in check_graph(outline, target):
            yield _beside(finding, subject, target)
        yield from check_exact(outline, target, overflows=overflows_int8())
    spec = artifact.contract(precision)
    if target.device == "cpu":
        rows = next((rows for model in subject.models if (rows := rows_of(model))), config.max_rows)
        context = min(spec.max_context, config.max_context or DEFAULT_CONTEXT)
        load = Load(
            rows=rows if config.max_rows == EngineConfig.max_rows else config.max_rows,
            context=context,
            chunk=config.prefill_chunk,
            source=min(spec.encoder.max_source, config.max_context or DEFAULT_CONTEXT) if spec.encoder else 0,
        )
        process, how = process_bytes(artifact.tokenizer)
        guess.append(_estimated(outlines, spec, load, process))
        kind = "" if spec.cache == "shared" else "; proven for shared caches, and this graph concatenates its own"
        yield check_fit(guess[0], load, f"process {how}{kind}")


def _estimated(outlines: Sequence[Outline], spec: DecoderSpec, load: Load, process: int) -> Estimate:
    """Return what an engine takes on a decoder's graph, and its encoder's where there are two."""
    encoder = outlines[1] if len(outlines) > 1 else None
    return estimate(outlines[0], spec, load, process=process, dot_product=has_dot_product(), encoder=encoder)
