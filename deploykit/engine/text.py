"""Text to tokens and back: prompts encoded whole, answers decoded as they come."""

import re
from collections.abc import Sequence
from numbers import Integral
from pathlib import Path
from typing import Final, Self

from tokenizers import Tokenizer

from deploykit.errors import ArtifactError, RequestError

_BYTE_TOKEN: Final = re.compile(r"<0x[0-9A-Fa-f]{2}>")
_INCOMPLETE: Final = "\ufffd"
"""What a decoder gives for bytes that are no whole character."""
_CONTEXT: Final = 4
"""Tokens kept before those being decoded: a UTF-8 character is 4 bytes at most, and a token one byte at least."""


class Codec:
    """A tokenizer as the engine uses it."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        # What a tokenizer.json says about cutting and padding is meant for training.
        tokenizer.no_truncation()
        tokenizer.no_padding()
        self._tokenizer = tokenizer
        added = tokenizer.get_added_tokens_decoder()
        self.silent = frozenset(token for token, entry in added.items() if entry.special)
        """Special tokens: they have no text."""
        vocabulary = tokenizer.get_vocab()
        self.longest = max(map(len, vocabulary), default=1)
        """Characters of the longest token."""
        # A decoder's pickled state is its part of tokenizer.json; nothing else tells what it is made of.
        falls_back = tokenizer.decoder is not None and b"ByteFallback" in tokenizer.decoder.__getstate__()
        self.byte_tokens = frozenset(
            token for text, token in vocabulary.items() if falls_back and _BYTE_TOKEN.fullmatch(text)
        )
        """Tokens that stand for one byte; a run of them is decoded as one."""
        self._names: dict[int, str] = {}

    @classmethod
    def open(cls, file: Path) -> Self:
        """Read a `tokenizer.json`.

        Raises:
            ArtifactError: it isn't one.
        """
        try:
            return cls(Tokenizer.from_file(str(file)))
        except Exception as error:  # tokenizers raises nothing more particular
            raise ArtifactError(f"{file.name} can't be read: {error}; export the checkpoint again") from error

    def encode(self, text: str, *, add_special_tokens: bool = True) -> list[int]:
        """Return a prompt's tokens, by default with those that the tokenizer adds itself (such as a first <s>).

        Raises:
            RequestError: the text holds half a surrogate pair, so it is no text.
        """
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise RequestError(
                f"the prompt is not valid text: a lone surrogate at character {error.start}; send it as UTF-8"
            ) from None
        return list(self._tokenizer.encode(text, add_special_tokens=add_special_tokens).ids)

    def spell(self, text: str) -> list[int]:
        """Return the tokens of a piece of text, without those that the tokenizer adds at a prompt's ends."""
        return list(self._tokenizer.encode(text, add_special_tokens=False).ids)

    def decode(self, tokens: list[int]) -> str:
        """Return the text of tokens, specials left out."""
        return str(self._tokenizer.decode(tokens, skip_special_tokens=True))

    def name(self, token: int) -> str:
        """Return the text of a token that stands between others; replacement characters for a part of a character."""
        if token not in self._names:
            # Twice, less once: at a text's beginning some tokenizers drop a token's leading space.
            self._names[token] = self.decode([token, token])[len(self.decode([token])) :]
        return self._names[token]


def read_prompt(
    prompt: str | Sequence[int],
    codec: Codec | None,
    *,
    vocab_size: int,
    context: int,
    source: int | None = None,
    add_special_tokens: bool = True,
) -> list[int]:
    """Return a prompt's tokens.

    Args:
        prompt: a text, or token ids.
        codec: the model's tokenizer, if it has one.
        vocab_size: of the model.
        context: longest prompt and answer together, in tokens.
        source: longest prompt, where an encoder reads it; the context is its answer's alone then.
        add_special_tokens: whether a text gets those that the tokenizer adds itself.

    Raises:
        RequestError: it is empty, no valid text, not made of the model's tokens, or leaves no room for an answer.
    """
    if isinstance(prompt, str) and codec is None:
        raise RequestError("this model has no tokenizer; send the prompt as token ids")
    if not len(prompt):
        raise RequestError("the prompt is empty; send at least one character, or one token id")
    if isinstance(prompt, str):
        assert codec
        # A text so long that it can't fit isn't encoded first: that would take seconds.
        _check_room(len(prompt) // codec.longest, context, source, "at least ")
        tokens = codec.encode(prompt, add_special_tokens=add_special_tokens)
    else:
        _check_room(len(prompt), context, source)
        tokens = [_token(token) for token in prompt]
    if not tokens:
        raise RequestError("the prompt has no tokens once the tokenizer has cleaned it; send other text")
    _check_room(len(tokens), context, source)
    if (worst := max(tokens)) >= vocab_size or min(tokens) < 0:
        wrong = worst if worst >= vocab_size else min(tokens)
        raise RequestError(f"token id {wrong} is not one of the model's; ids are 0 to {vocab_size - 1}")
    return tokens


def _check_room(tokens: int, context: int, source: int | None, how_sure: str = "") -> None:
    if source is not None:
        if tokens > source:
            raise RequestError(
                f"the prompt has {how_sure}{tokens} tokens, but the encoder reads at most {source}; shorten it"
            )
    elif tokens >= context:
        raise RequestError(
            f"the prompt has {how_sure}{tokens} tokens, but the context of {context} leaves room for {context - 1}; "
            "shorten it"
        )


def _token(value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, Integral):
        raise RequestError(f"token ids must be integers, got {type(value).__name__}")
    return int(value)


class Detokenizer:
    """Decodes an answer token by token; together the pieces are what decoding it whole would add to the prompt's text.

    A piece is given out once later tokens can't change it: never a part of a character, and of a run of byte tokens
    nothing before its end, since one wrong byte there turns the whole run into replacement characters.
    """

    def __init__(self, codec: Codec, prompt: list[int]) -> None:
        self._codec = codec
        self._tokens: list[int] = []
        self._given = ""
        self._keep([token for token in prompt if token not in codec.silent])

    def push(self, token: int) -> str:
        """Return the text that has become final with `token`."""
        if token in self._codec.silent:
            return ""
        self._tokens.append(token)
        if token in self._codec.byte_tokens:
            return ""
        text = self._codec.decode(self._tokens)
        final = text.removesuffix(_INCOMPLETE)
        piece = self._give(final)
        if final == text:
            self._keep(self._tokens)
        return piece

    def finish(self) -> str:
        """Return what was held back."""
        return self._give(self._codec.decode(self._tokens))

    def _give(self, text: str) -> str:
        if not text.startswith(self._given):
            # A prompt of tokens may have ended inside a character, which the answer has completed by now.
            self._given = self._given.rstrip(_INCOMPLETE)
        piece = text[len(self._given) :]
        self._given += piece
        return piece

    def _keep(self, tokens: list[int]) -> None:
        """Start over behind `tokens`, of which only the last ones matter to what follows."""
        start = max(0, len(tokens) - _CONTEXT)
        while start and tokens[start] in self._codec.byte_tokens:
            start -= 1
        self._tokens = tokens[start:]
        self._given = self._codec.decode(self._tokens)


class StopGate:
    """Lets text through up to the first stop string, holding back what might be the beginning of one."""

    def __init__(self, stops: tuple[str, ...]) -> None:
        self._stops = stops
        self._held = ""
        self.closed = False
        """Whether a stop string has come."""

    def push(self, text: str) -> str:
        """Return what may be given out after `text` has come."""
        if not self._stops:
            return text
        text, self._held = self._held + text, ""
        ends = [(start + len(stop), start) for stop in self._stops if (start := text.find(stop)) >= 0]
        if ends:
            self.closed = True
            # The one complete first, as if characters had come one by one.
            return text[: min(ends)[1]]
        held = max(_overlap(text, stop) for stop in self._stops)
        self._held = text[len(text) - held :]
        return text[: len(text) - held]

    def finish(self, text: str) -> str:
        """Return what may be given out of the last text, and what was held back."""
        return "" if self.closed else self.push(text) + self._held


def _overlap(text: str, stop: str) -> int:
    """Return how many characters at the end of `text` are the beginning of `stop`."""
    most = min(len(text), len(stop) - 1)
    return next(size for size in range(most, -1, -1) if text.endswith(stop[:size]))
