"""Sampling against transformers' own processors, on random logits."""

from collections import Counter

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from transformers.generation.logits_process import (
    LogitsProcessorList,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from deploykit.engine.params import SamplingParams
from deploykit.engine.sampling import Sampler, candidates


def random_logits(size: int, seed: int, spread: float = 3.0) -> NDArray[np.float32]:
    return (np.random.default_rng(seed).standard_normal(size) * spread).astype(np.float32)


def transformers_probabilities(
    logits: NDArray[np.float32], temperature: float, top_k: int | None, top_p: float | None
) -> NDArray[np.float64]:
    steps = LogitsProcessorList([TemperatureLogitsWarper(temperature)])
    if top_k is not None:
        steps.append(TopKLogitsWarper(top_k))
    if top_p is not None:
        steps.append(TopPLogitsWarper(top_p))
    # In double precision, so that rounding decides no boundary.
    scores = steps(torch.zeros(1, 1, dtype=torch.long), torch.tensor(logits, dtype=torch.float64)[None])
    return np.asarray(torch.softmax(scores, -1)[0].numpy())


@settings(max_examples=150, deadline=None)
@given(
    seed=st.integers(0, 2**32),
    size=st.sampled_from([2, 7, 50, 3000]),
    spread=st.sampled_from([0.01, 1.0, 5.0]),
    temperature=st.floats(0.05, 5),
    top_k=st.none() | st.integers(1, 60),
    top_p=st.none() | st.floats(0.01, 0.99),
)
def test_keeps_the_tokens_and_probabilities_that_transformers_keeps(
    seed: int, size: int, spread: float, temperature: float, top_k: int | None, top_p: float | None
) -> None:
    logits = random_logits(size, seed, spread)
    wanted = transformers_probabilities(logits, temperature, top_k, top_p)
    tokens, weights = candidates(logits - logits.max(), temperature=temperature, top_k=top_k, top_p=top_p)
    found = np.zeros(size)
    found[tokens] = weights / weights.sum()
    np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-9)


@pytest.mark.parametrize(("top_p", "kept"), [(0.9, 4500), (0.0001, 1), (1e-9, 1), (1 - 1e-9, 5000)])
def test_equal_tokens_enter_the_nucleus_in_the_order_of_their_ids(top_p: float, kept: int) -> None:
    tokens, _ = candidates(np.zeros(5000, np.float32), temperature=1, top_k=None, top_p=top_p)
    assert tokens.tolist() == list(range(kept))


def test_greedy_takes_the_first_of_the_likeliest() -> None:
    sampler = Sampler(SamplingParams())
    assert sampler.choose(np.array([0, 3, 3, 1], np.float32)).token == 1


@pytest.mark.parametrize("params", [SamplingParams(), SamplingParams(temperature=2, top_k=3, seed=1)])
def test_logprob_is_the_models_own(params: SamplingParams) -> None:
    logits = random_logits(100, 0) * 20 + 500
    choice = Sampler(params).choose(logits)
    expected = torch.log_softmax(torch.tensor(logits, dtype=torch.float64), -1)[choice.token].item()
    assert choice.logprob == pytest.approx(expected, abs=1e-4)


def test_draws_as_often_as_the_probabilities_say() -> None:
    logits = np.log(np.array([0.5, 0.3, 0.15, 0.05], np.float32))
    sampler = Sampler(SamplingParams(temperature=1, seed=0))
    counts = Counter(sampler.choose(logits).token for _ in range(4000))
    # Four standard deviations of a binomial with 4,000 draws.
    for token, share in enumerate((0.5, 0.3, 0.15, 0.05)):
        assert abs(counts[token] / 4000 - share) < 4 * (share * (1 - share) / 4000) ** 0.5


def test_a_seed_gives_the_same_tokens_again_and_another_gives_others() -> None:
    logits = random_logits(500, 3, 0.5)

    def draw(seed: int) -> list[int]:
        sampler = Sampler(SamplingParams(temperature=1, seed=seed))
        return [sampler.choose(logits).token for _ in range(20)]

    assert draw(7) == draw(7)
    assert draw(7) != draw(8)


@pytest.mark.parametrize("temperature", [5e-324, 1e-300, 1e-30])
def test_a_tiny_temperature_is_greedy_without_overflow(temperature: float) -> None:
    logits = random_logits(50, 1)
    assert Sampler(SamplingParams(temperature=temperature, seed=0)).choose(logits).token == logits.argmax()


def test_never_draws_what_the_model_forbids() -> None:
    logits = np.array([-np.inf, 0, -np.inf, 0], np.float32)
    sampler = Sampler(SamplingParams(temperature=100, seed=0))
    assert {sampler.choose(logits).token for _ in range(100)} == {1, 3}


@pytest.mark.parametrize("bad", [[0, np.nan, 1], [0, np.inf, 1], [-np.inf] * 3, [np.nan] * 3])
def test_refuses_logits_that_are_no_distribution(bad: list[float]) -> None:
    with pytest.raises(FloatingPointError, match="not finite"):
        Sampler(SamplingParams()).choose(np.array(bad, np.float32))
