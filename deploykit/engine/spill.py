"""Rows set aside: keys and values in a file while the cache has no room for them."""

import logging
import os
import tempfile
import weakref
from collections.abc import Iterable
from io import FileIO
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deploykit.engine.job import Job

_log = logging.getLogger(__name__)


class Spill:
    """Places of one temporary file, each with what a job has cached, byte for byte.

    The file has no name: nobody else opens it, and it goes with the process. Its pages are the system's to write back,
    which memory of our own would not be. A disk that is full or fails costs the job its cache, never more.
    """

    def __init__(self) -> None:
        self._file: FileIO | None = None
        """Made when it is first needed; a server whose cache suffices never has one."""
        self._places: dict[Job, range] = {}
        """Which bytes are whose, in no order."""

    @property
    def bytes(self) -> int:
        """Length of the file."""
        return max((place.stop for place in self._places.values()), default=0)

    def save(self, job: Job, parts: Iterable[NDArray[Any]]) -> bool:
        """Keep a job's keys and values, and return whether there was room."""
        buffers = [_bytes(part) for part in parts]
        place = self._free(sum(buffer.nbytes for buffer in buffers))
        try:
            file, at = self._opened(), place.start
            for buffer in buffers:
                at += _write(file, buffer, at)
        except OSError as error:
            _log.warning("a row can't be set aside and will be computed again: %s", error.strerror)
            self._shorten()
            return False
        self._places[job] = place
        return True

    def load(self, job: Job, parts: Iterable[NDArray[Any]]) -> bool:
        """Fill `parts`, as long as those saved, with what was kept, forget it, and return whether it could be read."""
        place = self._places[job]
        try:
            file, at = self._opened(), place.start
            for buffer in map(_bytes, parts):
                at += _read(file, buffer, at)
        except OSError as error:
            _log.error("a row that was set aside can't be read: %s", error.strerror)
            return False
        finally:
            self.drop(job)
        assert at == place.stop
        return True

    def drop(self, job: Job) -> None:
        """Forget what was kept of a job, if anything."""
        if self._places.pop(job, None) is not None:
            self._shorten()

    def _opened(self) -> int:
        """Return the file's number."""
        if self._file is None:
            # Without a buffer: what couldn't be written would be tried again, and fail, at the next row's turn.
            self._file = tempfile.TemporaryFile(buffering=0)  # noqa: SIM115 -- open as long as we are
            weakref.finalize(self, self._file.close)
        return self._file.fileno()

    def _free(self, size: int) -> range:
        """Return the first place where so many bytes are free, at the end of the file if nowhere else."""
        start = 0
        for taken in sorted(self._places.values(), key=lambda place: place.start):
            if taken.start - start >= size:
                break
            start = taken.stop
        return range(start, start + size)

    def _shorten(self) -> None:
        """Give the disk back what lies past the last place."""
        try:
            if self._file:
                self._file.truncate(self.bytes)
        except OSError as error:
            # It stays longer than it need be; its space is used again all the same.
            _log.warning("the file of rows set aside can't be shortened: %s", error.strerror)


def _bytes(array: NDArray[Any]) -> memoryview:
    """Return an array's own memory."""
    assert array.flags.c_contiguous
    return array.reshape(-1).view(np.uint8).data


def _write(file: int, buffer: memoryview, at: int) -> int:
    """Write all of a buffer and return its length: a call may write less, on a disk that is nearly full for one."""
    done = 0
    while done < buffer.nbytes:
        done += os.pwrite(file, buffer[done:], at + done)
    return done


def _read(file: int, buffer: memoryview, at: int) -> int:
    """Fill a buffer and return its length."""
    done = 0
    while done < buffer.nbytes:
        got = os.preadv(file, [buffer[done:]], at + done)
        if not got:
            raise OSError(0, "the file is too short")
        done += got
    return done
