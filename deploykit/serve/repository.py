"""The models in a Triton model repository, checked before anything is started on them."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from deploykit.artifact import MANIFEST, REPOSITORY, Artifact
from deploykit.errors import ArtifactError

CONFIG: Final = "config.pbtxt"


@dataclass(frozen=True, kw_only=True)
class Repository:
    """A folder that Triton can serve."""

    path: Path
    models: tuple[str, ...]
    """Names of the models in it, sorted."""


def open_repository(path: str | Path) -> Repository:
    """Return the repository at `path`: a packaged artifact's, or the folder itself.

    Every file of every model in it is verified against the model's manifest.

    Raises:
        ArtifactError: nothing there, not packaged, no model in it, or a file that was changed.
    """
    given = Path(path).absolute()
    if not given.is_dir():
        raise ArtifactError(f"{given}: no such folder; give a packaged artifact or a model repository")
    root = given / REPOSITORY if (given / REPOSITORY).is_dir() else given
    if root == given and (given / MANIFEST).is_file():
        raise ArtifactError(f"{given}: not packaged for Triton yet; run: deploykit package {path} -o OUT")
    models = tuple(sorted(entry.name for entry in root.iterdir() if (entry / CONFIG).is_file()))
    if not models:
        raise ArtifactError(
            f"{given}: neither a packaged artifact nor a model repository (no */{CONFIG} in it); "
            "give what `deploykit export` or `deploykit package` wrote"
        )
    for model in models:
        for version in _versions(root / model):
            Artifact.open(version)
    return Repository(path=root, models=models)


def _versions(model: Path) -> Iterator[Path]:
    found = sorted(entry for entry in model.iterdir() if entry.is_dir() and entry.name.isdecimal())
    if not found:
        raise ArtifactError(f"{model}: no version of the model in it; package the artifact again")
    yield from found
