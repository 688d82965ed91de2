"""By default a request's tokens are its own affair: two hundred ragged ones at once give what each gives alone."""

import random
from dataclasses import replace
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
from engines import Ask, together, tokens_of

from deploykit.artifact import Artifact
from deploykit.config import EngineConfig, QuantizeConfig
from deploykit.engine import Engine, SamplingParams
from deploykit.engine.decoder import make_decoder
from deploykit.engine.job import Batch, Job
from deploykit.engine.session import open_session
from deploykit.quantize import quantize

REQUESTS = 200


def ragged(dice: random.Random) -> Ask:
    """Return a request unlike the others: its prompt's length, its answer's, its way of choosing."""
    prompt = [dice.randrange(3, 318) for _ in range(dice.choice([1, 2, 3, 5, 8, 13, 21, 34, 55]))]
    params = SamplingParams(max_tokens=dice.randrange(1, 32), ignore_eos=True)
    if dice.random() < 0.5:
        params = replace(
            params,
            temperature=dice.choice([0.7, 1.0, 1.3]),
            top_k=dice.choice([None, 5, 40]),
            top_p=dice.choice([None, 0.9]),
            min_p=dice.choice([None, 0.02]),
            repetition_penalty=dice.choice([1.0, 1.2]),
            seed=dice.randrange(1000),
        )
    return prompt, params


@pytest.mark.parametrize("precision", ["none", "int8"])
def test_two_hundred_at_once_are_each_as_if_alone(
    precision: Literal["none", "int8"], llama: Artifact, tmp_path: Path
) -> None:
    """In a cache too small for sixteen of them, so that some are set aside on the way."""
    dice = random.Random(precision)
    asks = [ragged(dice) for _ in range(REQUESTS)]
    artifact = quantize(llama, tmp_path / precision, QuantizeConfig(precision=precision))
    tight = 8 * 64 * llama.manifest.decoder.cache_bytes_per_token()
    config = EngineConfig(max_rows=16, prefill_chunk=16, threads=1, cache_memory=tight)
    with Engine.open(artifact.path, config) as engine:
        alone = [engine.generate(*ask).token_ids for ask in asks]
        assert len(set(alone)) > REQUESTS * 0.9, "an equality of constants proves nothing"
        assert [tokens_of(events) for events in together(engine, asks)] == alone
        stats = engine.stats()
        assert stats.preemptions > 0
        assert (stats.running, stats.waiting, stats.used_tokens) == (0, 0, 0)


@pytest.mark.parametrize(("precision", "least"), [("none", 1), ("int8", 1), ("int4", 2)])
def test_a_row_is_the_same_bit_for_bit_in_any_company(
    precision: Literal["none", "int8", "int4"], least: int, llama: Artifact, tmp_path: Path
) -> None:
    """In int4 from two rows on: a row alone runs through a kernel of its own there, which sums in another order."""
    artifact = quantize(llama, tmp_path / precision, QuantizeConfig(precision=precision))
    session, spec = open_session(artifact, threads=1), artifact.contract()
    decoder = make_decoder(session, spec, rows=8, capacity=128, cache_bytes=2**24)
    jobs = [Job(range(3, 12 + 7 * row)) for row in range(8)]
    for row, job in enumerate(jobs):
        decoder.run(Batch(first_row=row, jobs=(job,), new=len(job.tokens)))
        job.cached = len(job.tokens)
        job.tokens.append(5)
    together = decoder.run(Batch(first_row=0, jobs=tuple(jobs), new=1)).copy()
    assert len({row.tobytes() for row in together}) == 8
    for rows in range(least, 8):
        for first in range(9 - rows):
            batch = Batch(first_row=first, jobs=tuple(jobs[first : first + rows]), new=1)
            assert np.array_equal(decoder.run(batch), together[first : first + rows])
