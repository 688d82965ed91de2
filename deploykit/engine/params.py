"""What a request may ask for, and the reading of it from values nobody has checked."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from numbers import Integral, Real
from typing import Any, Final, Self

from deploykit.errors import RequestError

MAX_TOKENS: Final = 2**31 - 1
MAX_SEED: Final = 2**63 - 1
MAX_TEMPERATURE: Final = 100
MAX_STOPS: Final = 16
MAX_STOP_TOKENS: Final = 64
MAX_BAD_WORDS: Final = 64
MAX_BIASES: Final = 300
"""As many as OpenAI takes; so are the bounds of a bias and of the presence and frequency penalties."""
MAX_LOGPROBS: Final = 20
MAX_ANSWERS: Final = 16


@dataclass(frozen=True, kw_only=True)
class SamplingParams:
    """How to choose tokens, and when to stop."""

    max_tokens: int = 64
    """Longest answer, in tokens; cut where the context ends."""
    min_tokens: int = 0
    """Shortest answer, in tokens: no end-of-text token and none of `stop_token_ids` comes before."""
    temperature: float | None = None
    """Divides the logits; 0 is greedy. None is greedy too, unless `top_k`, `top_p`, `min_p`, `seed` or more than one
    answer is asked for: then 1."""
    top_k: int | None = None
    """Sample from the K most likely tokens; from all where None, 0 or -1."""
    top_p: float | None = None
    """Sample from the most likely tokens that together hold this probability; from all where None or 1."""
    min_p: float | None = None
    """Sample from the tokens at least this share as likely as the likeliest; from all where None or 0."""
    repetition_penalty: float = 1.0
    """Divides the positive logits of all tokens that the prompt or the answer has, and multiplies the negative ones."""
    presence_penalty: float = 0.0
    """Taken off the logits of all tokens that the answer has."""
    frequency_penalty: float = 0.0
    """Taken off the logits of the answer's tokens once for each time they came."""
    logit_bias: tuple[tuple[int, float], ...] = ()
    """Token ids, and what is added to their logits before anything else changes them."""
    bad_words: tuple[str, ...] = ()
    """Texts that the answer must not hold, as the tokenizer spells them, with and without a space before."""
    seed: int | None = None
    """Makes sampling repeatable, whatever runs beside."""
    stop: tuple[str, ...] = ()
    """The answer ends before the first of these texts."""
    stop_token_ids: tuple[int, ...] = ()
    """The answer ends with the first of these tokens."""
    ignore_eos: bool = False
    """Whether to go on past an end-of-text token."""
    logprobs: int | None = None
    """How many of the likeliest tokens to name at each place, besides the chosen one, with their log probabilities; not
    even the chosen one's where None."""
    n: int = 1
    """How many answers to give, each with random numbers of its own."""

    def __post_init__(self) -> None:
        for name, (low, high) in _BOUNDS.items():
            value = getattr(self, name)
            if value is not None or getattr(SamplingParams, name) is not None:
                # A value of another type would fail in the loop, where it would end everyone's requests.
                _READERS[name](name, value)
            _within(name, value, low, high)
        if self.top_p == 0:
            raise RequestError("top_p must be above 0 and at most 1, got 0")
        if self.min_tokens > self.max_tokens:
            raise RequestError(f"min_tokens must be at most max_tokens, {self.max_tokens}; got {self.min_tokens}")
        _check_texts("stop", self.stop, MAX_STOPS)
        _check_texts("bad_words", self.bad_words, MAX_BAD_WORDS)
        _check_tokens("stop_token_ids", self.stop_token_ids, MAX_STOP_TOKENS)
        _check_tokens("logit_bias", [token for token, _ in self.logit_bias], MAX_BIASES)
        for token, bias in self.logit_bias:
            _within(f"logit_bias of token {token}", _number("logit_bias of a token", bias), -100, 100)

    @property
    def effective_temperature(self) -> float:
        """The temperature meant; 0 where the choice is greedy."""
        if self.temperature is not None:
            return self.temperature
        asked = (self.top_k, self.top_p, self.min_p, self.seed) != (None, None, None, None)
        return 1.0 if asked or self.n > 1 else 0.0

    @classmethod
    def from_mapping(cls, given: Mapping[str, Any]) -> Self:
        """Read parameters from values as JSON has them; None counts as not given.

        Two names of transformers are taken as well: `max_new_tokens`, and `do_sample` (false is greedy).

        Raises:
            RequestError: an unknown name, a wrong type, or a value out of bounds.
        """
        wanted = {name: value for name, value in given.items() if value is not None}
        if unknown := [name for name in wanted if name not in _READERS and name not in _ALIASES]:
            known = ", ".join([*_READERS, *_ALIASES])
            raise RequestError(f"unknown parameter {_shown(unknown[0])}; those known are {known}")
        if "max_new_tokens" in wanted:
            if "max_tokens" in wanted:
                raise RequestError("max_tokens and max_new_tokens are two names of one parameter; give one of them")
            wanted["max_tokens"] = wanted.pop("max_new_tokens")
        if "do_sample" in wanted:
            _apply_do_sample(wanted)
        return cls(**{name: _READERS[name](name, value) for name, value in wanted.items()})


def check_params(params: SamplingParams, *, vocab_size: int) -> None:
    """Check what depends on the model.

    Raises:
        RequestError: a token id that the model doesn't have.
    """
    biased = [token for token, _ in params.logit_bias]
    for name, tokens in (("stop_token_ids", params.stop_token_ids), ("logit_bias", biased)):
        for token in tokens:
            _within(f"{name}: a token id of this model", token, 0, vocab_size - 1)


def _apply_do_sample(wanted: dict[str, Any]) -> None:
    if not _flag("do_sample", wanted.pop("do_sample")):
        wanted["temperature"] = 0.0
    elif wanted.setdefault("temperature", 1.0) == 0:
        raise RequestError("do_sample is true, but temperature 0 is greedy; leave out one of them")


def _within(name: str, value: float | None, low: float, high: float) -> None:
    # Written so that NaN fails.
    if value is not None and not low <= value <= high:
        raise RequestError(f"{name} must be {low} to {high}, got {_shown(value)}")


def _check_texts(name: str, texts: Sequence[str], limit: int) -> None:
    if isinstance(texts, str):
        raise RequestError(f"{name} must be a list of texts, got {_shown(texts)}")
    _texts(name, texts)
    if len(texts) > limit or not all(texts):
        raise RequestError(f"{name} must be at most {limit} texts, none empty; got {len(texts)}")


def _check_tokens(name: str, tokens: Sequence[int], limit: int) -> None:
    if len(tokens) > limit or len(set(tokens)) < len(tokens):
        raise RequestError(f"{name} must be at most {limit} token ids, all different; got {len(tokens)}")
    for token in tokens:
        _within(f"{name}: a token id", _integer(f"{name}: a token id", token), 0, MAX_TOKENS)


def _integer(name: str, value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, Integral):
        raise RequestError(f"{name} must be an integer, got {_shown(value)}")
    return int(value)


def _number(name: str, value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, Real):
        raise RequestError(f"{name} must be a number, got {_shown(value)}")
    try:
        return float(value)
    except OverflowError:
        return math.inf


def _flag(name: str, value: Any) -> bool:
    if not isinstance(value, bool):
        raise RequestError(f"{name} must be true or false, got {_shown(value)}")
    return value


def _tokens(name: str, value: Any) -> tuple[int, ...]:
    if not isinstance(value, list | tuple):
        raise RequestError(f"{name} must be a list of token ids, got {_shown(value)}")
    return tuple(_integer(f"{name}: a token id", token) for token in value)


def _biases(name: str, value: Any) -> tuple[tuple[int, float], ...]:
    if not isinstance(value, Mapping):
        raise RequestError(f"{name} must be an object of token ids and numbers, got {_shown(value)}")
    return tuple((_key(name, token), _number(f"{name} of a token", bias)) for token, bias in value.items())


def _key(name: str, value: Any) -> int:
    """Return a token id, which JSON has as text where it is a key."""
    # Longer ones are out of bounds anyway, and Python refuses to read those of more than 4,300 digits.
    if isinstance(value, str) and value.isascii() and value.isdecimal() and len(value) <= 20:
        return int(value)
    return _integer(f"{name}: a token id", value)


def _texts(name: str, value: Any) -> tuple[str, ...]:
    texts = [value] if isinstance(value, str) else value
    if not isinstance(texts, list | tuple) or not all(isinstance(text, str) for text in texts):
        raise RequestError(f"{name} must be a text or a list of texts, got {_shown(value)}")
    return tuple(texts)


def _shown(value: object) -> str:
    """Return a value short enough for a one-line message, and safe to encode."""
    try:
        text = ascii(value)
    except (ValueError, RecursionError):
        # Python writes out no integer of more than 4,300 digits, and nothing nested too deep.
        return f"a value of type {type(value).__name__} too long to show"
    return text if len(text) <= 40 else f"{text[:37]}…"


_BOUNDS: Final[Mapping[str, tuple[float, float]]] = {
    "max_tokens": (1, MAX_TOKENS),
    "min_tokens": (0, MAX_TOKENS),
    "temperature": (0, MAX_TEMPERATURE),
    "top_k": (-1, MAX_TOKENS),
    "top_p": (0, 1),
    "min_p": (0, 1),
    # Far beyond what makes sense, and far from what overflows.
    "repetition_penalty": (0.01, 100),
    "presence_penalty": (-2, 2),
    "frequency_penalty": (-2, 2),
    "seed": (0, MAX_SEED),
    "logprobs": (0, MAX_LOGPROBS),
    "n": (1, MAX_ANSWERS),
}
_READERS: Final[Mapping[str, Callable[[str, Any], Any]]] = {
    "max_tokens": _integer,
    "min_tokens": _integer,
    "temperature": _number,
    "top_k": _integer,
    "top_p": _number,
    "min_p": _number,
    "repetition_penalty": _number,
    "presence_penalty": _number,
    "frequency_penalty": _number,
    "logit_bias": _biases,
    "bad_words": _texts,
    "seed": _integer,
    "stop": _texts,
    "stop_token_ids": _tokens,
    "ignore_eos": _flag,
    "logprobs": _integer,
    "n": _integer,
}
_ALIASES: Final = ("max_new_tokens", "do_sample")

assert list(_READERS) == [field.name for field in fields(SamplingParams)]
