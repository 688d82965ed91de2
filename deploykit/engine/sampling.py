"""Choosing the next token from a row of logits."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from deploykit.engine.params import SamplingParams

FloatArray = NDArray[np.float32]


@dataclass(frozen=True, kw_only=True)
class Choice:
    """A token, and how likely the model itself held it (before temperature, top-k and top-p)."""

    token: int
    logprob: float


class Sampler:
    """One request's choices; its random numbers are its own, so nothing that runs beside can change them."""

    def __init__(self, params: SamplingParams) -> None:
        self._temperature = params.effective_temperature
        self._top_k = params.top_k if params.top_k is not None and params.top_k > 0 else None
        self._top_p = params.top_p if params.top_p is not None and params.top_p < 1 else None
        self._random = np.random.default_rng(params.seed)

    def choose(self, logits: FloatArray) -> Choice:
        """Return the next token for a row of logits [V].

        Raises:
            FloatingPointError: the logits hold NaN or +inf, or nothing but -inf.
        """
        best = int(logits.argmax())
        with np.errstate(invalid="ignore"):
            shifted = logits - logits[best]
        spread = float(np.log(np.exp(shifted).sum(dtype=np.float64)))
        # The largest is 0 after the shift: NaN here means NaN or infinity in the logits.
        if not np.isfinite(spread):
            raise FloatingPointError("the model's logits are not finite")
        token = best if self._temperature == 0 else self._draw(shifted)
        return Choice(token=token, logprob=float(shifted[token]) - spread)

    def _draw(self, shifted: FloatArray) -> int:
        tokens, weights = candidates(shifted, temperature=self._temperature, top_k=self._top_k, top_p=self._top_p)
        reached = np.cumsum(weights)
        place = np.searchsorted(reached, self._random.random() * reached[-1], side="right")
        # Rounding can put the product on the last sum itself.
        return int(tokens[min(int(place), len(tokens) - 1)])


def candidates(
    logits: FloatArray, *, temperature: float, top_k: int | None, top_p: float | None
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Return the tokens that may be drawn and their weights, in the order of transformers: temperature, top-k, top-p.

    The weights need not sum to 1. Tokens as likely as the K-th stay, as in transformers.

    Args:
        logits: a row [V] whose largest is 0, so that no temperature, however small, gives infinity.
        temperature: above 0.
        top_k: tokens to keep; all where None.
        top_p: share of the probability to keep, below 1; all where None.
    """
    tokens = np.arange(len(logits))
    if top_k is not None and top_k < len(logits):
        # The order is that of the scaled logits, and few are left to scale.
        tokens = np.flatnonzero(logits >= np.partition(logits, -top_k)[-top_k])
    with np.errstate(over="ignore"):
        weights = np.exp(logits[tokens].astype(np.float64) / temperature)
    if top_p is not None:
        kept = _nucleus(weights, top_p)
        return tokens[kept], weights[kept]
    return tokens, weights


def _nucleus(weights: NDArray[np.float64], top_p: float) -> NDArray[np.int64]:
    """Return the places of the heaviest weights, in order of place: each has less than `top_p` of the sum before it."""
    total = weights.sum()
    # All that are lighter than the mean of what is left out are left out; half of it leaves room for rounding.
    places = np.flatnonzero(weights >= 0.5 * (1 - top_p) * total / len(weights))
    heaviest = np.sort(weights[places])[::-1]
    before = np.cumsum(heaviest) - heaviest
    kept = max(1, int(np.searchsorted(before, top_p * total)))
    # Of equals, those with the lowest ids, so that the same request always draws the same token.
    above = np.flatnonzero(weights > heaviest[kept - 1])
    equal = np.flatnonzero(weights == heaviest[kept - 1])[: kept - len(above)]
    return np.sort(np.concatenate([above, equal]))
