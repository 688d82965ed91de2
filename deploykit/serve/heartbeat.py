"""A sign of life that one process leaves in a small file and another one reads, without either ever waiting."""

import json
import mmap
import os
import struct
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path
from typing import Any, Final

DIRECTORY_VARIABLE: Final = "DEPLOYKIT_HEARTBEAT_DIR"
"""Environment variable that tells the backend where to leave its sign of life; unset, it leaves none."""

# Native order and alignment: each field is then written as one word, so a reader never sees half of one.
_LAYOUT: Final = struct.Struct("@QQQQQ")
_COUNT: Final = struct.Struct("@Q")
_BEAT: Final = ".beat"
_FACTS: Final = ".json"


class State(IntEnum):
    """How far a model has come."""

    LOADING = 1
    SERVING = 2
    CLOSED = 3


@dataclass(frozen=True, kw_only=True)
class Beat:
    """What a backend last said about itself."""

    model: str
    load: int
    """Which load it came with; a model that is being replaced has two backends, and the later one counts."""
    state: State
    pid: int
    """Its process."""
    time: float
    """When, in seconds of CLOCK_MONOTONIC, which all processes of a machine share."""
    open_requests: int
    """Requests taken and not yet answered to the end."""

    def age(self) -> float:
        """Return the seconds since."""
        return time.monotonic() - self.time


class HeartbeatWriter:
    """The side of the backend: `beat` costs a few stores into mapped memory."""

    def __init__(self, directory: Path, model: str, *, load: int = 0) -> None:
        self._pid, self._load = os.getpid(), load
        self._file = beat_file(directory, model, self._pid)
        with self._file.open("w+b") as stream:
            stream.truncate(_LAYOUT.size)
            self._memory = mmap.mmap(stream.fileno(), _LAYOUT.size)

    def beat(self, state: State, open_requests: int) -> None:
        """Say that the backend is alive."""
        # Copied at once: `pack_into` zeroes all of it first, and who reads just then would take us for dead.
        self._memory[: _LAYOUT.size] = _LAYOUT.pack(state, self._pid, self._load, time.monotonic_ns(), open_requests)

    def count(self, open_requests: int) -> None:
        """Say how many requests are open, which is no sign of life."""
        self._memory[_LAYOUT.size - _COUNT.size :] = _COUNT.pack(open_requests)

    def describe(self, facts: Mapping[str, Any]) -> None:
        """Say what runs and how, for whoever started it to show."""
        self._file.with_suffix(_FACTS).write_text(json.dumps(facts), encoding="utf-8")


def read_beats(directory: Path) -> list[Beat]:
    """Return the last sign of life of every backend that has given one, those that came first first."""
    found = [beat for file in directory.glob(f"*{_BEAT}") if (beat := _read(file))]
    return sorted(found, key=lambda beat: (beat.model, beat.load))


def read_facts(directory: Path, beat: Beat) -> dict[str, Any]:
    """Return what a backend has said that it runs; nothing where it has said nothing."""
    try:
        facts: dict[str, Any] = json.loads(beat_file(directory, beat.model, beat.pid).with_suffix(_FACTS).read_text())
    except (OSError, ValueError):
        return {}
    return facts


def forget(directory: Path, beat: Beat) -> None:
    """Remove what a backend has left that is gone."""
    file = beat_file(directory, beat.model, beat.pid)
    for each in (file, file.with_suffix(_FACTS)):
        with suppress(FileNotFoundError):
            each.unlink()


def current(beats: list[Beat]) -> list[Beat]:
    """Return those that answer new requests: of each model, those of the latest load that came to serve.

    Where none of a model serves, all of them count: they are on the way there, or have failed to get there.
    """
    latest = {beat.model: beat.load for beat in sorted(beats, key=lambda b: b.load) if beat.state is State.SERVING}
    return [beat for beat in beats if latest.get(beat.model, beat.load) == beat.load]


def beat_file(directory: Path, model: str, pid: int) -> Path:
    """Return the file that holds a backend's sign of life."""
    # The process first: a model's name may hold any character, but not begin a path.
    return directory / f"{pid}-{model}{_BEAT}"


def is_running(pid: int) -> bool:
    """Return whether a process runs; one that has ended and that nobody has waited for doesn't."""
    try:
        # The state follows the command, which stands in brackets and may hold any character.
        return Path(f"/proc/{pid}/stat").read_bytes().rpartition(b") ")[2][:1] not in (b"Z", b"X", b"")
    except (FileNotFoundError, ProcessLookupError):
        return False


def _read(file: Path) -> Beat | None:
    try:
        state, pid, load, nanoseconds, open_requests = _LAYOUT.unpack(file.read_bytes())
        return Beat(
            model=file.name.removesuffix(_BEAT).partition("-")[2],
            load=load,
            state=State(state),
            pid=pid,
            time=nanoseconds / 1e9,
            open_requests=open_requests,
        )
    except (FileNotFoundError, struct.error, ValueError):
        # Gone meanwhile, or made and not yet written.
        return None
