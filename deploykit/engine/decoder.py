"""A decoder graph together with its cache: what the scheduler's batches run on."""

from collections.abc import Callable
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from deploykit.engine.concatenated import ConcatenatedDecoder
from deploykit.engine.scheduler import Batch, Job, Move
from deploykit.engine.shared import SharedDecoder
from deploykit.spec import DecoderSpec


class Decoder(Protocol):
    """Runs batches, and remembers the keys and values of each row."""

    @property
    def cache_bytes(self) -> int:
        """Memory set aside for keys and values."""

    def run(self, batch: Batch) -> NDArray[np.float32]:
        """Return the logits of each row's last token, [B, V]; they hold until the next run."""

    def forget(self, job: Job, moves: list[Move]) -> None:
        """Let go of a job's keys and values, and close up the rows as the scheduler says."""


def make_decoder(session: Any, spec: DecoderSpec, *, rows: int, capacity: int) -> Decoder:
    """Return the decoder for a graph's kind of cache.

    Args:
        session: the ONNX Runtime session.
        spec: the graph's contract.
        rows: requests that run at once.
        capacity: tokens a row can hold.
    """
    kinds: dict[str, Callable[..., Decoder]] = {"shared": SharedDecoder, "concatenated": ConcatenatedDecoder}
    return kinds[spec.cache](session, spec, rows=rows, capacity=capacity)
