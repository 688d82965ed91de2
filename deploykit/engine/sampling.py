"""Choosing the next tokens from the logits of a batch: each row by its own request's wishes and random numbers."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from deploykit.engine.drawing import Warp, draw, group_sums, largest
from deploykit.engine.params import SamplingParams
from deploykit.engine.penalties import BadWords, Penalties
from deploykit.engine.softmax import Softmax

FloatArray = NDArray[np.float32]


@dataclass(frozen=True, kw_only=True)
class Choice:
    """A token, and how likely the model itself held it and others, where that was asked for."""

    token: int
    logprob: float | None = None
    """In nats, before anything changed the logits."""
    top: tuple[tuple[int, float], ...] = ()
    """The likeliest tokens and their log probabilities, the likeliest first; of equals, the lowest id first."""


class Sampler:
    """The choices of one of a request's answers; its random numbers are its own, so nothing beside can change them."""

    def __init__(
        self,
        params: SamplingParams,
        *,
        index: int = 0,
        prompt: Sequence[int] = (),
        eos: Iterable[int] = (),
        bad_words: BadWords = (),
        vocab_size: int,
    ) -> None:
        """Begin an answer.

        Args:
            params: checked by `check_params`.
            index: which of the request's answers.
            prompt: tokens before the answer.
            eos: tokens that end an answer.
            bad_words: sequences of tokens that must not come.
            vocab_size: V.
        """
        self._penalties = Penalties(params, prompt=prompt, eos=eos, bad_words=bad_words, vocab_size=vocab_size)
        self._warp = Warp.of(params)
        self._logprobs = params.logprobs
        seed = params.seed if params.seed is None or index == 0 else [params.seed, index]
        self._random = np.random.default_rng(seed)

    def next(self, logits: FloatArray, best: int, softmax: Softmax) -> Choice | None:
        """Return the next token; None where the logits are unusable, or nothing is left of them.

        Args:
            logits: a row [V], which is changed.
            best: place of the largest, or of a NaN.
            softmax: takes rows of this size.
        """
        if not math.isfinite(logits[best]):
            return None
        own = None if self._logprobs is None else logits.copy()
        token = self._choose(logits, best, softmax)
        if token is None:
            return None
        self._penalties.add(token)
        return Choice(token=token) if own is None else _described(token, own, best, self._logprobs or 0, softmax)

    def _choose(self, logits: FloatArray, best: int, softmax: Softmax) -> int | None:
        if self._penalties.active:
            self._penalties.apply(logits)
            best = int(logits.argmax())
            if not math.isfinite(logits[best]):
                return None
        if self._warp is None:
            return best
        return draw(logits, self._warp, self._random, peak=float(logits[best]), softmax=softmax)


def choose(samplers: Sequence[Sampler], logits: FloatArray) -> list[Choice | None]:
    """Return each row's next token; None for a row that is no distribution: NaN, +inf, or -inf everywhere.

    Args:
        samplers: of the rows, B.
        logits: [B, V], which are changed.
    """
    # What overflows here is meant to.
    with np.errstate(over="ignore", invalid="ignore"):
        # The largest of a row is NaN if any of it is.
        best = logits.argmax(axis=1).tolist()
        softmax = Softmax()
        return [sampler.next(row, place, softmax) for sampler, row, place in zip(samplers, logits, best, strict=True)]


def _described(token: int, logits: FloatArray, best: int, count: int, softmax: Softmax) -> Choice:
    """Return a choice with what the model held likely, by its own logits [V]."""
    peak = float(logits[best])
    weights = softmax(logits, peak=peak)
    spread = peak - math.log(weights[best] / group_sums(weights).sum(dtype=np.float64))
    places = largest(logits, min(count, len(logits))) if count else np.empty(0, np.int64)
    places = places[(-logits[places]).argsort(kind="stable")[:count]]
    top = tuple((place, float(logits[place]) - spread) for place in places.tolist())
    return Choice(token=token, logprob=float(logits[token]) - spread, top=top)
