"""The models in artifacts and Triton model repositories, to be checked before anything is started on them."""

from collections.abc import Iterator
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Final

from deploykit.artifact import MANIFEST, REPOSITORY, Artifact
from deploykit.config import Mode
from deploykit.errors import ArtifactError

CONFIG: Final = "config.pbtxt"


@dataclass(frozen=True, kw_only=True)
class Model:
    """A model that Triton can serve, as its files are now."""

    name: str
    folder: Path
    """Where its `config.pbtxt` lies, and a folder for each version."""
    versions: tuple[int, ...]
    fingerprint: str
    """Another one as soon as a file of it has changed: of its configuration and of its manifests, which hold hashes."""

    def version_folder(self, version: int) -> Path:
        """Return where the artifact of a version lies."""
        return self.folder / str(version)

    def verify(self, mode: Mode) -> None:
        """Check every file of it, and that it can run in a mode.

        Raises:
            ArtifactError: naming the first file that isn't what its manifest says, or what the mode needs.
        """
        for version in self.versions:
            Artifact.open(self.version_folder(version)).precision_for(mode)


@dataclass(frozen=True, kw_only=True)
class Repository:
    """Models that are served together."""

    models: tuple[Model, ...]
    """Sorted by name; no two have the same."""

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the models."""
        return tuple(model.name for model in self.models)


def open_repository(*paths: Path) -> Repository:
    """Return the models at `paths`, packaged artifacts or model repositories, without looking into their files.

    Raises:
        ArtifactError: nothing there, not packaged, no model in it, two of one name, or one that can't be read.
    """
    found: dict[str, Path] = {}
    for path in paths:
        for folder in _model_folders(path):
            if folder.name in found:
                raise ArtifactError(
                    f"{path}: a second model named {folder.name!r}, the first is in {found[folder.name].parent}; "
                    "package one of them under another --name"
                )
            found[folder.name] = folder
    return Repository(models=tuple(_open_model(found[name]) for name in sorted(found)))


def _model_folders(path: Path) -> list[Path]:
    given = path.absolute()
    if not given.is_dir():
        raise ArtifactError(f"{given}: no such folder; give a packaged artifact or a model repository")
    root = given / REPOSITORY if (given / REPOSITORY).is_dir() else given
    if root == given and (given / MANIFEST).is_file():
        raise ArtifactError(f"{given}: not packaged for Triton yet; run: deploykit package {path} -o OUT")
    folders = [entry for entry in root.iterdir() if (entry / CONFIG).is_file()]
    if not folders:
        raise ArtifactError(
            f"{given}: neither a packaged artifact nor a model repository (no */{CONFIG} in it); "
            "give what `deploykit export` or `deploykit package` wrote"
        )
    return folders


def _open_model(folder: Path) -> Model:
    digest = sha256((folder / CONFIG).read_bytes())
    versions = tuple(_versions(folder))
    for version in versions:
        place = folder / str(version)
        # Read first: should the files change under our eyes, the next look finds another fingerprint.
        digest.update(f"\n{version}\n".encode() + _manifest_bytes(place))
        Artifact.open(place, verify=False)
    return Model(name=folder.name, folder=folder, versions=versions, fingerprint=digest.hexdigest())


def _manifest_bytes(place: Path) -> bytes:
    try:
        return (place / MANIFEST).read_bytes()
    except OSError:
        # What is wrong with it is for `Artifact.open` to say.
        return b""


def _versions(folder: Path) -> Iterator[int]:
    found = sorted(int(entry.name) for entry in folder.iterdir() if entry.is_dir() and entry.name.isdecimal())
    if not found:
        raise ArtifactError(f"{folder}: no version of the model in it; package the artifact again")
    yield from found
