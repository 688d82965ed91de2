"""Drawing a token from a row of logits, in time that hardly depends on what was asked for.

A row is looked at in groups that lie like the columns of a matrix, so that the largest of each group, or its sum, is
found at the speed of memory. Few groups can hold one of the K largest; the others are never looked at again.
"""

import math
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from deploykit.engine.params import SamplingParams

FloatArray = NDArray[np.float32]
Ids = NDArray[np.int64]
Weights = NDArray[np.float32] | NDArray[np.float64]

GROUP: Final = 64
"""Most tokens of a group: of a vocabulary of 32,000 to 152,000, groups and their members are then about as quick."""
FEW: Final = 2048
"""Most tokens that are worth a look at each; where more are left, all are dealt with at once."""
_COLDEST: Final = 1e-30
"""Lower temperatures do what this one does: every logit but the largest gets a weight of 0."""


@dataclass(frozen=True, kw_only=True)
class Warp:
    """Which tokens may be drawn, in the order of transformers: temperature, top-k, top-p, min-p."""

    temperature: float
    """Above 0."""
    top_k: int | None
    """Tokens to keep, and those as likely as the last of them; all where None."""
    top_p: float | None
    """Share of the probability to keep, below 1; all where None."""
    min_p: float
    """Least share of the likeliest token's probability; 0 keeps all."""

    @classmethod
    def of(cls, params: SamplingParams) -> "Warp | None":
        """Return what a request asks for; None where it is greedy."""
        if params.effective_temperature == 0:
            return None
        return cls(
            temperature=max(params.effective_temperature, _COLDEST),
            top_k=params.top_k if params.top_k is not None and params.top_k > 0 else None,
            top_p=params.top_p if params.top_p is not None and params.top_p < 1 else None,
            min_p=params.min_p or 0.0,
        )


def draw(logits: FloatArray, warp: Warp, random: np.random.Generator, *, peak: float) -> int:
    """Return a token drawn from a row [V], which is changed.

    Args:
        logits: none NaN or +inf, and not all -inf.
        warp: what may be drawn.
        random: uniform numbers.
        peak: the largest of the logits.
    """
    tokens = _few(logits, warp, peak)
    if tokens is not None:
        return draw_from_few(tokens, logits[tokens], warp, random)
    weights = np.subtract(logits, np.float32(peak), out=logits)
    if warp.temperature != 1:
        weights /= np.float32(warp.temperature)
    return draw_from_all(np.exp(weights, out=weights), warp, random)


def _few(logits: FloatArray, warp: Warp, peak: float) -> Ids | None:
    """Return the tokens that top-k or min-p leave, in order, if they are few.

    Otherwise return None; logits that top-k leaves out are -inf then.
    """
    if warp.top_k is not None and warp.top_k < len(logits):
        tokens = largest(logits, warp.top_k)
        if len(tokens) > FEW:
            logits[logits < logits[tokens].min()] = -np.inf
    elif warp.min_p and warp.top_p is None:
        # Rounded down; those below that this lets in are left out again by their weight.
        bound = np.nextafter(np.float32(peak + warp.temperature * math.log(warp.min_p)), np.float32(-np.inf))
        tokens = np.flatnonzero(logits >= bound)
    elif len(logits) <= FEW:
        tokens = np.flatnonzero(logits > -np.inf)
    else:
        return None
    return tokens if len(tokens) <= FEW else None


def draw_from_few(tokens: Ids, logits: FloatArray, warp: Warp, random: np.random.Generator) -> int:
    """Return one of `tokens`, in order of their ids, which top-k has left; the largest logit is among theirs."""
    weights = np.exp((logits.astype(np.float64) - float(logits.max())) / warp.temperature)
    if warp.top_p is not None or warp.min_p:
        # The likeliest first; of equals, those with the lowest ids, so that a request always draws from the same.
        order = np.argsort(-weights, kind="stable")
        tokens, weights = tokens[order], weights[order]
    reached = np.cumsum(weights)
    if warp.top_p is not None:
        # A token stays if those before it hold less than top_p.
        reached = reached[: 1 + np.searchsorted(reached[:-1], warp.top_p * reached[-1])]
    if warp.min_p:
        reached = reached[: np.count_nonzero(weights[: len(reached)] >= warp.min_p)]
    return int(tokens[_place(reached, random)])


def draw_from_all(weights: FloatArray, warp: Warp, random: np.random.Generator) -> int:
    """Return a token drawn by weights [V], the largest 1, which are changed; top-k has been applied.

    No sorting: a token is drawn from all, and drawn again where it turns out to lie outside of what top-p keeps. It
    and all that are less likely are out for good then, so that few rounds are needed however little top-p keeps.
    """
    total = _sums(weights).sum(dtype=np.float64)
    if warp.min_p:
        weights *= weights >= np.float32(warp.min_p)
    while True:
        token = _pick(weights, random)
        if warp.top_p is None or _mass_before(weights, token) < warp.top_p * total:
            return token
        weight = weights[token]
        weights[:token] *= weights[:token] >= weight
        weights[token:] *= weights[token:] > weight


def largest(logits: FloatArray, count: int) -> Ids:
    """Return the places of the `count` largest of a row [V] and of those as large as the last of them, in order.

    Those that are -inf are left out. `count` is at most V.
    """
    size = min(GROUP, len(logits) // (4 * count))
    if size < 2:
        bound = np.partition(logits, -count)[-count]
        return np.flatnonzero(_at_least(logits, bound))
    columns = len(logits) // size
    tallest = _grouped(np.maximum, logits, size)
    # As many groups hold a logit of at least this, so that it is no larger than the smallest looked for.
    bound = np.partition(tallest, -count)[-count]
    groups = np.flatnonzero(_at_least(tallest, bound))
    if len(groups) > 2 * count:
        # Many equals.
        return _exactly(logits, np.flatnonzero(_at_least(logits, bound)), count)
    whole = groups[: np.searchsorted(groups, columns)]
    places = np.add.outer(np.arange(size) * columns, whole).ravel()
    places = np.sort(np.concatenate([places, groups[len(whole) :] + (size - 1) * columns]))
    return _exactly(logits, places, count)


def _exactly(logits: FloatArray, places: Ids, count: int) -> Ids:
    """Return those of `places` that hold the `count` largest, or as large a logit as the last of them."""
    found = logits[places]
    bound = np.partition(found, -count)[-count] if count < len(found) else -np.inf
    return places[_at_least(found, bound)]


def _at_least(logits: FloatArray, bound: float) -> NDArray[np.bool_]:
    return logits >= bound if bound > -np.inf else logits > bound


def _grouped(operation: np.ufunc, values: FloatArray, size: int) -> FloatArray:
    """Return what an operation makes of each group: the columns of [size, V // size], then the rest one by one."""
    columns = len(values) // size
    whole = columns * size
    return np.concatenate([operation.reduce(values[:whole].reshape(size, columns), axis=0), values[whole:]])


def _sums(weights: FloatArray) -> FloatArray:
    return _grouped(np.add, weights, GROUP)


def _pick(weights: FloatArray, random: np.random.Generator) -> int:
    """Return a token drawn by weights [V]: first a group, then one of its members."""
    group = _place(np.cumsum(_sums(weights), dtype=np.float64), random)
    columns = len(weights) // GROUP
    if group >= columns:
        return group + (GROUP - 1) * columns
    members = weights[group : columns * GROUP : columns]
    return group + columns * _place(np.cumsum(members, dtype=np.float64), random)


def _place(reached: NDArray[np.float64], random: np.random.Generator) -> int:
    """Return a place drawn by weights of which `reached` are the running sums."""
    place = np.searchsorted(reached, random.random() * reached[-1], side="right")
    # Rounding can put the product on the last sum itself; the first place that reaches it is the last with a weight.
    return int(min(place, np.searchsorted(reached, reached[-1])))


def _mass_before(weights: FloatArray, token: int) -> float:
    """Return the sum of the weights before a token's, in order of weight, then of id."""
    weight = weights[token]
    above = weights > weight
    equal = int(np.count_nonzero(weights[:token] == weight))
    return float(np.multiply(weights, above).sum()) + equal * float(weight)
