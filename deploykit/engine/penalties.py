"""What changes logits before a token is chosen from them: biases, penalties, banned words, the shortest answer."""

from collections import Counter
from collections.abc import Callable, Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from deploykit.engine.params import SamplingParams

FloatArray = NDArray[np.float32]
Ids = NDArray[np.int64]
BadWords = Sequence[Sequence[int]]


class Penalties:
    """What one request does to its logits, and the tokens that decide it.

    The order is that of transformers; presence and frequency, which it doesn't have, follow the repetition penalty.
    """

    def __init__(
        self, params: SamplingParams, *, prompt: Sequence[int], eos: Iterable[int], bad_words: BadWords, vocab_size: int
    ) -> None:
        """Begin an answer.

        Args:
            params: checked by `check_params`.
            prompt: tokens before the answer.
            eos: tokens that end an answer.
            bad_words: sequences of tokens that must not come.
            vocab_size: V.
        """
        ends = set(eos)
        self._biased = _ids(token for token, _ in params.logit_bias)
        self._biases = np.array([bias for _, bias in params.logit_bias], np.float32)
        self._repetition = params.repetition_penalty
        self._presence = params.presence_penalty
        self._frequency = params.frequency_penalty
        self._seen = Places(prompt if self._repetition != 1 else ())
        self._counted = Places()
        self._bans = Bans([word for word in bad_words if not (len(word) == 1 and word[0] in ends)], vocab_size)
        self._ends = _ids(_within((set() if params.ignore_eos else ends) | {*params.stop_token_ids}, vocab_size))
        self._left = params.min_tokens if len(self._ends) else 0
        """Tokens until the answer may end."""
        self._tail = list(prompt[-self._bans.reach :]) if self._bans.reach else []
        """The last tokens, as many as the longest beginning of a banned word."""
        self._lasting = bool(
            params.logit_bias or self._repetition != 1 or self._presence or self._frequency or self._bans
        )

    @property
    def active(self) -> bool:
        """Whether there is anything to do now."""
        return self._lasting or self._left > 0

    def apply(self, logits: FloatArray) -> None:
        """Change a row [V] in place."""
        logits[self._biased] += self._biases
        if self._repetition != 1:
            seen = self._seen.ids
            values = logits[seen]
            logits[seen] = np.where(values < 0, values * self._repetition, values / self._repetition)
        if self._presence or self._frequency:
            logits[self._counted.ids] -= self._counted.counts * self._frequency + self._presence
        if self._bans:
            logits[self._bans.after(self._tail)] = -np.inf
        if self._left:
            logits[self._ends] = -np.inf

    def add(self, token: int) -> None:
        """Note the answer's next token."""
        if self._repetition != 1:
            self._seen.add(token)
        if self._presence or self._frequency:
            self._counted.add(token)
        if self._bans.reach:
            self._tail = [*self._tail, token][-self._bans.reach :]
        self._left = max(0, self._left - 1)


class Places:
    """Tokens without repeats, and how often each came, as arrays: one step changes all their logits at once."""

    def __init__(self, tokens: Iterable[int] = ()) -> None:
        counted = Counter(tokens)
        self._place = {token: place for place, token in enumerate(counted)}
        self._ids = np.fromiter(counted.keys(), np.int64, len(counted))
        self._counts = np.fromiter(counted.values(), np.float32, len(counted))

    @property
    def ids(self) -> Ids:
        """The tokens, in the order in which they came first."""
        return self._ids[: len(self._place)]

    @property
    def counts(self) -> FloatArray:
        """How often each of `ids` came."""
        return self._counts[: len(self._place)]

    def add(self, token: int) -> None:
        """Count one more."""
        place = self._place.setdefault(token, len(self._place))
        if place == len(self._ids):
            more = max(64, place)
            self._ids = np.concatenate([self._ids, np.zeros(more, np.int64)])
            self._counts = np.concatenate([self._counts, np.zeros(more, np.float32)])
        self._ids[place] = token
        self._counts[place] += 1


class Bans:
    """Sequences of tokens that must not come; false where there are none."""

    def __init__(self, words: BadWords, vocab_size: int) -> None:
        # A tokenizer may know tokens that the model doesn't; such a word can't come anyway.
        sound = {tuple(word) for word in words if len(word) and max(word) < vocab_size}
        self._always = [word[0] for word in sound if len(word) == 1]
        self._longer: dict[int, list[tuple[int, ...]]] = {}
        """By the last token but one, so that a step looks at few of them."""
        for word in sound:
            if len(word) > 1:
                self._longer.setdefault(word[-2], []).append(word)
        self.reach = max((len(word) - 1 for word in sound), default=0)
        """Tokens of the longest beginning."""

    def __bool__(self) -> bool:
        return bool(self._always or self._longer)

    def after(self, tokens: list[int]) -> Ids:
        """Return the tokens that must not follow `tokens`, of which the last `reach` count."""
        words = self._longer.get(tokens[-1], []) if tokens else []
        ended = [word[-1] for word in words if tuple(tokens[1 - len(word) :]) == word[:-1]]
        return _ids([*self._always, *ended])


def bad_word_tokens(words: Iterable[str], encode: Callable[[str], Sequence[int]]) -> tuple[tuple[int, ...], ...]:
    """Return how a tokenizer spells words at a text's beginning and, with a space before, inside of it.

    Args:
        words: none empty.
        encode: returns a text's tokens, without those added at a prompt's beginning and end.
    """
    spelled = (tuple(encode(text)) for word in words for text in (word, f" {word.lstrip(' ')}"))
    return tuple(dict.fromkeys(tokens for tokens in spelled if tokens))


def _ids(tokens: Iterable[int]) -> Ids:
    return np.array([*tokens], np.int64)


def _within(tokens: Iterable[int], vocab_size: int) -> list[int]:
    return sorted(token for token in tokens if 0 <= token < vocab_size)
