"""Files from a store to the disk, each with the size and the hash that its manifest says."""

import os
import shutil
from collections.abc import Collection, Iterator
from contextlib import suppress
from hashlib import file_digest, sha256
from pathlib import Path
from typing import Final

from deploykit.artifact import FileEntry
from deploykit.errors import ArtifactError, OutputError
from deploykit.progress import Progress
from deploykit.pull.contents import Contents
from deploykit.pull.store import Store
from deploykit.sizes import spell_bytes

STAGE: Final = "download"


def download(store: Store, contents: Contents, folder: Path, progress: Progress) -> int:
    """Bring every file that isn't there yet, remove every other, and return how many bytes were brought.

    Raises:
        StoreError: the store can't be read.
        ArtifactError: a file isn't what its manifest says.
        OutputError: there is too little room.
    """
    _prune(folder, {folder / name for name in (*contents.small, *contents.files)})
    missing = {name: entry for name, entry in contents.files.items() if not _is_whole(folder / name, entry)}
    needed = sum(entry.size for entry in missing.values())
    _check_room(folder, needed)
    done = 0
    progress(STAGE, 0, needed)
    for name, entry in missing.items():
        for count in _bring(store, contents.source + name, folder / name, entry):
            done += count
            progress(STAGE, done, needed, spell_bytes(done))
    return needed


def _prune(folder: Path, keep: Collection[Path]) -> None:
    """Remove what an earlier attempt has left of another version of the model."""
    for path in sorted(folder.rglob("*"), reverse=True):
        if path.is_dir():
            # Those with something in them stay.
            with suppress(OSError):
                path.rmdir()
        elif path not in keep:
            path.unlink()


def _is_whole(file: Path, entry: FileEntry) -> bool:
    if not file.is_file() or file.stat().st_size != entry.size:
        return False
    with file.open("rb") as stream:
        return file_digest(stream, "sha256").hexdigest() == entry.sha256


def _check_room(folder: Path, needed: int) -> None:
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise OutputError(
            f"{folder.parent}: {spell_bytes(needed)} to download, but only {spell_bytes(free)} free there; "
            "make room or choose another -o"
        )


def _bring(store: Store, name: str, file: Path, entry: FileEntry) -> Iterator[int]:
    """Write a file as it comes, and yield how many bytes have come each time."""
    file.parent.mkdir(parents=True, exist_ok=True)
    file.unlink(missing_ok=True)
    digest = sha256()
    with file.open("xb") as output:
        for piece in store.pieces(name, entry.size):
            output.write(piece)
            digest.update(piece)
            yield len(piece)
        output.flush()
        os.fsync(output.fileno())
    if digest.hexdigest() != entry.sha256:
        raise ArtifactError(
            f"{store.url}/{name}: its SHA-256 is {digest.hexdigest()}, but its manifest says {entry.sha256}; "
            "upload the model again"
        )
