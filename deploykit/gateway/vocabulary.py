"""Tokens one by one, as log probabilities name them: their bytes, which a part of a character has, too."""

import re
from typing import Final

from tokenizers import Tokenizer

_BYTE_TOKEN: Final = re.compile(r"<0x([0-9A-Fa-f]{2})>")
_INCOMPLETE: Final = "\ufffd"


def _byte_level() -> dict[str, int]:
    """Return the byte that each character of a byte-level vocabulary stands for.

    Printable Latin-1 characters stand for themselves, and the other bytes, in order, for those from U+0100 on: GPT-2's
    table, which every byte-level BPE shares.
    """
    plain = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in plain]
    return {chr(byte): byte for byte in plain} | {chr(0x100 + place): byte for place, byte in enumerate(others)}


_BYTES: Final = _byte_level()


class Vocabulary:
    """A model's tokens; without a tokenizer they have no text but what Triton gives them."""

    def __init__(self, tokenizer: Tokenizer | None) -> None:
        self._tokenizer = tokenizer
        self.longest = max(map(len, tokenizer.get_vocab() if tokenizer else ()), default=1)
        """Characters of the longest token."""
        self._bytes: dict[int, bytes] = {}

    def entry(self, token_id: int) -> str:
        """Return how the vocabulary itself writes a token; nothing for one that only the model has."""
        return (self._tokenizer and self._tokenizer.id_to_token(token_id)) or ""

    def bytes_of(self, token_id: int | None, text: str) -> bytes:
        """Return a token's bytes; `text` is how it reads, with replacement characters for parts of a character."""
        if token_id is None or _INCOMPLETE not in text:
            return text.encode()
        if token_id not in self._bytes:
            self._bytes[token_id] = self._spelt(token_id, text)
        return self._bytes[token_id]

    def _spelt(self, token_id: int, text: str) -> bytes:
        entry = self.entry(token_id)
        if single := _BYTE_TOKEN.fullmatch(entry):
            return bytes.fromhex(single[1])
        if entry and all(character in _BYTES for character in entry):
            return bytes(_BYTES[character] for character in entry)
        return text.encode()
