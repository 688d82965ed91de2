"""A sign of life that one process leaves in a small file and another one reads, without either ever waiting."""

import mmap
import os
import struct
import time
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path
from typing import Final

DIRECTORY_VARIABLE: Final = "DEPLOYKIT_HEARTBEAT_DIR"
"""Environment variable that tells the backend where to leave its sign of life; unset, it leaves none."""

# Native order and alignment: each field is then written as one word, so a reader never sees half of one.
_LAYOUT: Final = struct.Struct("@QQQQ")
_COUNT: Final = struct.Struct("@Q")


class State(IntEnum):
    """How far a model has come."""

    LOADING = 1
    SERVING = 2
    CLOSED = 3


@dataclass(frozen=True, kw_only=True)
class Beat:
    """What a model last said about itself."""

    state: State
    pid: int
    """Process of the backend."""
    time: float
    """When, in seconds of CLOCK_MONOTONIC, which all processes of a machine share."""
    open_requests: int
    """Requests taken and not yet answered to the end."""

    def age(self) -> float:
        """Return the seconds since."""
        return time.monotonic() - self.time


class HeartbeatWriter:
    """The side of the model: `beat` costs a few stores into mapped memory."""

    def __init__(self, directory: Path, model: str) -> None:
        file = beat_file(directory, model)
        with file.open("w+b") as stream:
            stream.truncate(_LAYOUT.size)
            self._memory = mmap.mmap(stream.fileno(), _LAYOUT.size)
        self._pid = os.getpid()

    def beat(self, state: State, open_requests: int) -> None:
        """Say that the model is alive."""
        _LAYOUT.pack_into(self._memory, 0, state, self._pid, time.monotonic_ns(), open_requests)

    def count(self, open_requests: int) -> None:
        """Say how many requests are open, which is no sign of life."""
        _COUNT.pack_into(self._memory, _LAYOUT.size - _COUNT.size, open_requests)


def read_beat(directory: Path, model: str) -> Beat | None:
    """Return the model's last sign of life, or None while there is none."""
    try:
        state, pid, nanoseconds, open_requests = _LAYOUT.unpack(beat_file(directory, model).read_bytes())
        return Beat(state=State(state), pid=pid, time=nanoseconds / 1e9, open_requests=open_requests)
    except (FileNotFoundError, struct.error, ValueError):
        # Not yet made, or made and not yet written.
        return None


def beat_file(directory: Path, model: str) -> Path:
    """Return the file that holds a model's sign of life."""
    return directory / f"{model}.beat"


def is_running(pid: int) -> bool:
    """Return whether a process runs; one that has ended and that nobody has waited for doesn't."""
    try:
        # The state follows the command, which stands in brackets and may hold any character.
        return Path(f"/proc/{pid}/stat").read_bytes().rpartition(b") ")[2][:1] not in (b"Z", b"X", b"")
    except (FileNotFoundError, ProcessLookupError):
        return False
