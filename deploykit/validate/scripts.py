"""Which script a token is written in: Latin, Han, Cyrillic and so on, as Unicode's names of its letters say."""

import unicodedata
from collections.abc import Sequence
from functools import lru_cache
from typing import Final

NO_LETTERS: Final = "no letters"
"""Of tokens that are space, digits or signs alone."""
_JOINED: Final = {"Cjk": "Han", "Hiragana": "Kana", "Katakana": "Kana"}


def scripts_of(text: str, spans: Sequence[tuple[int, int]]) -> tuple[str, ...]:
    """Return the script of each token: that of its first letter.

    Args:
        text: what was made into tokens.
        spans: each token's characters, [start, end). Tokens that share the bytes of one character share its script.
    """
    return tuple(
        next((script(character) for character in text[start:end] if character.isalpha()), NO_LETTERS)
        for start, end in spans
    )


@lru_cache(maxsize=4096)
def script(letter: str) -> str:
    """Return the script of a letter, `Latin` for `a`."""
    first = unicodedata.name(letter, "other").replace("-", " ").split(maxsplit=1)[0].capitalize()
    return _JOINED.get(first, first)
