"""An artifact: a folder whose `manifest.json` says what it is, how it came about, and what each file hashes to.

Every stage reads one artifact and writes another, by way of `draft`.
"""

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any, Final, Self

from deploykit.config import Mode
from deploykit.errors import ArtifactError
from deploykit.spec import FAST, VARIANT_FILES, DecoderSpec, Precision, data_file, graph_files

FORMAT_VERSION: Final = 1
MANIFEST: Final = "manifest.json"
REPOSITORY: Final = "model_repository"


@dataclass(frozen=True, kw_only=True)
class FileEntry:
    """What a file must be, to the byte."""

    sha256: str
    size: int

    def __post_init__(self) -> None:
        for name, kind in (("sha256", str), ("size", int)):
            if type(getattr(self, name)) is not kind:
                raise TypeError(f"a file's {name} is {getattr(self, name)!r}")


@dataclass(frozen=True, kw_only=True)
class StageRecord:
    """One stage an artifact went through."""

    stage: str
    options: Mapping[str, Any]
    versions: Mapping[str, str]
    result: Mapping[str, Any] = field(default_factory=dict)
    """Figures worth keeping: seconds, node counts, passes, sizes."""

    def __post_init__(self) -> None:
        if not isinstance(self.stage, str):
            raise TypeError(f"a stage's name is {self.stage!r}")
        for name in ("options", "versions", "result"):
            if not isinstance(getattr(self, name), Mapping):
                raise TypeError(f"{self.stage}: its {name} are {getattr(self, name)!r}")


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """The contents of `manifest.json`."""

    task: str
    architecture: str
    """The class named in the checkpoint's `config.json`, such as `LlamaForCausalLM`."""
    model_type: str
    decoder: DecoderSpec
    served: Precision
    """The precision that is packaged and run unless another is asked for."""
    history: tuple[StageRecord, ...] = ()
    parity: Mapping[str, Any] = field(default_factory=dict)
    """What `validate` found: by precision, limits and figures."""
    files: Mapping[str, FileEntry] = field(default_factory=dict)
    """Every file of the artifact but the manifest itself, by its path within the folder."""

    def to_json(self) -> dict[str, Any]:
        """Return the manifest as plain JSON values, keys in reading order."""
        return {
            "format_version": FORMAT_VERSION,
            "task": self.task,
            "architecture": self.architecture,
            "model_type": self.model_type,
            "served": self.served,
            "decoder": self.decoder.to_json(),
            "parity": dict(self.parity),
            "history": [
                {"stage": r.stage, "options": dict(r.options), "versions": dict(r.versions), "result": dict(r.result)}
                for r in self.history
            ],
            "files": {name: {"sha256": e.sha256, "size": e.size} for name, e in sorted(self.files.items())},
        }

    @classmethod
    def from_json(cls, data: Any) -> Self:
        """Read what `to_json` wrote.

        Raises:
            ArtifactError: another format version, a missing field, or a file name that leaves the folder.
        """
        if not isinstance(data, dict) or data.get("format_version") != FORMAT_VERSION:
            found = data.get("format_version") if isinstance(data, dict) else None
            raise ArtifactError(
                f"{MANIFEST}: format version {found!r} can't be read by this deploykit (it reads {FORMAT_VERSION}); "
                "export the checkpoint again"
            )
        try:
            manifest = cls(
                task=str(data["task"]),
                architecture=str(data["architecture"]),
                model_type=str(data["model_type"]),
                served=data["served"],
                decoder=DecoderSpec.from_json(data["decoder"]),
                parity=dict(data["parity"]),
                history=tuple(StageRecord(**record) for record in data["history"]),
                files={name: FileEntry(**entry) for name, entry in data["files"].items()},
            )
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise ArtifactError(f"{MANIFEST} can't be read: {error!r}; export the checkpoint again") from error
        if manifest.served not in list(VARIANT_FILES):
            raise ArtifactError(f"{MANIFEST}: unknown precision {manifest.served!r}")
        for name in (manifest.task, manifest.architecture, manifest.model_type):
            # They are shown on terminals and stand in the model card.
            if not name.isprintable():
                raise ArtifactError(f"{MANIFEST}: {name!r} is no name; export the checkpoint again")
        for name in manifest.files:
            check_name(name)
        return manifest


@dataclass(frozen=True)
class Artifact:
    """A folder that was found to be whole."""

    path: Path
    manifest: Manifest

    @classmethod
    def open(cls, path: str | os.PathLike[str], *, verify: bool = True) -> Self:
        """Read the artifact at `path`, checking every file's size and SHA-256.

        Args:
            path: the artifact's folder.
            verify: whether to hash the files; only for a caller that has just done so.

        Raises:
            ArtifactError: there is no artifact, or a file is missing, changed, a link, or outside the folder.
        """
        root = Path(path)
        manifest = Manifest.from_json(_read_json(root / MANIFEST))
        artifact = cls(root, manifest)
        if verify:
            artifact.verify()
        return artifact

    def verify(self) -> None:
        """Check that every file is what the manifest says.

        Raises:
            ArtifactError: naming the first file that isn't.
        """
        for name, entry in self.manifest.files.items():
            file = self.path / name
            if file.is_symlink() or not file.is_file():
                raise ArtifactError(f"{file}: listed in {MANIFEST} but not there as a regular file; export again")
            if file.stat().st_size != entry.size:
                raise ArtifactError(
                    f"{file}: {file.stat().st_size} bytes, but {MANIFEST} says {entry.size}; "
                    "the file was changed or cut short, export again"
                )
            if _sha256(file) != entry.sha256:
                raise ArtifactError(f"{file}: SHA-256 differs from {MANIFEST}; the file was changed, export again")

    def graph(self, precision: Precision | None = None) -> Path:
        """Return the ONNX file of a precision (the served one where None); of an encoder-decoder, the decoder's.

        Raises:
            ArtifactError: the artifact doesn't hold that precision.
        """
        return self.graphs(precision)[0]

    def graphs(self, precision: Precision | None = None) -> tuple[Path, ...]:
        """Return the ONNX files of a precision (the served one where None): the decoder's, and any encoder's.

        Raises:
            ArtifactError: the artifact doesn't hold that precision.
        """
        names = graph_files(precision or self.manifest.served, self.manifest.decoder)
        if any(name not in self.manifest.files for name in names):
            raise ArtifactError(
                f"{self.path}: no {precision or self.manifest.served} model in it, only {', '.join(self.precisions())}"
            )
        return tuple(self.path / name for name in names)

    def contract(self, precision: Precision | None = None) -> DecoderSpec:
        """Return what the graph of a precision takes and gives (the served one where None)."""
        return self.manifest.decoder.of(precision or self.manifest.served)

    def precisions(self) -> list[Precision]:
        """Return the precisions the artifact holds, fp32 first."""
        return [
            precision
            for precision in VARIANT_FILES
            if all(name in self.manifest.files for name in graph_files(precision, self.manifest.decoder))
        ]

    def precision_for(self, mode: Mode) -> Precision:
        """Return the precision that an engine runs in a mode.

        Raises:
            ArtifactError: the artifact doesn't hold it.
        """
        if mode == "deterministic":
            return self.manifest.served
        if FAST not in self.precisions():
            raise ArtifactError(
                f"{self.path}: no {FAST} model in it, which mode {mode} runs; "
                "add one: deploykit export CHECKPOINT -o OUT --throughput"
            )
        return FAST

    def files_of(self, precision: Precision | None = None) -> list[str]:
        """Return the files of a precision's model (the served one's where None): its graphs, and their data if any."""
        graphs = graph_files(precision or self.manifest.served, self.manifest.decoder)
        return [name for graph in graphs for name in (graph, data_file(graph)) if name in self.manifest.files]

    def size_of(self, precision: Precision | None = None) -> int:
        """Return the bytes of a precision's model (the served one's where None)."""
        return sum(self.manifest.files[name].size for name in self.files_of(precision))

    @property
    def tokenizer(self) -> Path | None:
        """Path of `tokenizer.json`, or None where the checkpoint had no tokenizer."""
        return self.path / "tokenizer.json" if "tokenizer.json" in self.manifest.files else None


def check_name(name: str) -> None:
    """Check that a file's name stays inside of its artifact's folder.

    Raises:
        ArtifactError: it doesn't.
    """
    parts = PurePosixPath(name).parts
    if not parts or name.startswith("/") or "\\" in name or "\0" in name or ".." in parts or "." in parts:
        raise ArtifactError(f"{MANIFEST}: file name {name!r} leaves the artifact's folder")


def _read_json(file: Path) -> Any:
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        raise ArtifactError(f"{file.parent}: not a deploykit artifact (no {file.name} in it)") from None
    except (OSError, ValueError, RecursionError) as error:
        raise ArtifactError(f"{file}: can't be read: {error}") from error


def entry_of(file: Path) -> FileEntry:
    """Return what a manifest says of a file."""
    return FileEntry(sha256=_sha256(file), size=file.stat().st_size)


def _sha256(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
