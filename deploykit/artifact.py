"""An artifact: a folder whose `manifest.json` says what it is, how it came about, and what each file hashes to.

Every stage reads one artifact and writes another. The new one is filled in a hidden folder beside its target and
renamed into place once it is whole, so that a process killed at any moment leaves the old good artifact or the new
good one, never a part of either.
"""

import errno
import hashlib
import json
import os
import secrets
import shutil
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath
from typing import Any, Final, Self

from deploykit.card import CARD, has_changes, with_changes
from deploykit.config import Mode
from deploykit.disk import exchange, fsync
from deploykit.errors import ArtifactError, OutputError
from deploykit.spec import FAST, VARIANT_FILES, DecoderSpec, Precision, data_file

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
            _check_name(name)
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
        """Return the ONNX file of a precision (the served one where None).

        Raises:
            ArtifactError: the artifact doesn't hold that precision.
        """
        name = VARIANT_FILES[precision or self.manifest.served]
        if name not in self.manifest.files:
            raise ArtifactError(
                f"{self.path}: no {precision or self.manifest.served} model in it, only {', '.join(self.precisions())}"
            )
        return self.path / name

    def contract(self, precision: Precision | None = None) -> DecoderSpec:
        """Return what the graph of a precision takes and gives (the served one where None)."""
        return self.manifest.decoder.of(precision or self.manifest.served)

    def precisions(self) -> list[Precision]:
        """Return the precisions the artifact holds, fp32 first."""
        return [precision for precision, name in VARIANT_FILES.items() if name in self.manifest.files]

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
        """Return the files of a precision's model (the served one's where None): its graph, and its data if any."""
        graph = VARIANT_FILES[precision or self.manifest.served]
        return [name for name in (graph, data_file(graph)) if name in self.manifest.files]

    def size_of(self, precision: Precision | None = None) -> int:
        """Return the bytes of a precision's model (the served one's where None)."""
        return sum(self.manifest.files[name].size for name in self.files_of(precision))

    @property
    def tokenizer(self) -> Path | None:
        """Path of `tokenizer.json`, or None where the checkpoint had no tokenizer."""
        return self.path / "tokenizer.json" if "tokenizer.json" in self.manifest.files else None


class Draft:
    """An artifact being written: files go into `path`, and `commit` makes it whole."""

    def __init__(self, path: Path, target: Path, *, overwrite: bool, marker: str = MANIFEST) -> None:
        self.path = path
        self._target = target
        self._overwrite = overwrite
        self._marker = marker
        self._known: dict[str, FileEntry] = {}
        self.artifact: Artifact | None = None

    def file(self, name: str) -> Path:
        """Return where to write the file `name`, its folder made and any carried-over file of that name removed."""
        _check_name(name)
        file = self.path / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.unlink(missing_ok=True)
        self._known.pop(name, None)
        return file

    def write_json(self, name: str, data: Any) -> None:
        """Write `data` as the file `name`."""
        self.file(name).write_text(json.dumps(data, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")

    def carry(
        self, source: Artifact, names: Iterable[str] | None = None, *, link: bool = False, into: str = ""
    ) -> None:
        """Take files over unchanged.

        Args:
            source: the artifact that holds them.
            names: which files; all of them where None.
            link: whether hard links will do: only where `source` is about to be removed.
            into: the folder of this artifact to put them in; its root where empty.
        """
        for name in source.manifest.files if names is None else names:
            placed = f"{into}/{name}" if into else name
            target = self.file(placed)
            if link:
                os.link(source.path / name, target)
            else:
                shutil.copyfile(source.path / name, target)
            self._known[placed] = source.manifest.files[name]

    def commit(self, manifest: Manifest) -> Artifact:
        """Hash the files, write `manifest` with them, and move the whole to its target.

        Raises:
            OutputError: the target appeared meanwhile and may not be replaced.
            ArtifactError: the manifest's figures aren't such as `validate` writes.
        """
        self._update_card(manifest)
        names = sorted(p.relative_to(self.path).as_posix() for p in self.path.rglob("*") if p.is_file())
        with ThreadPoolExecutor(1) as disk:
            # The disk takes what is still in memory while the hashes are computed.
            flushed = disk.submit(self._flush)
            entries = {name: self._known.get(name) or _entry(self.path / name) for name in names if name != MANIFEST}
            flushed.result()
        manifest = replace(manifest, files=entries)
        self.write_json(MANIFEST, manifest.to_json())
        self.publish()
        self.artifact = Artifact(self._target, manifest)
        return self.artifact

    def _update_card(self, manifest: Manifest) -> None:
        """Say in the model card what was changed, where it has the place for it."""
        file = self.path / CARD
        text = file.read_bytes().decode(errors="surrogateescape") if file.is_file() else ""
        if has_changes(text):
            # A new file: the old one may be a hard link to another artifact's.
            try:
                changed = with_changes(text, manifest)
            except (KeyError, TypeError, ValueError, AttributeError) as error:
                raise ArtifactError(f"{MANIFEST}: its figures can't be read: {error!r}; export again") from error
            self.file(CARD).write_bytes(changed.encode(errors="surrogateescape"))

    def publish(self) -> None:
        """Move the files to their target as they are: for a folder that is whole without a manifest.

        Raises:
            OutputError: the target appeared meanwhile and may not be replaced.
        """
        self._flush()
        # It was made for this user alone; the finished artifact is as readable as its umask says.
        umask = os.umask(0)
        os.umask(umask)
        self.path.chmod(0o777 & ~umask)
        _move_into_place(self.path, self._target, overwrite=self._overwrite, marker=self._marker)

    def _flush(self) -> None:
        for file in self.path.rglob("*"):
            if file.is_file():
                fsync(file)


@contextmanager
def draft(target: str | os.PathLike[str], *, overwrite: bool = False, marker: str = MANIFEST) -> Iterator[Draft]:
    """Open a draft of the artifact `target`; nothing is left of it unless it is committed.

    Args:
        target: where the finished artifact will lie.
        overwrite: whether an artifact that is there already may be replaced.
        marker: the file by which a folder is known as one that may be replaced.

    Raises:
        OutputError: `target` exists and may not be replaced, or its folder can't be written.
    """
    # Not `resolve()`: a link at the target itself must be seen, not followed.
    place = Path(target).parent.resolve() / Path(target).name
    check_target(place, overwrite=overwrite, marker=marker)
    with hidden_folder(place) as staging:
        try:
            yield Draft(staging, place, overwrite=overwrite, marker=marker)
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EROFS):
                raise OutputError(
                    f"{place}: can't be written: {error.strerror}; make room or choose another -o"
                ) from error
            raise


@contextmanager
def hidden_folder(target: Path) -> Iterator[Path]:
    """Open an empty folder beside `target`, on the same file system; what is left of it is removed at the end.

    Raises:
        OutputError: it can't be made there.
    """
    # Named before it is made: a signal that comes in between finds the cleaning up begun.
    folder = target.with_name(f".{target.name}.{secrets.token_hex(4)}.partial")
    try:
        try:
            folder.parent.mkdir(parents=True, exist_ok=True)
            folder.mkdir(mode=0o700)
        except OSError as error:
            raise OutputError(f"{target}: can't be written: {error.strerror or error}; choose another -o") from error
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def check_target(place: Path, *, overwrite: bool, marker: str = MANIFEST) -> None:
    """Check that an output may be written at `place`, before any work is done for it.

    Raises:
        OutputError: it exists already (an empty folder may), or is something that is never replaced.
    """
    if not os.path.lexists(place):
        return
    if place.is_dir() and not place.is_symlink() and not any(place.iterdir()):
        return
    if not overwrite:
        raise OutputError(f"{place}: exists already; choose another -o or pass --overwrite")
    if not (place / marker).is_file() or place.is_symlink():
        raise OutputError(f"{place}: exists and holds no {marker} of ours, so it is not replaced; choose another -o")


def _move_into_place(staging: Path, target: Path, *, overwrite: bool, marker: str) -> None:
    check_target(target, overwrite=overwrite, marker=marker)
    if not target.exists() or not any(target.iterdir()):
        staging.replace(target)
    else:
        # The two folders change places in one step; the old one is then removed under the staging name.
        exchange(staging, target)
    fsync(target.parent)


def _check_name(name: str) -> None:
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


def _entry(file: Path) -> FileEntry:
    return FileEntry(sha256=_sha256(file), size=file.stat().st_size)


def _sha256(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
