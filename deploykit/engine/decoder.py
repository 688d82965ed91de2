"""A decoder graph together with its cache: what the scheduler's batches run on."""

from collections.abc import Callable
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from deploykit.engine.concatenated import ConcatenatedDecoder
from deploykit.engine.job import Batch, Change
from deploykit.engine.seq2seq import Seq2SeqDecoder
from deploykit.engine.shared import SharedDecoder
from deploykit.spec import DecoderSpec


class Decoder(Protocol):
    """Runs batches, and remembers the keys and values of each row."""

    @property
    def cache_bytes(self) -> int:
        """Memory that keys and values take now."""

    def run(self, batch: Batch) -> NDArray[np.float32]:
        """Return the logits of each row's last token, [B, V].

        They hold until the next run, and the caller may change them in place.
        """

    def apply(self, change: Change) -> int:
        """Move a row, set one aside, bring it back, or let go of it.

        Returns how many tokens a Save could set aside, or a Load bring back: all, or 0 where the disk has no room or
        fails. What comes back is what was set aside, bit for bit. A Move or a Drop returns 0.
        """


def make_decoder(
    session: Any, spec: DecoderSpec, *, rows: int, capacity: int, cache_bytes: int, encoder: Any = None
) -> Decoder:
    """Return the decoder for a graph's kind of cache.

    Args:
        session: the ONNX Runtime session.
        spec: the graph's contract.
        rows: requests that run at once.
        capacity: tokens a row can hold, a source's not counted.
        cache_bytes: what keys and values may take in all. The scheduler sees to it that the living fit in; a decoder
            keeps no more of the dead than that leaves room for.
        encoder: the session on the graph that reads sources, where the contract has one.

    Raises:
        ConfigError: the system refuses to promise so much memory.
    """
    if spec.encoder:
        return Seq2SeqDecoder(session, encoder, spec, rows=rows, capacity=capacity, cache_bytes=cache_bytes)
    kinds: dict[str, Callable[..., Decoder]] = {"shared": SharedDecoder, "concatenated": ConcatenatedDecoder}
    return kinds[spec.cache](session, spec, rows=rows, capacity=capacity, cache_bytes=cache_bytes)
