"""Which folder a command means that runs one model."""

from pathlib import Path

from deploykit.artifact import MANIFEST
from deploykit.errors import ArtifactError
from deploykit.repository import CONFIG, open_repository


def model_folder(given: Path) -> Path:
    """Return the artifact that a path means: itself, or the one model of a model repository, in its highest version.

    Raises:
        ArtifactError: the repository holds several models, or one that can't be read.
    """
    repository = given.parent if (given / CONFIG).is_file() else given
    if (given / MANIFEST).is_file() or not any(repository.glob(f"*/{CONFIG}")):
        return given
    models = [model for model in open_repository(repository).models if repository is given or model.name == given.name]
    folders = [model.folder / str(model.versions[-1]) for model in models]
    if len(folders) != 1:
        places = ", ".join(str(given / folder.relative_to(given.absolute())) for folder in folders)
        raise ArtifactError(f"{given}: holds {len(folders)} models; give one of them: {places}")
    return folders[0]
