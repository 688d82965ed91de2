"""A served graph's logits, run as the engine runs it: rows read one by one in pieces, then together, step by step."""

from collections.abc import Iterator
from typing import Final

import numpy as np
from numpy.typing import NDArray

from deploykit.artifact import Artifact
from deploykit.engine.decoder import Decoder, make_decoder
from deploykit.engine.job import Batch, Job
from deploykit.engine.session import open_session
from deploykit.failing import in_one_line
from deploykit.spec import Precision

LENGTHS: Final = (24, 9, 1)
"""Tokens of the prompts: rows of a batch that differ."""
STEPS: Final = 4


def replay(artifact: Artifact, precision: Precision) -> list[NDArray[np.float32]]:
    """Return the logits [B, V] of each run, with token ids of no meaning.

    Raises:
        ArtifactError: ONNX Runtime can't load the graph, or can't run it, or it isn't what the manifest says.
    """
    spec = artifact.contract(precision)
    steps = min(STEPS, spec.max_context - 1)
    lengths = [min(length, spec.max_context - steps) for length in LENGTHS]
    numbers = np.random.default_rng(0)
    jobs = [Job(numbers.integers(0, spec.vocab_size, length + steps).tolist()) for length in lengths]
    capacity = max(lengths) + steps
    decoder = make_decoder(
        open_session(artifact, precision=precision),
        spec,
        rows=len(jobs),
        capacity=capacity,
        cache_bytes=len(jobs) * capacity * spec.cache_bytes_per_token(),
    )
    with in_one_line(artifact.graph(precision), "run"):
        prompts = [_run(decoder, row, [job], piece) for row, job in enumerate(jobs) for piece in _pieces(lengths[row])]
        return [*prompts, *(_run(decoder, 0, jobs, 1) for _ in range(steps))]


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
