"""A served model's logits, run as the engine runs it: rows read one by one in pieces, then together, step by step."""

import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from deploykit.artifact import Artifact
from deploykit.engine.decoder import Decoder, make_decoder
from deploykit.engine.job import Batch, Job
from deploykit.engine.session import open_encoder, open_session
from deploykit.failing import in_one_line
from deploykit.spec import Precision

LENGTHS: Final = (24, 9, 1)
"""Tokens of the prompts: rows of a batch that differ."""
STEPS: Final = 4


@dataclass(frozen=True, kw_only=True)
class Replay:
    """What came of a graph's runs."""

    logits: list[NDArray[np.float32]]
    """[B, V] of each run."""
    load_seconds: float
    """From the files to a session that can run."""


def replay(artifact: Artifact, precision: Precision) -> Replay:
    """Return the logits of each run, with token ids of no meaning, and how long the graph took to load.

    Raises:
        ArtifactError: ONNX Runtime can't load the graph, or can't run it, or it isn't what the manifest says.
    """
    spec = artifact.contract(precision)
    steps = min(STEPS, spec.max_context - 1)
    lengths = [min(length, spec.max_context - steps) for length in LENGTHS]
    numbers = np.random.default_rng(0)

    def drawn(length: int) -> tuple[int, ...]:
        return tuple(numbers.integers(0, spec.vocab_size, length).tolist())

    # The shortest row has the longest source, so that a batch is ragged on both sides.
    longest = spec.encoder.max_source if spec.encoder else 0
    sources = [min(length, longest) for length in LENGTHS[::-1]]
    jobs = [Job(drawn(length + steps), source=drawn(read)) for length, read in zip(lengths, sources, strict=True)]
    capacity = max(lengths) + steps
    began = time.perf_counter()
    session = open_session(artifact, precision=precision)
    encoder = open_encoder(artifact, precision=precision)
    seconds = time.perf_counter() - began
    decoder = make_decoder(
        session,
        spec,
        encoder=encoder,
        rows=len(jobs),
        capacity=capacity,
        cache_bytes=len(jobs) * (capacity + max(sources)) * spec.cache_bytes_per_token(),
    )
    with in_one_line(artifact.graph(precision), "run"):
        prompts = [_run(decoder, row, [job], piece) for row, job in enumerate(jobs) for piece in _pieces(lengths[row])]
        logits = [*prompts, *(_run(decoder, 0, jobs, 1) for _ in range(steps))]
    return Replay(logits=logits, load_seconds=seconds)


def _pieces(length: int) -> Iterator[int]:
    """Yield the lengths of the pieces in which a prompt is read: a long first one, and the rest on that past."""
    first = -(-2 * length // 3)
    yield first
    if first < length:
        yield length - first


def _run(decoder: Decoder, first_row: int, jobs: list[Job], new: int) -> NDArray[np.float32]:
    logits = decoder.run(Batch(first_row=first_row, jobs=tuple(jobs), new=new)).copy()
    for job in jobs:
        job.cached += new
    return logits
