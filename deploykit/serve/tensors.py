"""What stands in a request's tensors and in the JSON in them. Pure functions, no Triton in them."""

import json
from collections.abc import Mapping
from typing import Any

from numpy.typing import NDArray

from deploykit.errors import RequestError

Tensors = Mapping[str, NDArray[Any]]
"""Inputs by name; those of strings hold bytes."""


def one(tensors: Tensors, name: str) -> Any:
    """Return the only element of a tensor."""
    values = tensors[name].reshape(-1)
    if values.size != 1:
        raise RequestError(f"{name} must hold exactly one element, got {values.size}")
    return values[0]


def flag(tensors: Tensors, name: str, *, default: bool) -> bool:
    """Return a boolean, or `default` where it isn't given."""
    return bool(one(tensors, name)) if name in tensors else default


def text(tensors: Tensors, name: str) -> str:
    """Return the only text of a tensor."""
    return decode(name, one(tensors, name))


def decode(name: str, value: Any) -> str:
    """Return the text that bytes spell in UTF-8."""
    if isinstance(value, str):
        return value
    try:
        return bytes(value).decode("utf-8")
    except UnicodeDecodeError as error:
        raise RequestError(f"{name} is not UTF-8: byte 0x{error.object[error.start]:02x} at {error.start}") from None
    except (TypeError, ValueError):
        raise RequestError(f"{name} must hold strings, got {type(value).__name__}") from None


def read_json(name: str, given: str, *, limit: int) -> Any:
    """Return what JSON of at most `limit` characters says."""
    if len(given) > limit:
        raise RequestError(f"{name} has {len(given)} characters, at most {limit} are allowed")
    try:
        return json.loads(given)
    except (ValueError, RecursionError):
        raise RequestError(f"{name} is not valid JSON") from None


def read_object(name: str, given: str, *, limit: int) -> dict[str, Any]:
    """Return a JSON object."""
    value = read_json(name, given, limit=limit)
    if not isinstance(value, dict):
        raise RequestError(f"{name} must be a JSON object, got {type(value).__name__}")
    return value


def shown(value: object) -> str:
    """Return a value short enough for a one-line message, and safe to encode."""
    try:
        spelled = ascii(value)
    except (ValueError, RecursionError):
        # Python writes out no integer of more than 4,300 digits, and nothing nested too deep.
        return f"a value of type {type(value).__name__} too long to show"
    return spelled if len(spelled) <= 40 else f"{spelled[:37]}…"
