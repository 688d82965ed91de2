"""Both caches against PyTorch: the logits of ragged rows that come, stay, move, are set aside, come back and go."""

import mmap
import tempfile
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from deploykit.artifact import Artifact
from deploykit.convert import torch_reference
from deploykit.engine.concatenated import ConcatenatedDecoder
from deploykit.engine.decoder import Decoder, make_decoder
from deploykit.engine.job import Batch, Drop, Job, Load, Move, Save
from deploykit.engine.scheduler import Scheduler
from deploykit.engine.session import open_session
from deploykit.errors import ConfigError
from deploykit.spec import CacheKind

Reference = Callable[[NDArray[np.int64]], NDArray[np.float32]]
ROWS, CAPACITY = 4, 32


def decoder_of(artifact: Artifact, cache: CacheKind | None = None) -> Decoder:
    spec = artifact.manifest.decoder
    return make_decoder(
        open_session(artifact, threads=1),
        replace(spec, cache=cache or spec.cache),
        rows=ROWS,
        capacity=CAPACITY,
        cache_bytes=ROWS * CAPACITY * spec.cache_bytes_per_token(),
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
    # Room for half of what wants to run, so that rows are set aside too.
    scheduler = Scheduler(max_rows=ROWS, max_queue=100, chunk=3, cache_tokens=48)
    jobs = [Job(random.integers(3, 318, length).tolist()) for length in (5, 1, 9, 3, 12, 2, 7)]
    lifetimes = dict(zip(jobs, (14, 19, 12, 6, 13, 8, 15), strict=True))
    for job in jobs:
        scheduler.add(job)
    seen: Counter[type] = Counter()
    while plan := scheduler.schedule():
        for change in plan.changes:
            seen[type(change)] += 1
            kept = decoder.apply(change)
            if isinstance(change, Save | Load):
                assert kept == change.length
        batch = plan.batch
        logits = decoder.run(batch)
        assert logits.shape == (len(batch.jobs), 318)
        for job, row in zip(scheduler.advance(batch), logits, strict=False):
            expected = reference(np.array(job.tokens, np.int64))[-1]
            np.testing.assert_allclose(row, expected, atol=2e-4)
            seen[Job] += 1
            job.tokens.append(int(random.integers(3, 318)))
            lifetimes[job] -= 1
        for job in [job for job in batch.jobs if lifetimes[job] <= 0]:
            for change in scheduler.remove(job):
                seen[type(change)] += 1
                decoder.apply(change)
    assert seen[Job] == 87
    assert seen[Save] == seen[Load] > 0
    assert seen[Move] > 0
    if isinstance(decoder, ConcatenatedDecoder):
        assert decoder.cache_bytes == 0


def fed(decoder: Decoder, job: Job, *, row: int, new: int = 1) -> NDArray[np.float32]:
    """Return the logits after a job's next tokens, which run alone in a row."""
    logits = decoder.run(Batch(first_row=row, jobs=(job,), new=new)).copy()
    job.cached += new
    return logits


TOKENS = (7, 8, 9, 10, 11, 12, 13, 14, 15, 16)


@pytest.mark.parametrize(("name", "cache"), CASES)
def test_a_row_that_was_set_aside_goes_on_bit_for_bit(
    name: str, cache: CacheKind | None, request: pytest.FixtureRequest
) -> None:
    artifact = request.getfixturevalue(name)
    undisturbed, decoder = decoder_of(artifact, cache), decoder_of(artifact, cache)
    alone, job, other = Job(TOKENS), Job(TOKENS), Job(range(20, 40))
    wanted = [fed(undisturbed, alone, row=0, new=6), *(fed(undisturbed, alone, row=0) for _ in range(4))]
    found = [fed(decoder, job, row=0, new=6), fed(decoder, job, row=0)]
    assert decoder.apply(Save(job=job, row=0, length=7)) == 7
    fed(decoder, other, row=0, new=18)
    assert decoder.apply(Load(job=job, row=1, length=7)) == 7
    found.append(fed(decoder, job, row=1))
    assert decoder.apply(Drop(job=other, row=0)) == 0
    assert decoder.apply(Move(source=1, target=0, length=8)) == 0
    found.extend(fed(decoder, job, row=0) for _ in range(2))
    assert all(np.array_equal(*pair) for pair in zip(wanted, found, strict=True))


@pytest.mark.parametrize(("name", "cache"), CASES)
def test_a_row_that_finds_no_room_on_the_disk_leaves_the_others_as_they_are(
    name: str, cache: CacheKind | None, request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    decoder = decoder_of(request.getfixturevalue(name), cache)
    alone, job, other = Job(TOKENS), Job(TOKENS), Job(range(20, 40))
    wanted = [fed(decoder, alone, row=0, new=6), fed(decoder, alone, row=0)]
    decoder.apply(Drop(job=alone, row=0))
    found = [fed(decoder, job, row=0, new=6)]
    fed(decoder, other, row=1, new=18)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "nowhere"))
    assert decoder.apply(Save(job=other, row=1, length=18)) == 0
    found.append(fed(decoder, job, row=0))
    assert all(np.array_equal(*pair) for pair in zip(wanted, found, strict=True))
    # It begins anew, and what is dropped without having been kept does no harm.
    other.cached = 0
    fed(decoder, other, row=1, new=18)
    decoder.apply(Drop(job=other, row=1))
    decoder.apply(Drop(job=Job(TOKENS), row=None))


@pytest.mark.parametrize(("name", "cache"), CASES)
def test_logits_may_be_changed_in_place(name: str, cache: CacheKind | None, request: pytest.FixtureRequest) -> None:
    after = []
    for spoiled in (False, True):
        decoder = decoder_of(request.getfixturevalue(name), cache)
        jobs = tuple(Job(TOKENS) for _ in range(2))
        for row, job in enumerate(jobs):
            fed(decoder, job, row=row, new=5)
        for _ in range(2):
            logits = decoder.run(Batch(first_row=0, jobs=jobs, new=1))
            assert logits.flags.writeable
            assert logits.flags.c_contiguous
            after.append(logits.copy())
            for job in jobs:
                job.cached += 1
            if spoiled:
                logits[:] = np.nan
    assert np.array_equal(after[:2], after[2:])


def test_a_shared_cache_takes_whole_pages_for_the_tokens_that_came(llama: Artifact) -> None:
    decoder = decoder_of(llama)
    assert decoder.cache_bytes == 0
    job = Job(TOKENS)
    fed(decoder, job, row=2, new=9)
    one = decoder.cache_bytes
    assert one == 2 * 2 * 2 * mmap.PAGESIZE, "keys and values, layers, heads"
    fed(decoder, job, row=2)
    assert decoder.cache_bytes == one
    fed(decoder, Job(TOKENS), row=3, new=9)
    assert decoder.cache_bytes == 2 * one


def test_a_cache_that_can_never_fit_is_refused(llama: Artifact) -> None:
    spec = llama.manifest.decoder
    with pytest.raises(ConfigError, match=r"no room for a cache of 1000000 rows of 1000000 tokens .* lower max_rows"):
        make_decoder(open_session(llama, threads=1), spec, rows=10**6, capacity=10**6, cache_bytes=1)
