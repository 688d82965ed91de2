"""JSON values of a stranger: what they are made of, and how deep."""

import math
from typing import Final

from deploykit.errors import RequestError

MAX_DEPTH: Final = 64
"""Levels of lists and objects; JSON schemas that people write have about twelve."""
MAX_VALUES: Final = 100_000
"""Values in one tool or in one call's arguments."""
_MAX_BITS: Final = 4096
"""Of an integer: Python writes no decimal number of more than 4300 digits."""


def check_text(text: str, where: str) -> None:
    """Pass what UTF-8 can hold.

    Raises:
        RequestError: half a surrogate pair is in it.
    """
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise RequestError(
            f"{where} is not valid text: a lone surrogate at character {error.start}; send it as UTF-8"
        ) from None


def check_plain(value: object, where: str) -> None:
    """Pass a value of lists, objects, texts and finite numbers, neither too deep nor too large.

    Raises:
        RequestError: it is something else.
    """
    seen = 0
    level: list[object] = [value]
    for _ in range(MAX_DEPTH + 1):
        seen += len(level)
        if seen > MAX_VALUES:
            raise RequestError(f"{where} has more than {MAX_VALUES} values; send less")
        level = [inner for item in level for inner in _inside(item, where)]
        if not level:
            return
    raise RequestError(f"{where} is nested deeper than {MAX_DEPTH} levels; send it flatter")


def _inside(value: object, where: str) -> list[object]:
    """Return what a value is made of; nothing where it is a plain one."""
    if isinstance(value, dict):
        for key in value:
            _check_key(key, where)
        return list(value.values())
    if isinstance(value, list):
        return value
    if isinstance(value, str):
        check_text(value, where)
    elif isinstance(value, float):
        if not math.isfinite(value):
            raise RequestError(f"{where} holds {value}, which JSON hasn't; send a finite number")
    elif isinstance(value, int):
        if value.bit_length() > _MAX_BITS:
            raise RequestError(f"{where} holds an integer of {value.bit_length()} bits; at most {_MAX_BITS} are taken")
    elif value is not None:
        raise RequestError(f"{where} holds a {type(value).__name__}, which JSON hasn't")
    return []


def _check_key(key: object, where: str) -> None:
    if not isinstance(key, str):
        raise RequestError(f"{where} holds an object with a key that is no text")
    check_text(key, where)
