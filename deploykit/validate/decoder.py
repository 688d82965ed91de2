"""A decoder graph in ONNX Runtime, run the ways its callers run it: with a cache of its own, or one in place."""

from collections.abc import Sequence
from copy import copy
from pathlib import Path
from typing import Any, Final, Self

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from deploykit.artifact import Artifact
from deploykit.failing import in_one_line
from deploykit.spec import (
    ATTENTION_MASK,
    DECODER_MASK,
    ENCODER_MASK,
    ENCODER_STATES,
    INPUT_IDS,
    LOGITS,
    LOGITS_TO_KEEP,
    PAST,
    DecoderSpec,
    Precision,
)
from deploykit.validate.contract import open_graph
from deploykit.validate.encoder import Encoder, Source

IntArray = NDArray[np.int64]
FloatArray = NDArray[np.float32]
Cache = list[NDArray[np.floating[Any]]]

_SOURCE_KEYS: Final = 2
"""Place in an encoder-decoder's cache of the first keys of the source."""


class Decoder:
    """A graph that was found to have the contract's inputs and outputs; with an encoder's, where it attends to one."""

    def __init__(self, file: Path, spec: DecoderSpec, encoder: Path | None = None) -> None:
        """Load `file`, and the encoder's graph.

        Raises:
            ArtifactError: its weights lie elsewhere, ONNX Runtime can't load it, or it isn't what `spec` says.
        """
        self.file = file
        self.spec = spec
        self._session = open_graph(file, spec.inputs(), spec.outputs())
        self._encoder = Encoder(encoder, spec.encoder) if encoder and spec.encoder else None
        self.source: Source | None = None

    @classmethod
    def of(cls, artifact: Artifact, precision: Precision) -> Self:
        """Load a precision of an artifact.

        Raises:
            ArtifactError: the artifact doesn't hold it, or it can't be loaded.
        """
        file, *encoder = artifact.graphs(precision)
        return cls(file, artifact.contract(precision), *encoder)

    def read(self, sources: Sequence[IntArray]) -> Self:
        """Return the decoder for rows whose sources, token ids [S] each, the encoder has read."""
        assert self._encoder is not None, self.file
        reading = copy(self)
        reading.source = self._encoder.run(sources)
        return reading

    def empty_cache(self, rows: int, length: int = 0) -> Cache:
        """Return the cache of `rows` rows, zeros, [B, K, length, D] for each key and value; without any of a source."""
        sizes = [(heads, length if axis == PAST else 0, size) for _, heads, axis, size in self._cache_shapes()]
        return [np.zeros((rows, int(heads), held, int(size)), self.spec.cache_dtype) for heads, held, size in sizes]

    def _cache_shapes(self) -> list[tuple[str | int, ...]]:
        return [tensor.shape for tensor in self.spec.past()]

    def run(self, ids: IntArray, mask: IntArray, past: Cache | None = None) -> tuple[FloatArray, Cache]:
        """Return logits of every new token, [B, S, V], and the cache that now holds them, [B, K, T, D] each.

        Args:
            ids: new tokens, [B, S].
            mask: which of the past and new tokens are real, [B, T].
            past: what the last call returned; empty where None.
        """
        cache = self.empty_cache(len(ids)) if past is None else past
        return self._advance({INPUT_IDS: ids, **self._told(mask, cache)}, cache)

    def run_unaided(self, ids: IntArray, past: Cache | None = None) -> tuple[FloatArray, Cache]:
        """Return what `run` does for rows without padding, called as other runtimes call an encoder-decoder.

        The decoder's mask is left to its default, and the encoder's states are fed in every step.
        """
        assert self.source is not None, self.file
        cache = self.empty_cache(len(ids)) if past is None else past
        source = {ENCODER_STATES: self.source.states, ENCODER_MASK: self.source.mask}
        return self._advance({INPUT_IDS: ids, **source}, cache)

    def _advance(self, feeds: dict[str, Any], cache: Cache) -> tuple[FloatArray, Cache]:
        feeds.update(zip((tensor.name for tensor in self.spec.past()), cache, strict=True))
        logits, *present = self._run([LOGITS, *(tensor.name for tensor in self.spec.present())], feeds)
        return logits, present

    def _told(self, mask: IntArray, cache: Cache) -> dict[str, Any]:
        """Return what the graph must know besides tokens and cache; of a source, its states only while it is unread."""
        if self.spec.encoder is None:
            return {ATTENTION_MASK: mask, **self._keep(0)}
        assert self.source is not None, self.file
        states = self.source.states[:, :0] if cache[_SOURCE_KEYS].shape[2] else self.source.states
        return {DECODER_MASK: mask, ENCODER_STATES: states, ENCODER_MASK: self.source.mask}

    def last_logits(self, ids: IntArray, mask: IntArray) -> FloatArray:
        """Return logits [B, n, V] of a prefill that asks for those of each row's last token only."""
        feeds: dict[str, Any] = {INPUT_IDS: ids, ATTENTION_MASK: mask, **self._keep(1)}
        feeds.update(zip((tensor.name for tensor in self.spec.past()), self.empty_cache(len(ids)), strict=True))
        return np.asarray(self._run([LOGITS], feeds)[0])

    def run_in_place(self, ids: IntArray, mask: IntArray, cache: Sequence[NDArray[np.floating[Any]]]) -> FloatArray:
        """Return logits of every new token, [B, S, V], and write keys and values into `cache`, [B, K, capacity, D]."""
        binding = self._session.io_binding()
        held = [np.ascontiguousarray(ids), np.ascontiguousarray(mask)]
        binding.bind_cpu_input(INPUT_IDS, held[0])
        binding.bind_cpu_input(ATTENTION_MASK, held[1])
        for name, value in self._keep(0).items():
            # bind_cpu_input refuses an input that has a default.
            binding.bind_ortvalue_input(name, ort.OrtValue.ortvalue_from_numpy(value))
        for past, present, buffer in zip(self.spec.past(), self.spec.present(), cache, strict=True):
            place = ("cpu", 0, buffer.dtype.type, buffer.shape, buffer.ctypes.data)
            binding.bind_input(past.name, *place)
            binding.bind_output(present.name, *place)
        binding.bind_output(LOGITS, "cpu")
        with in_one_line(self.file, "run"):
            self._session.run_with_iobinding(binding)
        # Outputs come in the order in which they were bound.
        return np.asarray(binding.get_outputs()[-1].numpy())

    def _run(self, outputs: list[str], feeds: dict[str, Any]) -> list[Any]:
        with in_one_line(self.file, "run"):
            return list(self._session.run(outputs, feeds))

    def _keep(self, rows: int) -> dict[str, IntArray]:
        return {LOGITS_TO_KEEP: np.array(rows, np.int64)} if self.spec.logits_to_keep else {}
