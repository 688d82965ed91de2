"""Whether a body is safe to parse as JSON: a parser recurses with each level and takes minutes over long numbers."""

import re
from typing import Final

import numpy as np

MAX_DEPTH: Final = 64
"""Levels of brackets; a tool's schema, the deepest thing callers send, has about ten."""
MAX_DIGITS: Final = 400
"""Digits in a row; the largest double has 309, and Python converts no integer of more than 4,300."""

# Whatever the text, each of these takes a time in proportion to its length: nothing is read twice.
_STRING: Final = re.compile(rb'"(?:[^"\\]++|\\.?)*+"?', re.DOTALL)
_LONG_NUMBER: Final = re.compile(rb"(?<![0-9])[0-9]{%d}" % (MAX_DIGITS + 1))
_STEPS: Final = bytes.maketrans(b"[{]}", b"\x01\x01\xff\xff")
"""One level up, one level down, as signed bytes."""
_NO_BRACKETS: Final = bytes(set(range(256)) - set(b"[]{}"))


def complaint(body: bytes) -> str | None:
    """Return why a body can't be taken as JSON, or None; whether it *is* JSON is left to the parser."""
    try:
        body.decode("utf-8")
    except UnicodeDecodeError as error:
        return f"the body is not UTF-8: its byte {error.start} can't be; send JSON in UTF-8"
    if b"\0" in body:
        # A parser of Python's would take it for UTF-16.
        return "the body is not JSON: it holds a NUL; send JSON in UTF-8"
    many, long = body.count(b"[") + body.count(b"{") > MAX_DEPTH, _LONG_NUMBER.search(body)
    if not many and not long:
        return None
    bare = _STRING.sub(b'""', body)
    if long and _LONG_NUMBER.search(bare):
        return f"the body holds a number of more than {MAX_DIGITS} digits; shorten it"
    if many and _depth(bare) > MAX_DEPTH:
        return f"the body's brackets are nested deeper than {MAX_DEPTH} levels; make it flatter"
    return None


def _depth(bare: bytes) -> int:
    """Return how deep the brackets of a text without strings are nested."""
    steps = np.frombuffer(bare.translate(_STEPS, _NO_BRACKETS), np.int8)
    return int(steps.cumsum(dtype=np.int32).max(initial=0))
