"""Regular expressions that users write, run no longer than they should.

Go runs them in time that grows with the text (RE2). Python's engine goes back and tries again, which may take for ever,
so one that might is left alone.
"""

import re
import warnings
from dataclasses import dataclass
from typing import Final

_MOST_STEPS: Final = 100_000
"""Ways to match that may be tried, a few milliseconds' worth."""
_ESCAPED: Final = re.compile(r"\\.|\[\^?\]?(?:\\.|[^\]\\])*\]", re.DOTALL)
"""Signs that stand for one of the text's, however they look."""
_HEAD: Final = re.compile(r"\((?:\?(?::|P?<\w+>))?")
"""What begins a group; options and conditions in front of one are left alone."""
_REPEAT: Final = re.compile(r"(?:[*+]|\{\d*,?\d*\})[?+]?")
_OPTION: Final = re.compile(r"\?[?+]?")


@dataclass
class _Group:
    """Ways to match a group of `length` signs that are known so far."""

    done: float = 0
    """Of its alternatives that have ended."""
    ways: float = 1
    """Of the one that hasn't."""
    varies: bool = False
    """Whether one text can fit it in several ways."""


def matches(pattern: str, text: str) -> bool | None:
    """Return whether a pattern fits all of a text; None where that can't be said in a short time."""
    if not _steps(pattern, len(text)) <= _MOST_STEPS:
        return None
    try:
        with warnings.catch_warnings():
            # Of sets within sets, which neither Go nor Python has.
            warnings.simplefilter("ignore", FutureWarning)
            return re.fullmatch(pattern, text) is not None
    except (re.error, RecursionError, OverflowError):
        return None


def _steps(pattern: str, length: int) -> float:
    """Return a bound of the ways to match that there are in a text of some length."""
    groups, at = [_Group()], 0
    while at < len(pattern):
        found = _ESCAPED.match(pattern, at) or _HEAD.match(pattern, at)
        at = found.end() if found else at + 1
        begun = found[0] if found else pattern[at - 1]
        if begun.startswith("("):
            groups.append(_Group())
            continue
        if begun == "|":
            groups[-1].done += groups[-1].ways
            groups[-1].ways, groups[-1].varies = 1, True
            continue
        inner = groups.pop() if begun == ")" and len(groups) > 1 else _Group()
        at = _counted(pattern, at, inner, groups[-1], length)
    return sum(group.done + group.ways for group in groups)


def _counted(pattern: str, at: int, inner: _Group, outer: _Group, length: int) -> int:
    """Add a part and what stands behind it to its group; return the place after both."""
    ways, varies = inner.done + inner.ways, inner.varies
    if found := _REPEAT.match(pattern, at):
        # Repeating what varies multiplies ways with every sign of the text.
        ways, varies = float("inf") if varies else length + 1, True
    elif found := _OPTION.match(pattern, at):
        ways, varies = ways + 1, True
    outer.ways *= ways
    outer.varies |= varies
    return found.end() if found else at
