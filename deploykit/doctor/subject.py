"""What the doctor is given: an artifact, a model repository, or one model of a repository."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from deploykit.artifact import MANIFEST, Artifact
from deploykit.chat_template.trial import Fault, find_faults
from deploykit.doctor.finding import Finding, ok
from deploykit.doctor.repository import find_models
from deploykit.doctor.target import Device, Target
from deploykit.errors import ArtifactError, EngineError, MissingExtraError, QueueFullError
from deploykit.spec import HALF, Precision


@dataclass(frozen=True, kw_only=True)
class Subject:
    """An artifact, Triton models, or both."""

    path: Path
    artifact: Artifact | None
    models: tuple[Path, ...]
    """Folders of Triton models."""

    @property
    def in_python(self) -> bool:
        """Whether it is packaged for the Python backend."""
        folders = [self.artifact.path] if self.artifact else []
        return any((folder / "model.py").is_file() for folder in folders) or any(
            list(model.glob("*/model.py")) for model in self.models
        )

    def precision(self, wanted: Precision | None) -> Precision | None:
        """Return the precision to look at: the served one where nobody says."""
        return wanted or (self.artifact.manifest.served if self.artifact else None)

    def device(self, wanted: Device | None, precision: Precision | None) -> Device:
        """Return the device to look at: a GPU for the precisions made for one."""
        return wanted or ("cuda" if precision in HALF else "cpu")


def open_subject(path: Path) -> Subject:
    """Return what lies at `path`, its files not verified yet.

    Raises:
        ArtifactError: neither an artifact nor a model repository is there.
    """
    if not path.is_dir():
        raise ArtifactError(f"{path}: no such folder; give an artifact, a model repository or a model of one")
    models = tuple(find_models(path))
    place = path if (path / MANIFEST).is_file() else _only_artifact(models)
    if place is None and not models:
        raise ArtifactError(f"{path}: neither an artifact (no {MANIFEST}) nor a model repository (no */config.pbtxt)")
    return Subject(path=path, artifact=Artifact.open(place, verify=False) if place else None, models=models)


def _only_artifact(models: tuple[Path, ...]) -> Path | None:
    """Return the newest version's artifact where there is one model of ours."""
    found = [version.parent for model in models for version in sorted(model.glob(f"*/{MANIFEST}"))]
    return found[-1] if found and len({version.parent for version in found}) == 1 else None


def check_artifact(artifact: Artifact, precision: Precision, target: Target) -> Iterator[Finding]:
    """Yield whether an artifact is whole and has what serving needs."""
    try:
        artifact.verify()
        yield ok("files", f"all {len(artifact.manifest.files)} are what the manifest says")
    except ArtifactError as error:
        yield Finding(level="error", what="files", found=str(error), remedy="export again, or copy the artifact again")
    if precision not in artifact.precisions():
        there = ", ".join(artifact.precisions()) or "none"
        remedy = f"quantize to {precision}, or look at another one with --precision"
        yield Finding(level="error", what="precision", found=f"no {precision} graph, only {there}", remedy=remedy)
    elif precision in HALF and target.device == "cpu":
        remedy = "serve int8 or int4 on a CPU"
        found = f"{precision} on a CPU: its products run in fp32 and its weights take twice their size"
        yield Finding(level="warning", what="precision", found=found, remedy=remedy)
    else:
        yield ok("precision", f"{precision}, one of {', '.join(artifact.precisions())}")
    if artifact.tokenizer is None:
        remedy = "save the tokenizer beside the checkpoint and export it again; token ids alone work without it"
        yield Finding(level="warning", what="tokenizer", found="no tokenizer.json: it can't take text", remedy=remedy)
    else:
        yield ok("tokenizer", f"{artifact.tokenizer.name}, {artifact.tokenizer.stat().st_size:,} bytes")
    yield from _check_chat(artifact.path)


def _check_chat(folder: Path) -> Iterator[Finding]:
    """Yield what is wrong with the chat templates; nothing where all is well, or where there are none."""
    what = "chat template"
    try:
        for fault in find_faults(folder):
            yield _chat_fault(fault)
    except ArtifactError as error:
        yield Finding(level="error", what=what, found=str(error), remedy="")
    except (EngineError, MissingExtraError, QueueFullError) as error:
        yield Finding(level="note", what=what, found=f"not tried: {error}")


def _chat_fault(fault: Fault) -> Finding:
    found = f"{fault.file}: {fault.reason}"
    if fault.compiles:
        remedy = "chat with it and see: another conversation may suit it; if none does, correct it in the checkpoint"
        return Finding(level="warning", what="chat template", found=found, remedy=remedy)
    remedy = "correct it in the checkpoint and export again: the gateway doesn't start with it"
    return Finding(level="error", what="chat template", found=found, remedy=remedy)
