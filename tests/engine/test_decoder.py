"""Both caches against PyTorch: the logits of ragged rows that come, stay, move and go."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from deploykit.artifact import Artifact
from deploykit.convert import torch_reference
from deploykit.engine.decoder import Decoder, make_decoder
from deploykit.engine.scheduler import Job, Scheduler
from deploykit.engine.session import open_session
from deploykit.errors import ConfigError
from deploykit.spec import CacheKind

Reference = Callable[[NDArray[np.int64]], NDArray[np.float32]]
ROWS, CAPACITY = 4, 32


def decoder_of(artifact: Artifact, cache: CacheKind | None = None) -> Decoder:
    spec = artifact.manifest.decoder
    return make_decoder(
        open_session(artifact, threads=1), replace(spec, cache=cache or spec.cache), rows=ROWS, capacity=CAPACITY
    )


CASES = [("llama", None), ("gpt2", None), ("traced", None), ("gpt2", "concatenated")]
"""A fused GPT-2 runs with either cache; a fused Llama counts padding on the left, as only unbroken batches may."""


@pytest.mark.parametrize(("name", "cache"), CASES)
def test_every_row_gets_pytorchs_logits_whatever_runs_beside(
    name: str, cache: CacheKind | None, request: pytest.FixtureRequest, tiny_llama: Path, tiny_gpt2: Path
) -> None:
    """Jobs of many lengths join and leave at random; each step's logits are compared with an uncached PyTorch run."""
    decoder = decoder_of(request.getfixturevalue(name), cache)
    reference: Reference = torch_reference(tiny_gpt2 if name == "gpt2" else tiny_llama)
    random = np.random.default_rng(0)
    scheduler = Scheduler(max_rows=ROWS, max_queue=100, chunk=3)
    jobs = [Job(random.integers(3, 318, length).tolist()) for length in (5, 1, 9, 3, 12, 2, 7)]
    lifetimes = dict(zip(jobs, (2, 9, 4, 6, 3, 8, 5), strict=True))
    for job in jobs:
        scheduler.add(job)
    compared = 0
    while batch := scheduler.schedule():
        logits = decoder.run(batch)
        assert logits.shape == (len(batch.jobs), 318)
        for job, row in zip(scheduler.advance(batch), logits, strict=False):
            expected = reference(np.array(job.tokens, np.int64))[-1]
            np.testing.assert_allclose(row, expected, atol=2e-4)
            compared += 1
            job.tokens.append(int(random.integers(3, 318)))
            lifetimes[job] -= 1
        for job in [job for job in batch.jobs if lifetimes[job] <= 0]:
            decoder.forget(job, scheduler.remove(job))
    assert compared == 37
    assert decoder.cache_bytes == (0 if cache or name == "traced" else ROWS * CAPACITY * bytes_per_token(name))


def bytes_per_token(name: str) -> int:
    """Keys and values of 2 layers with heads of 16 floats."""
    return 2 * 2 * 16 * 4 * (4 if name == "gpt2" else 2)


def test_a_cache_that_can_never_fit_is_refused(llama: Artifact) -> None:
    spec = llama.manifest.decoder
    with pytest.raises(ConfigError, match=r"no room for a cache of 1000000 rows of 1000000 tokens .* lower max_rows"):
        make_decoder(open_session(llama, threads=1), spec, rows=10**6, capacity=10**6)
