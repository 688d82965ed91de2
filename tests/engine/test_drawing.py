"""What may be drawn, and how often, against transformers' own processors."""

from typing import Self

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from transformers.generation.logits_process import (
    LogitsProcessorList,
    MinPLogitsWarper,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from deploykit.engine.drawing import FEW, GROUP, Warp, draw, draw_from_all, few, group_sums, kept, largest
from deploykit.engine.softmax import Softmax

Row = NDArray[np.float32]
EDGE = 1e-5
"""Probability within which rounding may decide whether top-p or min-p keeps a token: sums are in single precision."""


class NoneLeftError(Exception):
    """A token was drawn again."""


class Given(np.random.Generator):
    """Random numbers that a test decides."""

    def __new__(cls, *_: float) -> Self:
        return super().__new__(cls)

    def __init__(self, *numbers: float) -> None:
        super().__init__(np.random.PCG64(0))
        self._numbers = list(numbers)

    def random(self, *_: object, **__: object) -> float:  # type: ignore[override]
        if not self._numbers:
            raise NoneLeftError
        return self._numbers.pop(0)


def warp(
    temperature: float = 1.0, top_k: int | None = None, top_p: float | None = None, min_p: float | None = None
) -> Warp:
    return Warp(temperature=temperature, top_k=top_k, top_p=top_p, min_p=min_p or 0.0)


def transformers_probabilities(logits: Row, warp: Warp) -> NDArray[np.float64]:
    steps = LogitsProcessorList([TemperatureLogitsWarper(warp.temperature)])
    if warp.top_k is not None:
        steps.append(TopKLogitsWarper(warp.top_k))
    if warp.top_p is not None:
        steps.append(TopPLogitsWarper(warp.top_p))
    if warp.min_p:
        steps.append(MinPLogitsWarper(warp.min_p))
    # In double precision, so that rounding decides no boundary.
    scores = steps(torch.zeros(1, 1, dtype=torch.long), torch.tensor(logits, dtype=torch.float64)[None])
    return np.asarray(torch.softmax(scores, -1)[0].numpy())


def near_an_edge(logits: Row, warp: Warp, edge: float) -> bool:
    """Return whether a slightly other top-p or min-p keeps other tokens."""
    wanted = transformers_probabilities(logits, warp) > 0
    for sign in (1 - edge, 1 + edge):
        top_p = None if warp.top_p is None else min(warp.top_p * sign, 1.0)
        other = Warp(temperature=warp.temperature, top_k=warp.top_k, top_p=top_p, min_p=min(warp.min_p * sign, 1.0))
        if ((transformers_probabilities(logits, other) > 0) != wanted).any():
            return True
    return False


@st.composite
def rows(draw: st.DrawFn, sizes: tuple[int, ...] = (1, 2, 7, 63, 64, 65, 300)) -> Row:
    """Return logits of several shapes: spread out or flat, with equals, with some forbidden."""
    size = draw(st.sampled_from(sizes))
    numbers = np.random.default_rng(draw(st.integers(0, 2**32)))
    logits = numbers.standard_normal(size) * draw(st.sampled_from([0.01, 1.0, 5.0, 30.0])) + draw(
        st.sampled_from([0.0, -200.0, 1000.0])
    )
    if draw(st.booleans()):
        logits = np.round(logits, 1)
    logits[numbers.random(size) < draw(st.sampled_from([0.0, 0.3, 0.99]))] = -np.inf
    logits[numbers.integers(size)] = 3.0
    return logits.astype(np.float32)


WARPS = st.builds(
    warp,
    temperature=st.floats(0.05, 5) | st.just(1.0),
    top_k=st.none() | st.integers(1, 400),
    top_p=st.none() | st.floats(0.001, 0.999),
    min_p=st.none() | st.floats(0.0001, 1),
)


@settings(max_examples=150, deadline=None)
@given(logits=rows(), warp=WARPS)
def test_few_tokens_are_kept_with_the_probabilities_of_transformers(logits: Row, warp: Warp) -> None:
    assume(not near_an_edge(logits, warp, 1e-9))
    wanted = transformers_probabilities(logits, warp)
    tokens = few(logits.copy(), warp, peak=float(logits.max()))
    assert tokens is not None
    places, weights = kept(tokens, logits[tokens], warp)
    found = np.zeros(len(logits))
    found[places] = weights / weights.sum()
    # Among equals at top-p's edge transformers' sort decides; the probabilities are alike in any order.
    np.testing.assert_allclose(np.sort(found), np.sort(wanted), rtol=1e-6, atol=1e-12)
    if warp.top_p is None:
        np.testing.assert_allclose(found, wanted, rtol=1e-6, atol=1e-12)


@settings(max_examples=40, deadline=None)
@given(logits=rows(sizes=(7, 64, 65, 150, 700)), warp=WARPS)
def test_a_token_is_drawn_from_all_just_where_transformers_keeps_it(logits: Row, warp: Warp) -> None:
    warp = Warp(temperature=warp.temperature, top_k=None, top_p=warp.top_p, min_p=warp.min_p)
    assume(not near_an_edge(logits, warp, EDGE))
    wanted = transformers_probabilities(logits, warp)
    weights = Softmax()(logits, peak=float(logits.max()), temperature=warp.temperature)
    # Less than this no random number aims at.
    likely = np.flatnonzero(weights > 1e-9)
    drawn = [token for token in likely if aimed(weights, int(token), warp)]
    # Among equals at top-p's edge transformers' sort decides.
    assert np.sort(logits[drawn]).tolist() == np.sort(logits[likely][wanted[likely] > 0]).tolist()


def aimed(weights: Row, token: int, warp: Warp) -> bool:
    """Return whether a token is taken when the random numbers point at it."""
    columns = len(weights) // GROUP
    whole = GROUP * columns
    if token < whole:
        group, member = token % columns, token // columns
        numbers = [middle(group_sums(weights), group), middle(weights[group:whole:columns], member)]
    else:
        numbers = [middle(group_sums(weights), columns + token - whole)]
    try:
        found = draw_from_all(weights.copy(), warp, Given(*numbers))
    except NoneLeftError:
        return False
    assert found == token
    return True


def middle(weights: Row, place: int) -> float:
    """Return the number in the middle of a place's share."""
    reached = np.cumsum(weights, dtype=np.float64)
    return float((reached[place] - weights[place] / 2) / reached[-1])


@pytest.mark.parametrize(
    "warp",
    [
        warp(0.7),
        warp(1.0, top_p=0.3),
        warp(1.3, top_p=0.95),
        warp(1.0, min_p=0.3),
        warp(2.0, top_p=0.9, min_p=0.01),
        warp(1.5, top_k=FEW + 100, top_p=0.8),
        warp(1.0, top_k=12),
        warp(0.9, top_k=50, top_p=0.7, min_p=0.05),
    ],
)
def test_draws_as_often_as_the_probabilities_say(warp: Warp) -> None:
    # Twenty sorts of equals, so that a few thousand draws say something about three thousand tokens.
    logits = np.random.default_rng(5).permutation(np.repeat(np.linspace(-3, 3, 20, dtype=np.float32), 153))
    random, softmax, count = np.random.default_rng(6), Softmax(), 4000
    drawn = [draw(logits.copy(), warp, random, peak=3.0, softmax=softmax) for _ in range(count)]
    wanted = transformers_probabilities(logits, warp)
    sorts, which = np.unique(logits, return_inverse=True)
    expected = np.bincount(which, wanted) * count
    observed = np.bincount(which[drawn], minlength=len(sorts))
    assert not observed[expected == 0].any()
    possible = expected > 0
    surprise = ((observed - expected)[possible] ** 2 / expected[possible]).sum()
    # Chi-square's mean is its degrees of freedom, its variance twice that; five deviations leave room for the skew.
    freedom = max(1, possible.sum() - 1)
    assert surprise < freedom + 5 * (2 * freedom) ** 0.5
    # Within a sort too: no half of the ids is preferred.
    for half in (np.arange(len(logits)) < len(logits) // 2, np.arange(len(logits)) % 2 == 0):
        if warp.top_p is None:
            share = wanted[half].sum()
            assert abs(half[drawn].mean() - share) < 5 * (share * (1 - share) / count) ** 0.5


@pytest.mark.parametrize(("top_p", "count"), [(0.9, 4500), (0.0001, 1), (1e-9, 1)])
def test_equal_tokens_enter_the_nucleus_in_the_order_of_their_ids(top_p: float, count: int) -> None:
    tokens, _ = kept(np.arange(5000), np.zeros(5000, np.float32), warp(top_p=top_p))
    assert tokens.tolist() == list(range(count))
    random, softmax = np.random.default_rng(0), Softmax()
    drawn = [draw(np.zeros(5000, np.float32), warp(top_p=top_p), random, peak=0.0, softmax=softmax) for _ in range(100)]
    assert max(drawn) < count


@settings(max_examples=150, deadline=None)
@given(logits=rows(sizes=(1, 2, 65, 300, 5000)), count=st.integers(1, 500))
def test_finds_the_largest_and_their_equals(logits: Row, count: int) -> None:
    count = min(count, len(logits))
    bound = np.sort(logits)[-count]
    assert largest(logits, count).tolist() == np.flatnonzero((logits >= bound) & (logits > -np.inf)).tolist()


@pytest.mark.parametrize("temperature", [1e-30, 1e-20])
@pytest.mark.parametrize("size", [50, 5000])
def test_a_tiny_temperature_is_greedy_without_overflow(temperature: float, size: int) -> None:
    logits = (np.random.default_rng(1).standard_normal(size) * 1e30).astype(np.float32)
    best = int(logits.argmax())
    with np.errstate(over="ignore"):
        for settings_ in (warp(temperature), warp(temperature, top_p=0.5), warp(temperature, top_k=5)):
            found = draw(
                logits.copy(), settings_, np.random.default_rng(0), peak=float(logits[best]), softmax=Softmax()
            )
            assert found == best


@pytest.mark.parametrize("size", [4, 5000])
def test_never_draws_what_is_forbidden(size: int) -> None:
    logits = np.full(size, -np.inf, np.float32)
    logits[[1, 3]] = 0
    random, softmax = np.random.default_rng(0), Softmax()
    for settings_ in (warp(100), warp(100, top_k=3), warp(100, top_p=0.99), warp(100, min_p=0.01)):
        drawn = {draw(logits.copy(), settings_, random, peak=0.0, softmax=softmax) for _ in range(50)}
        assert drawn == {1, 3}
    # Whatever the random number: the first and the last there are.
    for number in (0.0, 1 - 2**-53):
        assert draw_from_all(np.exp(logits), warp(), Given(number, number)) in (1, 3)
