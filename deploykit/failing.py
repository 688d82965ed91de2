"""What ONNX Runtime's failures become: its exceptions share no base class, and a graph may fail as late as it runs."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

from deploykit.errors import ArtifactError


@contextmanager
def in_one_line(file: Path, doing: Literal["load", "run"]) -> Iterator[None]:
    """Turn what goes wrong inside into one line that names the graph.

    Raises:
        ArtifactError: anything was raised.
    """
    try:
        yield
    except Exception as error:
        raise ArtifactError(f"{file}: ONNX Runtime can't {doing} it: {' '.join(str(error).split())}") from error
