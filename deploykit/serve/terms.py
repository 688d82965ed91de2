"""The parameters that say how a request is run, not how tokens are chosen."""

import math
from collections.abc import Callable, Mapping
from typing import Any, Final

from deploykit.errors import RequestError
from deploykit.serve.tensors import shown

MAX_CLIENT: Final = 256
"""Characters of a client's name: those of a key or a UUID, and no prompt by mistake."""
MAX_INTERVAL: Final = 1024
"""Tokens of one response at most."""
MAX_ID: Final = 1024
"""Characters of a request's name."""
MAX_TRACE: Final = 8192
"""Characters of a trace's parent or state, as of an HTTP header."""
_INT32: Final = 2**31


def take_terms(given: dict[str, Any]) -> dict[str, Any]:
    """Return the terms among a request's parameters, which they leave; None counts as not given.

    Raises:
        RequestError: one of a wrong type or out of range.
    """
    found = {name: (read, given.pop(name)) for name, read in _READERS.items() if name in given}
    return {name: read(name, value) for name, (read, value) in found.items() if value is not None}


def _text(name: str, value: Any, limit: int) -> str:
    if not isinstance(value, str) or len(value) > limit:
        raise RequestError(f"{name} must be a text of at most {limit} characters, got {shown(value)}")
    return value


def _client(name: str, value: Any) -> str:
    return _text(name, value, MAX_CLIENT)


def _name(name: str, value: Any) -> str:
    return _text(name, value, MAX_ID)


def _trace(name: str, value: Any) -> str:
    return _text(name, value, MAX_TRACE)


def _integer(name: str, value: Any, low: int, high: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        raise RequestError(f"{name} must be an integer from {low} to {high}, got {shown(value)}")
    return value


def _priority(name: str, value: Any) -> int:
    return _integer(name, value, -_INT32, _INT32 - 1)


def _interval(name: str, value: Any) -> int:
    return _integer(name, value, 1, MAX_INTERVAL)


def _switch(name: str, value: Any) -> bool:
    if not isinstance(value, bool):
        raise RequestError(f"{name} must be true or false, got {shown(value)}")
    return value


def _seconds(name: str, value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < math.inf:
        raise RequestError(f"{name} must be a number of seconds above 0, got {shown(value)}")
    # No machine waits longer, and every clock can hold it.
    return float(min(value, _INT32))


_READERS: Final[Mapping[str, Callable[[str, Any], Any]]] = {
    "client": _client,
    "priority": _priority,
    "timeout": _seconds,
    "stream_interval": _interval,
    "id": _name,
    "traceparent": _trace,
    "tracestate": _trace,
    "describe": _switch,
}
"""The reading of each."""
