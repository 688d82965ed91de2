"""How long a pod takes until its model is ready."""

from typing import Final

START: Final = 2.0
"""Seconds of Triton and Python until a model is read: 1.0 to 1.5 measured on two cores, files in memory."""
READ_RATE: Final = 100_000_000
"""Bytes a second at which files come from a node's disk and are hashed, slow ones in mind."""
OPEN_RATE: Final = 100_000_000
"""Bytes a second that ONNX Runtime takes in, where no measurement says better: 150 to 650 million were seen."""


def load_seconds(size: int, measured: float | None) -> float:
    """Return the seconds until a model of so many bytes is ready, its graph's own where they were measured."""
    return round(START + _read(size) + (size / OPEN_RATE if measured is None else measured), 3)


def load_arithmetic(size: int, seconds: float, *, measured: bool) -> str:
    """Return the sum that `load_seconds` is, to be checked by a reader."""
    opened = max(0.0, seconds - START - _read(size))
    how = "measured when it was packaged" if measured else "guessed from its size"
    return (
        f"{START:g} s for Triton + {_read(size):.1f} s to read {size / 1e6:,.1f} MB + {opened:.1f} s to open the graph "
        f"({how})"
    )


def _read(size: int) -> float:
    return size / READ_RATE
