"""Whole choices: of a batch, with everything at once."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from deploykit.engine.params import SamplingParams
from deploykit.engine.sampling import Choice, Sampler, choose

Row = NDArray[np.float32]
EVERYTHING = SamplingParams(
    temperature=0.8,
    top_k=50,
    top_p=0.9,
    min_p=0.01,
    repetition_penalty=1.1,
    presence_penalty=0.3,
    frequency_penalty=0.2,
    logit_bias=((3, 5.0),),
    min_tokens=4,
    seed=11,
    logprobs=2,
)
MANY = (
    SamplingParams(),
    SamplingParams(seed=1),
    SamplingParams(seed=1, temperature=0.6, top_p=0.9),
    SamplingParams(seed=2, top_k=40),
    SamplingParams(seed=3, min_p=0.05, logprobs=3),
    EVERYTHING,
)


def random_logits(*shape: int, seed: int, spread: float = 3.0) -> NDArray[np.float32]:
    return np.random.default_rng(seed).standard_normal(shape, np.float32) * np.float32(spread)


def sampler(params: SamplingParams, size: int, index: int = 0) -> Sampler:
    return Sampler(params, index=index, prompt=[1, 2], eos=[0], bad_words=[[5], [6, 7]], vocab_size=size)


def only(params: SamplingParams, logits: Row) -> Choice | None:
    return choose([Sampler(params, vocab_size=len(logits))], logits[None].copy())[0]


def draws(params: SamplingParams, logits: NDArray[np.float32], index: int = 0) -> list[Choice | None]:
    """Return a request's choices from one row after another."""
    own = sampler(params, logits.shape[1], index)
    return [choose([own], row[None].copy())[0] for row in logits]


@settings(max_examples=15, deadline=None)
@given(
    seed=st.integers(0, 2**32),
    size=st.sampled_from([20, 1000, 5003]),
    others=st.lists(st.sampled_from(MANY), max_size=5),
    place=st.integers(0, 5),
    params=st.sampled_from(MANY),
)
def test_a_request_gets_the_same_choices_whatever_runs_beside(
    seed: int, size: int, others: list[SamplingParams], place: int, params: SamplingParams
) -> None:
    steps = 8
    own = random_logits(steps, size, seed=seed, spread=1)
    alone = draws(params, own)
    place = min(place, len(others))
    together = [sampler(other, size) for other in others]
    together.insert(place, sampler(params, size))
    found = []
    for step in range(steps):
        logits = random_logits(len(together), size, seed=seed + step, spread=2)
        logits[place] = own[step]
        found.append(choose(together, logits)[place])
    assert found == alone
    assert all(alone)


def test_answers_of_a_request_differ_and_the_first_is_that_of_the_seed_alone() -> None:
    logits = random_logits(20, 500, seed=3, spread=0.5)
    params = SamplingParams(temperature=1, seed=7, n=3)
    answers = [draws(params, logits, index) for index in range(3)]
    assert answers[0] == draws(replace(params, n=1), logits)
    assert answers[1] == draws(params, logits, 1)
    assert answers[0] != answers[1] != answers[2] != answers[0]
    assert draws(replace(params, seed=8), logits) != answers[0]


def test_without_a_seed_no_two_runs_are_alike() -> None:
    logits = random_logits(20, 500, seed=3, spread=0.5)
    assert draws(SamplingParams(temperature=1), logits) != draws(SamplingParams(temperature=1), logits)


def test_greedy_takes_the_first_of_the_likeliest() -> None:
    assert only(SamplingParams(), np.array([0, 3, 3, 1], np.float32)) == Choice(token=1)


def test_greedy_is_greedy_after_penalties() -> None:
    params = SamplingParams(presence_penalty=1.5, min_tokens=2)
    own = Sampler(params, eos=[0], vocab_size=4)
    logits = np.array([[9, 3, 2, 1]], np.float32)
    found = [choose([own], logits.copy())[0] for _ in range(4)]
    assert [choice.token for choice in found if choice] == [1, 2, 0, 0]


@pytest.mark.parametrize("params", [SamplingParams(logprobs=4), replace(EVERYTHING, logprobs=4, n=2, logit_bias=())])
@pytest.mark.parametrize("size", [3, 100, 6000])
def test_logprobs_are_the_models_own(params: SamplingParams, size: int) -> None:
    logits = np.round(random_logits(1, size, seed=0) * 5, 1) + 500
    expected = torch.log_softmax(torch.tensor(logits[0], dtype=torch.float64), -1).numpy()
    # By likelihood, then id: lexsort's last key counts first.
    likeliest = np.lexsort((np.arange(size), -logits[0]))[:4]
    own = sampler(params, size)
    for _ in range(3):
        choice = choose([own], logits.copy())[0]
        assert choice is not None
        assert choice.logprob == pytest.approx(expected[choice.token], abs=1e-4)
        assert [token for token, _ in choice.top] == likeliest.tolist()
        assert [logprob for _, logprob in choice.top] == pytest.approx(expected[likeliest], abs=1e-4)


def test_logprobs_of_what_the_model_forbids_are_left_out() -> None:
    logits = np.array([-np.inf, 0, -np.inf, 1], np.float32)
    choice = only(SamplingParams(logprobs=20), logits)
    assert choice is not None
    assert [token for token, _ in choice.top] == [3, 1]
    assert only(SamplingParams(logprobs=0), logits) == replace(choice, top=())
    assert only(SamplingParams(), logits) == Choice(token=3)


@pytest.mark.parametrize("params", MANY)
@pytest.mark.parametrize("bad", [[0, np.nan, 1], [0, np.inf, 1], [-np.inf] * 3, [np.nan] * 3])
def test_unusable_logits_cost_their_own_row_only(params: SamplingParams, bad: list[float]) -> None:
    logits = random_logits(3, 5000, seed=1)
    expected = choose([sampler(params, 5000), sampler(params, 5000)], logits[[0, 2]])
    logits[1] = np.resize(np.array(bad, np.float32), 5000)
    found = choose([sampler(params, 5000) for _ in range(3)], logits)
    assert found == [expected[0], None, expected[1]]
    assert all(expected)


@pytest.mark.parametrize("where", [0, 2500, 4999])
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_one_unusable_logit_is_enough_even_where_it_is_banned(where: int, value: float) -> None:
    logits = random_logits(5000, seed=1)
    logits[where] = value
    own = Sampler(SamplingParams(seed=1), bad_words=[[where]], vocab_size=5000)
    assert choose([own], logits[None]) == [None]


def test_a_request_that_bans_everything_gets_nothing() -> None:
    everything = [[token] for token in range(4)]
    for params in (SamplingParams(), SamplingParams(seed=1, top_k=2)):
        own = Sampler(params, bad_words=everything, vocab_size=4)
        other = Sampler(params, bad_words=everything[1:], vocab_size=4)
        assert choose([own, other], np.zeros((2, 4), np.float32)) == [None, Choice(token=0)]


@pytest.mark.parametrize("temperature", [5e-324, 1e-300, 1e-30])
@pytest.mark.parametrize("size", [50, 5000])
def test_a_tiny_temperature_is_greedy(temperature: float, size: int) -> None:
    logits = random_logits(size, seed=1)
    choice = only(SamplingParams(temperature=temperature, seed=0), logits)
    assert choice == Choice(token=int(logits.argmax()))
