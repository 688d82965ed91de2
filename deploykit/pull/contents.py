"""What lies in a store: its models' configurations and manifests, and the files that these list."""

import re
import shutil
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Final

from deploykit.artifact import MANIFEST, REPOSITORY, Artifact, FileEntry, check_name
from deploykit.errors import ArtifactError
from deploykit.pull.store import Store
from deploykit.repository import CONFIG, Repository, open_repository

_VERSION: Final = re.compile(r"0|[1-9][0-9]{0,18}")
"""What Triton takes for a version's folder."""
_MOST_CONFIG: Final = 2**20
"""Bytes of a `config.pbtxt`: ours has 3 KB."""
_MOST_MANIFEST: Final = 2**24
"""Bytes of a manifest: ours has 10 KB."""


@dataclass(frozen=True, kw_only=True)
class Contents:
    """A model repository in a store, of which configurations and manifests are here already."""

    source: str
    """Where it is below the store's URL: empty, or `model_repository/` of an artifact."""
    small: Collection[str]
    """Paths of what is here."""
    files: Mapping[str, FileEntry]
    """The rest, by their paths."""
    names: tuple[str, ...]
    """Names of the models."""


def read_contents(store: Store, folder: Path, fingerprint: str | None) -> Contents:
    """Return what the store has, its configurations and manifests written into a folder.

    What they hold isn't believed until the files are: sizes may be anything, names may not leave the folder.

    Raises:
        StoreError: the store can't be read.
        ArtifactError: there is no model, one that can't be read, or one with another fingerprint than the expected.
    """
    source = f"{REPOSITORY}/" if REPOSITORY in store.folders("") else ""
    small = dict(_small_files(store, source))
    if not small:
        raise ArtifactError(f"{store.url}: no model repository (no */{CONFIG} in it); upload what `package` wrote")
    for name, content in small.items():
        file = folder / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content)
    _forget_others(folder, small)
    repository = open_repository(folder)
    _check_fingerprint(repository, fingerprint, store.url)
    files = {
        f"{model.name}/{version}/{name}": entry
        for model in repository.models
        for version in model.versions
        for name, entry in _listed(model.version_folder(version), store.url).items()
    }
    return Contents(source=source, small=small.keys(), files=files, names=repository.names)


def _small_files(store: Store, source: str) -> Iterator[tuple[str, bytes]]:
    """Yield each model's configuration and manifests, by their paths within the repository."""
    for model in store.folders(source.rstrip("/")):
        config = store.read(f"{source}{model}/{CONFIG}", most=_MOST_CONFIG)
        if config is None or model.startswith("."):
            continue
        check_name(model)
        yield f"{model}/{CONFIG}", config
        for version in store.folders(f"{source}{model}"):
            if _VERSION.fullmatch(version):
                name = f"{model}/{version}/{MANIFEST}"
                manifest = store.read(f"{source}{name}", most=_MOST_MANIFEST)
                if manifest is None:
                    raise ArtifactError(f"{store.url}/{source}{name}: not there; upload the model again")
                yield name, manifest


def _forget_others(folder: Path, small: Collection[str]) -> None:
    """Remove models and versions that an earlier attempt has left and that are no longer in the store."""
    for model in folder.iterdir():
        if f"{model.name}/{CONFIG}" not in small:
            shutil.rmtree(model)
            continue
        for version in model.iterdir():
            if version.is_dir() and f"{model.name}/{version.name}/{MANIFEST}" not in small:
                shutil.rmtree(version)


def _check_fingerprint(repository: Repository, expected: str | None, url: str) -> None:
    if expected is None:
        return
    names = repository.names
    if len(names) > 1:
        raise ArtifactError(
            f"{url}: {len(names)} models ({', '.join(names)}), but a fingerprint is that of one; "
            "give the URL of a repository with one model"
        )
    if (found := repository.models[0].fingerprint) != expected:
        raise ArtifactError(
            f"{url}: model {names[0]!r} has the fingerprint {found}, not {expected}; "
            "upload the model that is meant, or run `deploykit deploy` for this one"
        )


def _listed(place: Path, url: str) -> Mapping[str, FileEntry]:
    """Return the files that a manifest lists, each of which can be one."""
    files = Artifact.open(place, verify=False).manifest.files
    for name, entry in files.items():
        path = PurePosixPath(name)
        plain = name.isprintable() and str(path) == name and name != MANIFEST
        if not plain or entry.size < 0 or any(str(parent) in files for parent in path.parents):
            raise ArtifactError(
                f"{url}: {MANIFEST} of version {place.name} lists {name!r} with {entry.size} bytes, which can't be a "
                "file; export the checkpoint again"
            )
    return files
