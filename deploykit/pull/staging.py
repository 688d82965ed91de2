"""Where files are kept until all of them are there: a hidden folder inside of the target.

Inside, since the target may be where a volume is mounted: nothing can be renamed over that, and what lies beside it is
on another disk. A killed pull leaves this folder, which no server takes for a model, and the next one goes on with it.
"""

import fcntl
import os
import shutil
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

from deploykit.disk import exchange, fsync
from deploykit.errors import OutputError, StoreError
from deploykit.repository import CONFIG

STAGING: Final = ".deploykit-pull"
_OTHERS: Final = frozenset({STAGING, "lost+found"})
"""What may lie in a target that counts as empty; the latter is in the root of a fresh disk."""


@contextmanager
def staging(target: Path) -> Iterator[Path]:
    """Open the folder in which a pull is prepared; it stays only after a failure that may be over soon.

    Raises:
        OutputError: it can't be made, or another pull is at work there.
    """
    made = not target.exists()
    folder = target / STAGING
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if folder.is_symlink() or any(path.is_symlink() for path in folder.rglob("*")):
            # Nothing of ours, and a way out of the folder.
            raise OutputError(f"{folder}: has links in it, which no pull leaves; remove it")
    except OSError as error:
        raise unwritable(target, error) from error
    with _alone(folder, target):
        try:
            yield folder
        except BaseException as error:
            soon = isinstance(error, StoreError | KeyboardInterrupt | SystemExit)
            if not (soon and any(path.is_file() for path in folder.rglob("*"))):
                shutil.rmtree(folder, ignore_errors=True)
                if made:
                    with suppress(OSError):
                        target.rmdir()
            raise
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def _alone(folder: Path, target: Path) -> Iterator[None]:
    """Keep other pulls out; the kernel lets them in again whatever becomes of this one."""
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise OutputError(f"{target}: another pull is at work there; wait for it, or choose another -o") from None
        except OSError:
            pass  # some network file systems have no locks
        yield
    finally:
        os.close(handle)


def check_target(target: Path, *, overwrite: bool) -> None:
    """Check that models may be placed in a folder, before anything is downloaded.

    Raises:
        OutputError: there is something that may not be replaced.
    """
    found = [entry for entry in target.iterdir() if entry.name not in _OTHERS]
    if found and not overwrite:
        raise OutputError(f"{target}: exists already; choose another -o or pass --overwrite")
    for entry in found:
        if entry.is_symlink() or not (entry / CONFIG).is_file():
            raise OutputError(
                f"{target}: {entry.name} in it is no model of a repository, so nothing there is replaced; "
                "choose another -o"
            )


def place(folder: Path, target: Path, names: Collection[str]) -> None:
    """Move finished models from the folder to the target, each in one step, and remove what was there beside them."""
    for name in names:
        if (target / name).exists():
            exchange(folder / name, target / name)
        else:
            (folder / name).rename(target / name)
    for entry in target.iterdir():
        if entry.name not in _OTHERS and entry.name not in names:
            shutil.rmtree(entry)
    fsync(target)


def unwritable(target: Path, error: OSError) -> OutputError:
    """Return what to say of a disk that is full, read-only or the like."""
    where = f" ({error.filename})" if error.filename and error.filename != str(target) else ""
    return OutputError(f"{target}: can't be written: {error.strerror or error}{where}; make room or choose another -o")
