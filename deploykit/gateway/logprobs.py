"""Log probabilities in the two shapes that OpenAI's API has for them."""

from collections.abc import Sequence
from typing import Any, Final

from deploykit.client import TokenLogprob
from deploykit.gateway.vocabulary import Vocabulary

_INCOMPLETE: Final = "\ufffd"


def chat_logprobs(tokens: Sequence[TokenLogprob], vocabulary: Vocabulary) -> dict[str, Any]:
    """Return what a chat's choice says of its tokens."""
    content = [
        {**_named(token, vocabulary), "top_logprobs": [_named(other, vocabulary) for other in token.top]}
        for token in tokens
    ]
    return {"content": content, "refusal": None}


def _named(token: TokenLogprob, vocabulary: Vocabulary) -> dict[str, Any]:
    spelt = vocabulary.bytes_of(token.token_id, token.token)
    return {"token": token.token, "logprob": token.logprob, "bytes": list(spelt)}


def completion_logprobs(tokens: Sequence[TokenLogprob], vocabulary: Vocabulary, *, offset: int) -> dict[str, Any]:
    """Return what a completion's choice says of its tokens, the first of which begins at `offset` in its text."""
    offsets = []
    for token in tokens:
        offsets.append(offset)
        offset += len(token.token)
    return {
        "text_offset": offsets,
        "tokens": [_text(token, vocabulary) for token in tokens],
        "token_logprobs": [token.logprob for token in tokens],
        "top_logprobs": [_likeliest(token, vocabulary) for token in tokens],
    }


def length_of(tokens: Sequence[TokenLogprob]) -> int:
    """Return the characters of tokens, as their offsets count them."""
    return sum(len(token.token) for token in tokens)


def _likeliest(token: TokenLogprob, vocabulary: Vocabulary) -> dict[str, float]:
    """Return the likeliest tokens at a place by their text, and the chosen one even if it isn't among them."""
    found = {_text(other, vocabulary): other.logprob for other in reversed(token.top)}
    found = dict(reversed(found.items()))
    found.setdefault(_text(token, vocabulary), token.logprob)
    return found


def _text(token: TokenLogprob, vocabulary: Vocabulary) -> str:
    """Return a token's text; a part of a character as `bytes:` and escapes, as OpenAI writes it here."""
    if _INCOMPLETE not in token.token:
        return token.token
    return "bytes:" + "".join(f"\\x{byte:02x}" for byte in vocabulary.bytes_of(token.token_id, token.token))
