"""The ways callers run an encoder-decoder's two graphs, each held to PyTorch's logits."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from deploykit.artifact import Artifact
from deploykit.convert import torch_reference
from deploykit.spec import DECODER_MASK, ENCODER_MASK, ENCODER_STATES, INPUT_IDS, LOGITS

IntArray = NDArray[np.int64]
FloatArray = NDArray[np.float32]
Cache = dict[str, FloatArray]

SOURCES = (17, 5, 1)
"""Tokens of the sources of ragged rows."""
ANSWERS = (9, 14, 3)
"""Tokens of the answers of ragged rows, before the steps that follow."""


class Graphs:
    """The fp32 graphs of an artifact, and PyTorch's model that they came from."""

    def __init__(self, checkpoint: Path, artifact: Artifact) -> None:
        self.spec, self.reference = artifact.contract("fp32"), torch_reference(checkpoint)
        assert self.spec.encoder is not None
        self.prompt = self.spec.encoder.decoder_prompt
        quiet = ort.SessionOptions()
        quiet.log_severity_level = 3
        self.decoder, self.encoder = (ort.InferenceSession(str(file), quiet) for file in artifact.graphs("fp32"))

    def encode(self, ids: IntArray, mask: IntArray) -> FloatArray:
        return np.asarray(self.encoder.run(None, {"input_ids": ids, "attention_mask": mask})[0])

    def empty(self, rows: int) -> Cache:
        shapes = {tensor.name: tensor.shape for tensor in self.spec.past()}
        return {name: np.zeros((rows, int(s[1]), 0, int(s[3])), np.float32) for name, s in shapes.items()}

    def step(
        self, ids: IntArray, states: FloatArray, sources: IntArray, cache: Cache, mask: IntArray | None = None
    ) -> tuple[FloatArray, Cache]:
        """Return logits [B, S, V] and the cache after new tokens [B, S]."""
        feeds: dict[str, Any] = {INPUT_IDS: ids, ENCODER_STATES: states, ENCODER_MASK: sources, **cache}
        if mask is not None:
            feeds[DECODER_MASK] = mask
        wanted = [LOGITS, *(tensor.name for tensor in self.spec.present())]
        logits, *present = self.decoder.run(wanted, feeds)
        return logits, dict(zip((tensor.name for tensor in self.spec.past()), present, strict=True))


def numbers(seed: int, length: int) -> IntArray:
    """Return token ids that no special token is among."""
    return np.asarray(np.random.default_rng(seed).integers(3, 300, length), np.int64)


def answer(graphs: Graphs, seed: int, length: int) -> IntArray:
    return np.concatenate([np.array(graphs.prompt, np.int64), numbers(seed, length)])


def ones(*shape: int) -> IntArray:
    return np.ones(shape, np.int64)


def assert_close(found: FloatArray, wanted: FloatArray) -> None:
    assert found.shape == wanted.shape
    gap = float(np.abs(found - wanted).max() / np.abs(wanted).max())
    assert gap <= 2e-5, f"{gap:.2e} off"


def at_once(graphs: Graphs) -> None:
    source, ids = numbers(1, 40), answer(graphs, 2, 50)
    states = graphs.encode(source[None], ones(1, 40))
    logits, _ = graphs.step(ids[None], states, ones(1, 40), graphs.empty(1))
    assert_close(logits[0], graphs.reference(ids, source))


def in_chunks(graphs: Graphs) -> None:
    """Answers on a past of every length, the states fed again whole and not at all."""
    source, ids = numbers(3, 23), answer(graphs, 4, 30)
    wanted, whole = graphs.reference(ids, source), graphs.encode(source[None], ones(1, 23))
    for later in (whole, whole[:, :0]):
        cache, states = graphs.empty(1), whole
        for start, end in ((0, 1), (1, 2), (2, 9), (9, 10), (10, len(ids))):
            logits, cache = graphs.step(ids[None, start:end], states, ones(1, 23), cache)
            assert_close(logits[0], wanted[start:end])
            states = later


def another_answer(graphs: Graphs) -> None:
    """A second answer to a source whose keys and values are there already, its own cache empty."""
    source, ids = numbers(5, 12), answer(graphs, 6, 8)
    states = graphs.encode(source[None], ones(1, 12))
    _, cache = graphs.step(ids[None, :1], states, ones(1, 12), graphs.empty(1))
    again = {name: value[:, :, :0] if ".decoder." in name else value for name, value in cache.items()}
    logits, _ = graphs.step(ids[None], states[:, :0], ones(1, 12), again)
    assert_close(logits[0], graphs.reference(ids, source))


def ragged(graphs: Graphs) -> None:
    """Rows of different lengths: sources padded on either side, answers on the left."""
    sources = [numbers(10 + row, length) for row, length in enumerate(SOURCES)]
    answers = [answer(graphs, 20 + row, length + 4) for row, length in enumerate(ANSWERS)]
    wanted = [graphs.reference(ids, source) for ids, source in zip(answers, sources, strict=True)]
    lengths = [len(ids) - 4 for ids in answers]
    for left in (False, True):
        read, open_source = padded(sources, left=left)
        states = graphs.encode(read, open_source)
        ids, mask = padded([ids[:n] for ids, n in zip(answers, lengths, strict=True)], left=True)
        logits, cache = graphs.step(ids, states, open_source, graphs.empty(len(ids)), mask)
        for row, n in enumerate(lengths):
            assert_close(logits[row, -n:], wanted[row][:n])
        for step in range(4):
            new = np.array([[ids[n + step]] for ids, n in zip(answers, lengths, strict=True)])
            # The mask of the prompt alone, and then of all: what isn't given of it is ones.
            mask = mask if step == 0 else np.c_[mask, ones(len(new), length_of(cache) + 1 - mask.shape[1])]
            logits, cache = graphs.step(new, states[:, :0], open_source, cache, mask)
            for row, n in enumerate(lengths):
                assert_close(logits[row, 0], wanted[row][n + step])


def length_of(cache: Cache) -> int:
    """Return P."""
    return cache["past_key_values.0.decoder.key"].shape[2]


def padded(rows: Sequence[IntArray], *, left: bool) -> tuple[IntArray, IntArray]:
    """Return rows [B, S] of one length, and which of their tokens are real."""
    width = max(map(len, rows))
    ids, mask = np.full((len(rows), width), 2), np.zeros((len(rows), width), np.int64)
    for number, row in enumerate(rows):
        place = slice(width - len(row), width) if left else slice(0, len(row))
        ids[number, place], mask[number, place] = row, 1
    return ids, mask


EVERYWHERE = (at_once, in_chunks, another_answer, ragged)


def greedy(graphs: Graphs, sources: Sequence[IntArray], count: int) -> list[list[int]]:
    """Return what the graphs answer to all sources at once: the prompt, and `count` tokens or up to an end."""
    read, open_source = padded(sources, left=False)
    rows = len(sources)
    answers, states, cache = (
        [list(graphs.prompt) for _ in sources],
        graphs.encode(read, open_source),
        graphs.empty(rows),
    )
    new = np.tile(np.array(graphs.prompt, np.int64), (rows, 1))
    for _ in range(count):
        logits, cache = graphs.step(new, states, open_source, cache)
        new = logits[:, -1].argmax(-1)[:, None]
        states = states[:, :0]
        for row, token in zip(answers, new[:, 0], strict=True):
            if row[-1] not in graphs.spec.eos_token_ids or len(row) == len(graphs.prompt):
                row.append(int(token))
    return answers
