"""An artifact, or another folder, being written.

It is filled in a hidden folder beside its target and renamed into place once it is whole, so that a process killed at
any moment leaves the old good artifact or the new good one, never a part of either.
"""

import errno
import json
import os
import secrets
import shutil
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from deploykit.artifact import MANIFEST, Artifact, FileEntry, Manifest, check_name, entry_of
from deploykit.card import CARD, has_changes, with_changes
from deploykit.disk import exchange, fsync
from deploykit.errors import ArtifactError, OutputError


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
        check_name(name)
        file = self.path / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.unlink(missing_ok=True)
        self._known.pop(name, None)
        return file

    def rewritten(self, name: str) -> None:
        """Note that the file `name`, carried over, was changed where it lies, so that it is hashed again."""
        self._known.pop(name)

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
            entries = {name: self._known.get(name) or entry_of(self.path / name) for name in names if name != MANIFEST}
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
