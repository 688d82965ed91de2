"""The checkpoints of a running training on disk: the best and the last, each replaced by one rename."""

import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

from deploykit.draft import draft
from deploykit.train.state import STATE, State, write_state

BEST: Final = "best"
LAST: Final = "last"
_EVERY: Final = 60.0
"""Seconds of training that an interruption costs at most, where saving is quick."""
_PART: Final = 0.02
"""Part of the time that saving may take besides."""
_MARKER: Final = "config.json"
"""What a checkpoint's folder holds in any case."""


class Keeper:
    """A folder with `best/` and `last/`."""

    def __init__(self, folder: Path, write: Callable[[Path], None] | None) -> None:
        """Open a folder; without `write` (in all processes but the first) nothing is written."""
        self.state = folder / LAST / STATE
        self._folder = folder
        self._write = write
        self._saved = time.monotonic()
        self._took = 0.0
        for left in folder.glob(".*.partial") if write else ():
            # Of a process that was killed while it wrote.
            shutil.rmtree(left, ignore_errors=True)

    def due(self) -> bool:
        """Return whether so much was trained since the last save that it should not be lost."""
        return self._write is not None and time.monotonic() - self._saved > max(_EVERY, self._took / _PART)

    def best(self) -> None:
        """Write the model as it stands as the best."""
        if not self._write:
            return
        with draft(self._folder / BEST, overwrite=True, marker=_MARKER) as files:
            self._write(files.path)
            files.publish()

    def last(self, state: State) -> None:
        """Write the model as it stands with the state to go on from."""
        if not self._write:
            return
        began = time.monotonic()
        with draft(self._folder / LAST, overwrite=True, marker=_MARKER) as files:
            self._write(files.path)
            write_state(files.path / STATE, state)
            files.publish()
        self._saved = time.monotonic()
        self._took = self._saved - began
