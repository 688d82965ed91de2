"""What a request may ask for, and the reading of it from values nobody has checked."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from numbers import Integral, Real
from typing import Any, Final, Self

from deploykit.errors import RequestError

MAX_TOKENS: Final = 2**31 - 1
MAX_SEED: Final = 2**63 - 1
MAX_TEMPERATURE: Final = 100
MAX_STOPS: Final = 16


@dataclass(frozen=True, kw_only=True)
class SamplingParams:
    """How to choose tokens, and when to stop."""

    max_tokens: int = 64
    """Longest answer, in tokens; cut where the context ends."""
    temperature: float | None = None
    """Divides the logits; 0 is greedy. None is greedy too, unless `top_k`, `top_p` or `seed` is given: then 1."""
    top_k: int | None = None
    """Sample from the K most likely tokens; from all where None, 0 or -1."""
    top_p: float | None = None
    """Sample from the most likely tokens that together hold this probability; from all where None or 1."""
    seed: int | None = None
    """Makes sampling repeatable, whatever runs beside."""
    stop: tuple[str, ...] = ()
    """The answer ends before the first of these texts."""
    ignore_eos: bool = False
    """Whether to go on past an end-of-text token."""

    def __post_init__(self) -> None:
        _within("max_tokens", self.max_tokens, 1, MAX_TOKENS)
        _within("temperature", self.temperature, 0, MAX_TEMPERATURE)
        _within("top_k", self.top_k, -1, MAX_TOKENS)
        _within("top_p", self.top_p, 0, 1)
        _within("seed", self.seed, 0, MAX_SEED)
        if self.top_p == 0:
            raise RequestError("top_p must be above 0 and at most 1, got 0")
        if len(self.stop) > MAX_STOPS or not all(self.stop):
            raise RequestError(f"stop must be at most {MAX_STOPS} texts, none empty; got {len(self.stop)}")

    @property
    def effective_temperature(self) -> float:
        """The temperature meant; 0 where the choice is greedy."""
        if self.temperature is not None:
            return self.temperature
        return 0.0 if (self.top_k, self.top_p, self.seed) == (None, None, None) else 1.0

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


def _apply_do_sample(wanted: dict[str, Any]) -> None:
    if not _flag("do_sample", wanted.pop("do_sample")):
        wanted["temperature"] = 0.0
    elif wanted.setdefault("temperature", 1.0) == 0:
        raise RequestError("do_sample is true, but temperature 0 is greedy; leave out one of them")


def _within(name: str, value: float | None, low: int, high: int) -> None:
    # Written so that NaN fails.
    if value is not None and not low <= value <= high:
        raise RequestError(f"{name} must be {low} to {high}, got {_shown(value)}")


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


def _stops(name: str, value: Any) -> tuple[str, ...]:
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


_READERS: Final[Mapping[str, Callable[[str, Any], Any]]] = {
    "max_tokens": _integer,
    "temperature": _number,
    "top_k": _integer,
    "top_p": _number,
    "seed": _integer,
    "stop": _stops,
    "ignore_eos": _flag,
}
_ALIASES: Final = ("max_new_tokens", "do_sample")

assert list(_READERS) == [field.name for field in fields(SamplingParams)]
