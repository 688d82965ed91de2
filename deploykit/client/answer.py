"""An answer in text, put together from what has arrived of it. Pure: no I/O, and of no transport."""

from collections.abc import Sequence
from typing import Any, Protocol

from deploykit.client.values import Choice, Chunk, Completion, FinishReason, TokenLogprob


class Reader(Protocol):
    """Reads a server's messages into the pieces of an answer."""

    def read(self, message: Any, answer: "Answer") -> Sequence[Chunk]:
        """Return the pieces that a message brings, having added them to the answer.

        Raises:
            ClientError: the message says so, or can't be read.
        """


class Answer:
    """An answer as far as it has arrived."""

    def __init__(self, n: int = 1) -> None:
        self._choices: dict[int, _Choice] = {}
        self._open = n
        self.num_input_tokens = 0
        self.total_tokens = 0
        """The server's own count of all choices' tokens; 0 where it hasn't told."""

    @property
    def begun(self) -> bool:
        """Whether anything has arrived."""
        return bool(self._choices)

    @property
    def finished(self) -> bool:
        """Whether every choice has ended."""
        return self._open <= 0

    @property
    def text(self) -> str:
        """The text so far, of the first choice."""
        return "".join(self._choices[0].texts) if 0 in self._choices else ""

    @property
    def num_output_tokens(self) -> int:
        """Tokens so far, of all choices together."""
        return self.total_tokens or sum(choice.tokens for choice in self._choices.values())

    def ended(self, index: int) -> bool:
        """Return whether a choice has ended."""
        return index in self._choices and self._choices[index].finish_reason is not None

    def add(
        self,
        index: int,
        text: str,
        *,
        tokens: int,
        finish_reason: FinishReason | None,
        logprobs: tuple[TokenLogprob, ...] = (),
    ) -> Chunk:
        """Return the next piece of a choice: `tokens` more tokens, and why it ends, if it does."""
        choice = self._choices.get(index)
        if choice is None:
            choice = self._choices[index] = _Choice()
        choice.texts.append(text)
        choice.tokens += tokens
        if logprobs:
            choice.logprobs += logprobs
        if finish_reason is not None:
            choice.finish_reason = finish_reason
            self._open -= 1
        return Chunk(
            text=text,
            finish_reason=finish_reason,
            num_input_tokens=self.num_input_tokens,
            num_output_tokens=choice.tokens,
            index=index,
            logprobs=logprobs,
        )

    def count(self, *, num_input_tokens: int, num_output_tokens: int) -> None:
        """Take the server's own count of the whole answer's tokens for the right one."""
        self.num_input_tokens = num_input_tokens
        self.total_tokens = num_output_tokens

    def tokens_of(self, index: int) -> int:
        """Return the tokens of a choice so far."""
        return self._choices[index].tokens if index in self._choices else 0

    def completion(self) -> Completion:
        """Return the answer as a whole."""
        choices = tuple(choice.value(index) for index, choice in sorted(self._choices.items()))
        first = choices[0] if choices else _Choice().value(0)
        return Completion(
            text=first.text,
            finish_reason=first.finish_reason,
            num_input_tokens=self.num_input_tokens,
            num_output_tokens=self.num_output_tokens,
            logprobs=first.logprobs,
            choices=choices,
        )


class _Choice:
    """One of an answer's choices as far as it has arrived."""

    __slots__ = ("finish_reason", "logprobs", "texts", "tokens")

    def __init__(self) -> None:
        self.texts: list[str] = []
        self.tokens = 0
        self.finish_reason: FinishReason | None = None
        self.logprobs: list[TokenLogprob] = []

    def value(self, index: int) -> Choice:
        return Choice(
            index=index,
            text="".join(self.texts),
            finish_reason=self.finish_reason,
            num_output_tokens=self.tokens,
            logprobs=tuple(self.logprobs),
        )
