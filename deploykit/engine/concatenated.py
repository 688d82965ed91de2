"""The cache by concatenation: each step returns past and new as new tensors. For graphs traced from PyTorch."""

from typing import Any

import numpy as np

from deploykit.engine.blocks import Block, Blocks, FloatArray, mask, value
from deploykit.engine.job import Batch, Change, Drop, Load, Move, Save
from deploykit.engine.spill import Spill
from deploykit.spec import ATTENTION_MASK, INPUT_IDS, LOGITS, LOGITS_TO_KEEP, DecoderSpec


class ConcatenatedDecoder:
    """Rows in one tensor as long as they stay together; it is put together anew when one joins or leaves.

    A row's padding can change then, so the graph must count positions over the mask's ones, as traced graphs do.
    """

    def __init__(
        self,
        session: Any,
        spec: DecoderSpec,
        *,
        rows: int,  # noqa: ARG002 -- grows as needed
        capacity: int,  # noqa: ARG002
        cache_bytes: int,
    ) -> None:
        self._session = session
        self._past = list(spec.past())
        self._keep = {LOGITS_TO_KEEP: value(np.array(1, np.int64))} if spec.logits_to_keep else {}
        self._outputs = [LOGITS, *(tensor.name for tensor in spec.present())]
        self._bytes_per_token = spec.cache_bytes_per_token()
        self._room = cache_bytes // self._bytes_per_token
        """Tokens that all blocks may hold, padding included."""
        self._spill = Spill()
        self._blocks = Blocks(self._past)

    @property
    def cache_bytes(self) -> int:
        """Memory that keys and values take now."""
        return self._blocks.size() * self._bytes_per_token

    def run(self, batch: Batch) -> FloatArray:
        """Return the logits of each row's last token, [B, V]."""
        return self._blocks.run(batch, self._room, self._run)

    def _run(self, batch: Batch) -> tuple[FloatArray, Block]:
        """Return the logits of rows that run together, [B, V], and their keys and values."""
        block = self._blocks.together(batch.jobs)
        total = block.length + batch.new
        feeds = {
            INPUT_IDS: value(np.array(batch.ids, np.int64)),
            ATTENTION_MASK: value(mask(batch.totals, total)),
            **self._keep,
            **{spec.name: tensor for spec, tensor in zip(self._past, block.tensors, strict=True)},
        }
        logits, *present = self._session.run_with_ort_values(self._outputs, feeds)
        return logits.numpy()[:, -1], Block(batch.jobs, tuple(present), total)

    def apply(self, change: Change) -> int:
        """Set a row aside, bring it back, or let go of it; see `Decoder.apply`."""
        match change:
            case Move():
                # Blocks go by job: the next batch is put together in its new order.
                return 0
            case Save():
                block = self._blocks.pop(change.job)
                saved = self._spill.save(change.job, block.parts(change.job, change.length))
                return change.length if saved else 0
            case Load():
                block = self._blocks.empty(change.job, change.length)
                if not self._spill.load(change.job, block.parts(change.job, change.length)):
                    return 0
                self._blocks.keep(block)
                return change.length
            case Drop():
                self._spill.drop(change.job)
                self._blocks.drop(change.job)
                return 0
