"""Drawing a token from a row of logits, in time that hardly depends on what was asked for.

A row is looked at in groups that lie like the columns of a matrix, so that the largest of each group, or its sum, is
found at the speed of memory. The largest of the groups say how large the K largest logits are at least, and a token is
drawn by first drawing its group.
"""

import math
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from deploykit.engine.params import SamplingParams
from deploykit.engine.softmax import Softmax

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


def draw(logits: FloatArray, warp: Warp, random: np.random.Generator, *, peak: float, softmax: Softmax) -> int:
    """Return a token drawn from a row [V], which is changed.

    Args:
        logits: none NaN or +inf, and not all -inf.
        warp: what may be drawn.
        random: uniform numbers.
        peak: the largest of the logits.
        softmax: takes rows of this size.
    """
    tokens = few(logits, warp, peak=peak)
    if tokens is not None:
        tokens, weights = kept(tokens, logits[tokens], warp)
        return int(tokens[_place(weights.cumsum(), random)])
    return draw_from_all(softmax(logits, peak=peak, temperature=warp.temperature), warp, random)


def few(logits: FloatArray, warp: Warp, *, peak: float) -> Ids | None:
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
        kept = _at_least(logits, bound)
        if np.count_nonzero(kept) > FEW:
            return None
        tokens = kept.nonzero()[0]
    elif len(logits) <= FEW:
        tokens = (logits > -np.inf).nonzero()[0]
    else:
        return None
    return tokens if len(tokens) <= FEW else None


def kept(tokens: Ids, logits: FloatArray, warp: Warp) -> tuple[Ids, NDArray[np.float64]]:
    """Return those of `tokens` that may be drawn, and their weights, the largest 1.

    Args:
        tokens: in order; top-k has been applied.
        logits: of these tokens; the row's largest is among them.
        warp: what may be drawn.
    """
    weights = np.exp((logits.astype(np.float64) - float(logits.max())) / warp.temperature)
    if warp.top_p is None and not warp.min_p:
        return tokens, weights
    # The likeliest first; of equals, those with the lowest ids, so that a request always draws from the same.
    order = (-weights).argsort(kind="stable")
    weights = weights[order]
    count = len(weights)
    if warp.top_p is not None:
        # A token stays if those before it hold less than top_p.
        reached = weights.cumsum()
        count = 1 + int(reached[:-1].searchsorted(warp.top_p * reached[-1]))
    if warp.min_p:
        count = min(count, int(np.count_nonzero(weights >= warp.min_p)))
    return tokens[order[:count]], weights[:count]


def draw_from_all(weights: FloatArray, warp: Warp, random: np.random.Generator) -> int:
    """Return a token drawn by weights [V], which are changed; top-k has been applied.

    No sorting: a token is drawn from all, and drawn again where it turns out to lie outside of what top-p and min-p
    keep. It and all that are less likely are out for good then, so few rounds are needed however little is kept.
    """
    sums = group_sums(weights)
    reached = sums.cumsum(dtype=np.float64)
    mass = (warp.top_p or 1) * float(reached[-1])
    least = warp.min_p * float(weights.max()) if warp.min_p else 0.0
    while True:
        token = _pick(weights, reached, random)
        weight = weights[token]
        if weight < least:
            weights *= weights >= np.float32(least)
        elif warp.top_p is None or reached[-1] - _surely_after(sums, weight) < mass:
            return token
        else:
            before = _before(weights, token)
            if float(weights @ before) < mass:
                return token
            weights *= before
        sums = group_sums(weights)
        reached = sums.cumsum(dtype=np.float64)


def largest(logits: FloatArray, count: int) -> Ids:
    """Return the places of the `count` largest of a row [V] and of those as large as the last of them, in order.

    Those that are -inf are left out. `count` is at most V.
    """
    size = min(GROUP, len(logits) // (4 * count))
    if size < 2:
        return _at_least(logits, _nth(logits.copy(), count)).nonzero()[0]
    # As many groups hold a logit of at least this, so that it is no larger than the smallest looked for.
    bound = _nth(_grouped(np.maximum, logits, size), count)
    places = _at_least(logits, bound).nonzero()[0]
    if len(places) <= count:
        return places
    found = logits[places]
    return places[_at_least(found, _nth(found.copy(), count))]


def group_sums(weights: FloatArray) -> FloatArray:
    """Return the sums of groups of weights, in single precision: of few, so that little is lost."""
    return _grouped(np.add, weights, GROUP)


def _nth(values: FloatArray, count: int) -> np.float32:
    """Return the last of the `count` largest values, whose order is lost."""
    values.partition(len(values) - count)
    nth: np.float32 = values[len(values) - count]
    return nth


def _at_least(logits: FloatArray, bound: np.float32) -> NDArray[np.bool_]:
    return logits >= bound if bound > -np.inf else logits > bound


def _grouped(operation: np.ufunc, values: FloatArray, size: int) -> FloatArray:
    """Return what an operation makes of each group: the columns of [size, V // size], then the rest one by one."""
    columns = len(values) // size
    whole = columns * size
    found: FloatArray = operation.reduce(values[:whole].reshape(size, columns), axis=0)
    return found if whole == len(values) else np.concatenate([found, values[whole:]])


def _pick(weights: FloatArray, reached: NDArray[np.float64], random: np.random.Generator) -> int:
    """Return a token drawn by weights [V]: first a group, by the groups' running sums `reached`, then a member."""
    group = _place(reached, random)
    columns = len(weights) // GROUP
    if group >= columns:
        return group + (GROUP - 1) * columns
    members = weights[group : columns * GROUP : columns]
    return group + columns * _place(members.cumsum(dtype=np.float64), random)


def _place(reached: NDArray[np.float64], random: np.random.Generator) -> int:
    """Return a place drawn by weights of which `reached` are the running sums."""
    total = reached[-1]
    aim = random.random() * total
    # Rounding can put the product on the last sum itself; the first place that reaches it is the last with a weight.
    return int(reached.searchsorted(aim, side="right") if aim < total else reached.searchsorted(total))


def _surely_after(sums: FloatArray, weight: np.float32) -> float:
    """Return the weight of a token and of all groups so light that each of their members comes after it.

    Where few tokens hold the mass, that is nearly all that does come after it, for a fraction of the time.
    """
    return float(sums @ (sums < weight)) + float(weight)


def _before(weights: FloatArray, token: int) -> FloatArray:
    """Return 1 for what comes before a token in order of weight, then of id, and 0 for it and the rest."""
    weight, before = weights[token], np.empty(len(weights), np.bool_)
    np.greater_equal(weights[:token], weight, out=before[:token])
    np.greater(weights[token:], weight, out=before[token:])
    # As numbers: BLAS adds them up in a third of the time that a product with truth values and its sum take.
    return before.astype(np.float32)
