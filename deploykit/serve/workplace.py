"""The folder and the shared memory that one run of the server uses, and that nothing is left of afterwards."""

import fcntl
import os
import shutil
import tempfile
from pathlib import Path
from typing import Final, Self

_PREFIX: Final = "deploykit-serve-"
_LOCK: Final = "lock"
_SHARED_MEMORY: Final = Path("/dev/shm")  # noqa: S108  # where Linux keeps POSIX shared memory


class Workplace:
    """A temporary folder whose name is also the prefix of the run's shared memory; a context manager.

    A lock on a file in it says that its owner lives. Whoever is killed can't clean up, so the next run removes what
    it finds unlocked.
    """

    def __init__(self) -> None:
        _sweep()
        self.path = Path(tempfile.mkdtemp(prefix=_PREFIX))
        self._lock = os.open(self.path / _LOCK, os.O_CREAT | os.O_RDWR, 0o600)
        fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def shared_memory_prefix(self) -> str:
        """Prefix of every shared-memory region of this run."""
        return self.path.name

    def folder(self, name: str) -> Path:
        """Return an empty folder of that name, whatever was in it before."""
        folder = self.path / name
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        return folder

    def release_shared_memory(self) -> None:
        """Remove the regions that a killed server could not."""
        _release(self.shared_memory_prefix)

    def close(self) -> None:
        """Remove everything."""
        if self._lock >= 0:
            _remove(self.path)
            os.close(self._lock)
            self._lock = -1


def _sweep() -> None:
    """Remove what runs that were killed have left."""
    for folder in Path(tempfile.gettempdir()).glob(f"{_PREFIX}*"):
        try:
            lock = os.open(folder / _LOCK, os.O_RDWR | os.O_NOFOLLOW)
        except OSError:
            # Someone else's, gone meanwhile, or so new that its owner has not come to lock it.
            continue
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            _remove(folder)
        except BlockingIOError:
            continue
        finally:
            os.close(lock)


def _remove(folder: Path) -> None:
    _release(folder.name)
    shutil.rmtree(folder, ignore_errors=True)


def _release(prefix: str) -> None:
    for region in _SHARED_MEMORY.glob(f"{prefix}*"):
        region.unlink(missing_ok=True)
