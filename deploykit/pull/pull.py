"""From an object store to a folder that a server takes."""

import os
from dataclasses import dataclass
from pathlib import Path

from deploykit.artifact import Artifact
from deploykit.errors import ArtifactError
from deploykit.progress import Progress, silent
from deploykit.pull.contents import read_contents
from deploykit.pull.download import download
from deploykit.pull.staging import check_target, place, staging, unwritable
from deploykit.pull.store import RETRIES, Store
from deploykit.repository import Model, open_repository


@dataclass(frozen=True, kw_only=True)
class Pulled:
    """Models that are in a folder now."""

    path: Path
    models: tuple[Model, ...]
    size: int
    """Bytes of their files."""
    downloaded: int
    """Bytes that were downloaded for it; the others were there from an earlier attempt."""


def pull(
    url: str,
    out: str | os.PathLike[str],
    *,
    fingerprint: str | None = None,
    overwrite: bool = False,
    retries: int = RETRIES,
    progress: Progress = silent,
) -> Pulled:
    """Return the models of a repository in an object store, downloaded, each file checked against its manifest.

    Only what the manifests list is taken, and each model's configuration. All of it is prepared in a hidden folder
    inside of `out`, and each model is then moved to its place in one step. Where an attempt ends before, by the store's
    fault or a kill, the next one goes on with the files that are whole. What is there already, with the right
    fingerprint, is checked and stays, without a question to the store.

    Args:
        url: where the repository lies, or an artifact that has one: `s3://BUCKET/PATH`, `gs://`, `az://`, `file://`.
        out: the folder for the models; it may be there, and be where a volume is mounted.
        fingerprint: what the only model's must be.
        overwrite: whether models in `out` may be replaced, and others removed.
        retries: times to ask a server again that fails to answer.
        progress: told how many bytes are there.

    Raises:
        ConfigError: the URL is none of an object store's.
        StoreError: the store can't be read.
        ArtifactError: a file isn't what its manifest says, or the model has another fingerprint.
        OutputError: `out` holds something else or can't be written.
    """
    target, store = Path(out), Store(url, retries=retries)
    with staging(target) as folder:
        if fingerprint and (found := _there(target, fingerprint)):
            return found
        check_target(target, overwrite=overwrite)
        try:
            contents = read_contents(store, folder, fingerprint)
            downloaded = download(store, contents, folder, progress)
            place(folder, target, contents.names)
        except OSError as error:
            raise unwritable(target, error) from error
    return _pulled(target, downloaded)


def _there(target: Path, fingerprint: str) -> Pulled | None:
    """Return the model in a folder if it is the one with that fingerprint, and whole."""
    try:
        models = open_repository(target).models
        if [model.fingerprint for model in models] != [fingerprint]:
            return None
        models[0].verify("deterministic")
    except ArtifactError:
        return None
    return _pulled(target, 0)


def _pulled(target: Path, downloaded: int) -> Pulled:
    models = open_repository(target).models
    artifacts = [Artifact.open(m.version_folder(version), verify=False) for m in models for version in m.versions]
    size = sum(entry.size for artifact in artifacts for entry in artifact.manifest.files.values())
    return Pulled(path=target, models=models, size=size, downloaded=downloaded)
