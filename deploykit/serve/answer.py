"""What callers get: an engine's events to the outputs of a response. Pure, no Triton in it."""

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final, Protocol

from deploykit.engine import Timing
from deploykit.serve.protocol import Query

Outputs = Mapping[str, tuple[Any, ...]]
"""The elements of each output by name: texts, numbers."""

NO_REASON: Final = "None"
"""`finish_reason` of an answer that goes on, as Triton's vLLM backend gives it."""
_LEAST_LOGPROB: Final = -9999.0
"""What stands for an impossible token, as in vLLM's server: JSON has no infinity."""


class TokenStep(Protocol):
    """What an answer needs of a token's log probabilities."""

    @property
    def token_id(self) -> int: ...  # noqa: D102  # the engine's own documentation says what each is
    @property
    def token(self) -> str: ...  # noqa: D102
    @property
    def logprob(self) -> float: ...  # noqa: D102
    @property
    def top(self) -> Sequence[tuple[int, str, float]]: ...  # noqa: D102


class Step(Protocol):
    """What an answer needs of an engine's event."""

    @property
    def index(self) -> int: ...  # noqa: D102
    @property
    def text(self) -> str: ...  # noqa: D102
    @property
    def logprobs(self) -> Sequence[TokenStep]: ...  # noqa: D102
    @property
    def finish_reason(self) -> str | None: ...  # noqa: D102
    @property
    def num_input_tokens(self) -> int: ...  # noqa: D102
    @property
    def num_output_tokens(self) -> int: ...  # noqa: D102
    @property
    def cumulative_logprob(self) -> float | None: ...  # noqa: D102
    @property
    def timing(self) -> Timing | None: ...  # noqa: D102


class Answer:
    """The responses to one query, from the events of its choices."""

    def __init__(self, query: Query, *, n: int = 1) -> None:
        self._query = query
        self._choices = [_Choice(query.prefix) for _ in range(n)]
        self.num_input_tokens = 0
        self.timings: list[Timing] = []
        """Of the choices that have ended, in that order."""
        self._begun = False

    @property
    def finished(self) -> bool:
        """Whether every choice has had its last event."""
        return all(choice.finish_reason for choice in self._choices)

    @property
    def finish_reasons(self) -> tuple[str | None, ...]:
        """How each choice has ended."""
        return tuple(choice.finish_reason for choice in self._choices)

    @property
    def num_output_tokens(self) -> int:
        """Tokens of all choices so far."""
        return sum(choice.made for choice in self._choices)

    def add(self, steps: Iterable[Step]) -> Outputs | None:
        """Return the response that is due after these events, if one is.

        A stream's first response is due at once, a later one when a choice has `interval` tokens that nobody was told
        of; the last, and the only one where nothing is streamed, when every choice has ended.
        """
        for step in steps:
            self._choices[step.index].add(step)
            self.num_input_tokens = step.num_input_tokens
            if step.timing:
                self.timings.append(step.timing)
        return self._take() if self._is_due() else None

    def _is_due(self) -> bool:
        if not self._query.stream or self.finished:
            return self.finished
        if not self._begun:
            return True
        return max(choice.untold for choice in self._choices) >= self._query.interval

    def _take(self) -> Outputs:
        self._begun = True
        wanted, choices = self._query.wanted, self._choices
        outputs: dict[str, tuple[Any, ...]] = {}
        if "finish_reason" in wanted:
            outputs["finish_reason"] = tuple(choice.finish_reason or NO_REASON for choice in choices)
        if "cumulative_logprob" in wanted:
            outputs["cumulative_logprob"] = tuple(choice.cumulative_logprob for choice in choices)
        if "logprobs" in wanted:
            told = self._query.logprobs
            outputs["logprobs"] = tuple(_logprobs(choice.logprobs) if told else "null" for choice in choices)
        if "num_input_tokens" in wanted:
            outputs["num_input_tokens"] = (self.num_input_tokens,)
        if "num_output_tokens" in wanted:
            # As in Triton's vLLM backend: the tokens of this response, not of all so far.
            outputs["num_output_tokens"] = tuple(choice.untold for choice in choices)
        outputs["text_output"] = tuple(choice.take() for choice in choices)
        return outputs


class _Choice:
    """One of an answer's choices, as far as its caller wasn't told of it."""

    def __init__(self, prefix: str) -> None:
        self.finish_reason: str | None = None
        self.cumulative_logprob = 0.0
        self.logprobs: list[TokenStep] = []
        self._text = prefix
        self.made = self._told = 0

    @property
    def untold(self) -> int:
        """Tokens since the last response."""
        return self.made - self._told

    def add(self, step: Step) -> None:
        self._text += step.text
        self.made = step.num_output_tokens
        self.finish_reason = step.finish_reason
        self.logprobs += step.logprobs
        if step.cumulative_logprob is not None:
            self.cumulative_logprob = step.cumulative_logprob

    def take(self) -> str:
        """Return the text since the last response; the caller is told of everything now."""
        text, self._text = self._text, ""
        self._told = self.made
        self.logprobs = []
        return text


def _logprobs(tokens: Iterable[TokenStep]) -> str:
    """Return JSON as Triton's vLLM backend writes it: for each token, itself and the likeliest ones by id.

    The rank of a token is known only where it is among those.
    """
    return json.dumps([_candidates(token) for token in tokens])


def _candidates(token: TokenStep) -> dict[int, dict[str, Any]]:
    ranks = {token_id: rank for rank, (token_id, _, _) in enumerate(token.top, 1)}
    found = {token.token_id: _candidate(token.logprob, ranks.get(token.token_id), token.token)}
    for token_id, text, logprob in token.top:
        found.setdefault(token_id, _candidate(logprob, ranks[token_id], text))
    return found


def _candidate(logprob: float, rank: int | None, text: str) -> dict[str, Any]:
    return {"logprob": max(logprob, _LEAST_LOGPROB), "rank": rank, "decoded_token": text}
