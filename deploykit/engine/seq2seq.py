"""An encoder and its decoder: a source is read once, when its answer gets a row, and each step attends to all of it."""

from itertools import chain
from typing import Any

import numpy as np

from deploykit.engine.blocks import Block, Blocks, FloatArray, mask, value
from deploykit.engine.job import Batch, Change, Drop, Job, Load, Move, Save
from deploykit.engine.sources import Sources
from deploykit.engine.spill import Spill
from deploykit.spec import (
    ATTENTION_MASK,
    DECODER_MASK,
    ENCODER_MASK,
    ENCODER_STATES,
    INPUT_IDS,
    LAST_HIDDEN_STATE,
    LOGITS,
    SOURCE_PAST,
    SOURCE_TOTAL,
    DecoderSpec,
)


class Seq2SeqDecoder:
    """Rows with a source each; the answers' own keys and values grow by concatenation, padded on the left.

    A source is read alone and whole, so that its states depend on nobody else's length.
    """

    def __init__(
        self,
        session: Any,
        encoder: Any,
        spec: DecoderSpec,
        *,
        rows: int,
        capacity: int,  # noqa: ARG002 -- grows as needed
        cache_bytes: int,
    ) -> None:
        assert spec.encoder
        self._session = session
        self._encoder = encoder
        past, present = list(spec.past()), list(spec.present())
        self._own = [tensor for tensor in past if SOURCE_PAST not in tensor.shape]
        cross = [tensor for tensor in past if SOURCE_PAST in tensor.shape]
        self._step = [LOGITS, *(tensor.name for tensor in present if SOURCE_TOTAL not in tensor.shape)]
        self._first = [*self._step, *(tensor.name for tensor in present if SOURCE_TOTAL in tensor.shape)]
        """What a source's first step gives besides: the source's keys and values."""
        self._unread = {
            spec.name: value(np.empty((1, int(spec.shape[1]), 0, int(spec.shape[3])), spec.dtype)) for spec in cross
        }
        self._width = spec.encoder.width
        self._bytes_per_token = spec.cache_bytes_per_token()
        self._room = cache_bytes // self._bytes_per_token
        """Tokens that sources and blocks may hold, padding included."""
        self._spill = Spill()
        self._blocks = Blocks(self._own)
        self._sources = Sources(cross, rows=rows, room=self._room)
        self._rows: dict[Job, int] = {}
        """The rows of the batch that runs."""

    @property
    def cache_bytes(self) -> int:
        """Memory that keys and values take now."""
        return (self._blocks.size() + self._sources.tokens) * self._bytes_per_token

    def run(self, batch: Batch) -> FloatArray:
        """Return the logits of each row's last token, [B, V]."""
        self._rows = {job: row for row, job in enumerate(batch.jobs, batch.first_row)}
        first = batch.jobs[0]
        if not first.cached and (twin := self._sources.find(first.source)) is not None:
            self._sources.copy(first, twin, batch.first_row)
        elif not first.cached:
            logits, block = self._begin(batch, first)
            self._blocks.keep(block)
            return logits
        return self._blocks.run(batch, self._room - self._sources.tokens, self._run)

    def _begin(self, batch: Batch, job: Job) -> tuple[FloatArray, Block]:
        """Read a job's source and run the first piece of its prompt; return as `_run` does."""
        ids = np.array([job.source], np.int64)
        everything = value(np.ones_like(ids))
        (states,) = self._encoder.run_with_ort_values(
            [LAST_HIDDEN_STATE], {INPUT_IDS: value(ids), ATTENTION_MASK: everything}
        )
        feeds = {ENCODER_STATES: states, ENCODER_MASK: everything, **self._unread}
        (logits, *present), block = self._stepped(batch, self._first, feeds)
        self._sources.put(job, self._rows[job], present)
        return logits, block

    def _run(self, batch: Batch) -> tuple[FloatArray, Block]:
        """Return the logits of rows that run together, [B, V], and their keys and values."""
        nothing = value(np.empty((len(batch.jobs), 0, self._width), np.float32))
        feeds = {ENCODER_STATES: nothing, **self._sources.feeds(tuple(self._rows[job] for job in batch.jobs))}
        (logits,), block = self._stepped(batch, self._step, feeds)
        return logits, block

    def _stepped(self, batch: Batch, outputs: list[str], feeds: dict[str, Any]) -> tuple[list[Any], Block]:
        """Return the logits of a batch, [B, V], with whatever was asked for besides, and its keys and values."""
        block = self._blocks.together(batch.jobs)
        total = block.length + batch.new
        own = {spec.name: tensor for spec, tensor in zip(self._own, block.tensors, strict=True)}
        ids, answered = np.array(batch.ids, np.int64), mask(batch.totals, total)
        feeds = {INPUT_IDS: value(ids), DECODER_MASK: value(answered), **own, **feeds}
        logits, *present = self._session.run_with_ort_values(outputs, feeds)
        grown = Block(batch.jobs, tuple(present[: len(self._own)]), total)
        return [logits.numpy()[:, -1], *present[len(self._own) :]], grown

    def apply(self, change: Change) -> int:
        """Move a row, set one aside, bring it back, or let go of it; see `Decoder.apply`."""
        match change:
            case Move():
                self._sources.move(change.source, change.target)
                return 0
            case Save():
                return self._save(change)
            case Load():
                return self._load(change)
            case Drop():
                self._spill.drop(change.job)
                self._blocks.drop(change.job)
                if change.row is not None:
                    self._sources.free(change.row)
                return 0

    def _save(self, change: Save) -> int:
        block = self._blocks.pop(change.job)
        parts = chain(block.parts(change.job, change.length), self._sources.parts(change.row))
        saved = self._spill.save(change.job, parts)
        self._sources.free(change.row)
        return change.length if saved else 0

    def _load(self, change: Load) -> int:
        block = self._blocks.empty(change.job, change.length)
        parts = chain(block.parts(change.job, change.length), self._sources.empty(change.job, change.row))
        if not self._spill.load(change.job, parts):
            return 0
        self._blocks.keep(block)
        return change.length
