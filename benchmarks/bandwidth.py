"""How fast this machine reads memory, and how many bytes of weights a token needs.

    python benchmarks/bandwidth.py

The read test: two threads, each over its own 256 MiB, far more than any cache; three ways of reading that numpy runs
without the interpreter (a maximum, a sum, a dot product), the fastest of all passes counts.
"""

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from deploykit.outline import read_outline

THREADS = 2
PART = 256 << 20
"""Bytes that each thread reads in a pass."""
WAYS: dict[str, Callable[[Any], Any]] = {
    "maximum": lambda part: part.view(np.float32).max(),
    "sum": lambda part: part.view(np.int64).sum(),
    "dot product": lambda part: np.dot(part.view(np.float32), part.view(np.float32)),
}


class ReadTest:
    """Memory that is read again and again; written once, so that every page is there."""

    def __init__(self) -> None:
        self.parts = [np.ones(PART, np.uint8) for _ in range(THREADS)]

    def rate(self, passes: int = 4) -> float:
        """Return the largest bytes a second seen in `passes` passes of each way."""
        return max(self.way(read, passes) for read in WAYS.values())

    def way(self, read: Callable[[Any], Any], passes: int) -> float:
        """Return the largest bytes a second of one way."""
        fastest = 0.0
        with ThreadPoolExecutor(THREADS) as pool:
            list(pool.map(read, self.parts))
            for _ in range(passes):
                began = time.perf_counter()
                list(pool.map(read, self.parts))
                fastest = max(fastest, THREADS * PART / (time.perf_counter() - began))
        return fastest


def bytes_per_token(graph: Path) -> int:
    """Return the bytes of weights that a step reads: all but tables from which it only gathers rows."""
    outline = read_outline(graph)
    read = {name for node in outline.nodes if not node.op_type.startswith("Gather") for name in node.inputs}
    return sum(tensor.nbytes for name, tensor in outline.tensors.items() if name in read)


def weight_bytes(graph: Path) -> int:
    """Return the bytes of all weights."""
    return sum(tensor.nbytes for tensor in read_outline(graph).tensors.values())


if __name__ == "__main__":
    test = ReadTest()
    for name, read in WAYS.items():
        print(f"{name:<12} {test.way(read, 4) / 1e9:5.1f} GB/s")
