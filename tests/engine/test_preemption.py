"""A cache too small for all: rows are set aside and come back, and nobody sees a difference."""

import mmap
import random
from dataclasses import replace

import pytest
from engines import SMALL, Ask, open_engine, together, tokens_of

from deploykit.artifact import Artifact
from deploykit.config import EngineConfig
from deploykit.engine import Engine, SamplingParams
from deploykit.errors import ConfigError

DICE = random.Random(1)
ASKS: list[Ask] = [
    (
        [DICE.randrange(3, 318) for _ in range(DICE.randrange(1, 60))],
        SamplingParams(max_tokens=DICE.randrange(20, 60), seed=DICE.choice([None, 7]), ignore_eos=True),
    )
    for _ in range(24)
]


def cache_for(artifact: Artifact, tokens: int) -> int:
    """Return the bytes that so many tokens take."""
    return tokens * artifact.manifest.decoder.cache_bytes_per_token()


@pytest.mark.parametrize("cache", ["shared", "concatenated"])
def test_what_is_set_aside_goes_on_as_if_nothing_had_been(cache: str, gpt2: Artifact) -> None:
    """Eight rows want up to 8 x 120 tokens of a cache that holds 256."""
    with open_engine(gpt2, cache=cache) as roomy:
        alone = [roomy.generate(*ask).token_ids for ask in ASKS]
        assert roomy.stats().preemptions == 0
    with open_engine(gpt2, replace(SMALL, cache_memory=cache_for(gpt2, 256)), cache=cache) as tight:
        assert [tokens_of(events) for events in together(tight, ASKS)] == alone
        stats = tight.stats()
        assert stats.preemptions >= 3
        assert (stats.running, stats.waiting, stats.parked, stats.used_tokens) == (0, 0, 0, 0)
        assert stats.cache_tokens == 256


def test_what_finds_no_room_on_disk_is_computed_again(llama: Artifact, monkeypatch: pytest.MonkeyPatch) -> None:
    with Engine.open(llama.path, SMALL) as roomy:
        alone = [roomy.generate(*ask).token_ids for ask in ASKS]
    with Engine.open(llama.path, replace(SMALL, cache_memory=cache_for(llama, 256))) as tight:
        monkeypatch.setattr("tempfile.TemporaryFile", _full_disk)
        assert [tokens_of(events) for events in together(tight, ASKS)] == alone
        assert tight.stats().preemptions >= 3


def _full_disk(*_: object, **__: object) -> None:
    raise OSError(28, "No space left on device")


def test_the_cache_takes_no_more_than_it_may(llama: Artifact) -> None:
    most = cache_for(llama, 256)
    with Engine.open(llama.path, replace(SMALL, cache_memory=most)) as engine:
        seen = []

        def look(_: object) -> None:
            seen.append((engine._loop._decoder.cache_bytes, engine._loop._scheduler.used_tokens))

        together(engine, ASKS, listeners={0: look})
        assert max(used for _, used in seen) <= 256
        heads = sum(2 * layer.heads for layer in llama.manifest.decoder.layers)
        page_ends = SMALL.max_rows * heads * mmap.PAGESIZE
        assert max(taken for taken, _ in seen) <= most + page_ends, "heads this small share no page, and fill none"


def test_padding_takes_no_more_than_the_cache_may(gpt2: Artifact) -> None:
    """One long row beside seven short ones, which one tensor would pad to its length."""
    each = gpt2.manifest.decoder.cache_bytes_per_token()
    asks: list[Ask] = [
        ([7] * size, SamplingParams(max_tokens=20, ignore_eos=True)) for size in (90, 1, 2, 3, 4, 30, 5, 6)
    ]
    with open_engine(gpt2, cache="concatenated") as roomy:
        alone = [roomy.generate(*ask).token_ids for ask in asks]
    with open_engine(gpt2, replace(SMALL, cache_memory=cache_for(gpt2, 336)), cache="concatenated") as tight:
        seen: list[tuple[int, int]] = []

        def look(_: object) -> None:
            seen.append((tight.stats().cache_bytes // each, tight.stats().running))

        together(tight, asks, listeners={0: look})
        assert max(running for _, running in seen) == 8
        assert 200 < max(tokens for tokens, _ in seen) <= 336
        assert [tokens_of(events) for events in together(tight, asks)] == alone


def test_a_prompt_that_no_cache_could_hold_is_refused(llama: Artifact) -> None:
    with Engine.open(llama.path, EngineConfig(cache_memory=cache_for(llama, 64), threads=1)) as engine:
        assert engine.context == 64
        assert engine.generate([5] * 60, SamplingParams(max_tokens=50, ignore_eos=True)).num_output_tokens == 4
    with pytest.raises(
        ConfigError, match=r"cache_memory holds 0 tokens of .* a row of this model needs 16: give it at"
    ):
        Engine.open(llama.path, EngineConfig(cache_memory=cache_for(llama, 15)))
    with pytest.raises(ConfigError, match="or lower max_context"):
        Engine.open(llama.path, EngineConfig(cache_memory=cache_for(llama, 64), max_context=65))
