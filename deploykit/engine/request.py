"""A request on its way: tokens go in, events come out."""

import weakref
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from deploykit.engine.job import Job
from deploykit.engine.metrics import FinishReason, Stopwatch, Timing
from deploykit.engine.params import SamplingParams
from deploykit.engine.sampling import Choice, Sampler
from deploykit.engine.text import Codec, Detokenizer, StopGate


@dataclass(frozen=True, kw_only=True)
class TokenLogprob:
    """How likely the model held a token, and what it held likelier; by itself, before temperature and the like."""

    token_id: int
    token: str
    """The token's own text."""
    logprob: float
    """In nats."""
    top: tuple[tuple[int, str, float], ...] = ()
    """The likeliest tokens, as many as were asked for: id, text, log probability."""


@dataclass(frozen=True, kw_only=True)
class Event:
    """What one more token brought, or how an answer ended."""

    index: int
    """Which of the request's `n` answers."""
    text: str
    """New text; empty while a character or a possible stop string is incomplete."""
    token_ids: tuple[int, ...]
    """New tokens; none where the answer ends between two."""
    logprobs: tuple[TokenLogprob, ...]
    """One for each new token, where asked for."""
    finish_reason: FinishReason | None
    """Set in an answer's last event only: an end-of-text token or stop string, the length limit, `cancel`, too long a
    wait, or a failure."""
    num_input_tokens: int
    num_output_tokens: int
    """So far, an end-of-text token included."""
    cumulative_logprob: float | None
    """Sum of the tokens' log probabilities so far, in nats, where `logprobs` were asked for."""
    error: str | None = None
    """One line on what failed, where `finish_reason` is `error`."""
    timing: Timing | None = None
    """When its stages began, in an answer's last event."""


@dataclass(frozen=True, kw_only=True)
class Completion:
    """A whole answer."""

    text: str
    token_ids: tuple[int, ...]
    logprobs: tuple[TokenLogprob, ...]
    finish_reason: FinishReason
    num_input_tokens: int
    num_output_tokens: int
    cumulative_logprob: float | None


Listener = Callable[[Event], None]


class Answer:
    """One of a request's answers: the tokens it has so far, told to a listener one by one."""

    def __init__(
        self,
        params: SamplingParams,
        *,
        index: int,
        job: Job,
        sampler: Sampler,
        watch: Stopwatch,
        room: int,
        eos: frozenset[int],
        codec: Codec | None,
        listener: Listener,
        request_id: str = "",
    ) -> None:
        """Begin an answer.

        Args:
            params: when to stop.
            index: which of the request's answers.
            job: its tokens, which are the prompt's so far.
            sampler: chooses its tokens.
            watch: times it.
            room: tokens that fit behind the prompt.
            eos: tokens that end it.
            codec: makes text of tokens, if the model has one.
            listener: told of each token.
            request_id: what its caller calls it, for logs.
        """
        self.request_id: Final = request_id
        self.job: Final = job
        self.sampler: Final = sampler
        self.finish_reason: FinishReason | None = None
        self._watch = watch
        self._timing: Timing | None = None
        self._index = index
        self._listener: Final = listener
        self._ends = (frozenset() if params.ignore_eos else eos) | frozenset(params.stop_token_ids)
        self._limit = min(params.max_tokens, room)
        self._least = params.min_tokens
        self._codec = codec
        self._text = Detokenizer(codec, job.tokens) if codec else None
        self._gate = StopGate(params.stop)
        self._num_input = len(job.source or job.tokens)
        self._num_output = 0
        self._logprob = None if params.logprobs is None else 0.0

    def begin(self) -> None:
        """Note that the model works on it; only the first call counts."""
        self._watch.begin()

    def add(self, choice: Choice) -> None:
        """Take the next token and tell of it."""
        self._watch.token()
        self.job.tokens.append(choice.token)
        self._num_output += 1
        text, reason = "", self._reason(choice.token)
        if self._text and reason != "stop":
            text = self._pass(self._text.push(choice.token))
        if reason:
            text += self._rest()
        self._finish("stop" if self._gate.closed else reason)
        self._tell(text, (choice.token,), self._logprobs(choice))

    def end(self, reason: FinishReason, error: str | None = None) -> None:
        """Finish before the answer has."""
        text = self._rest()
        self._finish(reason)
        self._tell(text, (), (), error)

    def abandon(self) -> None:
        """Finish without a word, if it hasn't yet: its listener can't be told."""
        if self.finish_reason is None:
            self._finish("error")

    def _finish(self, reason: FinishReason | None) -> None:
        self.finish_reason = reason
        if reason:
            self._timing = self._watch.end(reason)

    def _reason(self, token: int) -> FinishReason | None:
        """Return why the answer ends with `token`, whatever its text."""
        if token in self._ends:
            return "stop"
        return "length" if self._num_output >= self._limit else None

    def _pass(self, text: str) -> str:
        """Return what may be given out now; in the tokens that every answer has, no stop string counts."""
        return text if self._num_output <= self._least else self._gate.push(text)

    def _rest(self) -> str:
        """Return the text held back so far, now that nothing follows."""
        text = self._text.finish() if self._text else ""
        return text if self._num_output <= self._least else self._gate.finish(text)

    def _logprobs(self, choice: Choice) -> tuple[TokenLogprob, ...]:
        if choice.logprob is None or self._logprob is None:
            return ()
        self._logprob += choice.logprob
        return (
            TokenLogprob(
                token_id=choice.token,
                token=self._name(choice.token),
                logprob=choice.logprob,
                top=tuple((token, self._name(token), logprob) for token, logprob in choice.top),
            ),
        )

    def _name(self, token: int) -> str:
        return self._codec.name(token) if self._codec else ""

    def _tell(
        self, text: str, tokens: tuple[int, ...], logprobs: tuple[TokenLogprob, ...], error: str | None = None
    ) -> None:
        self._listener(
            Event(
                index=self._index,
                text=text,
                token_ids=tokens,
                logprobs=logprobs,
                finish_reason=self.finish_reason,
                num_input_tokens=self._num_input,
                num_output_tokens=self._num_output,
                cumulative_logprob=self._logprob,
                error=error,
                timing=self._timing,
            )
        )


class Request:
    """What `Engine.submit` returns: a handle to follow a request by, and to cancel it."""

    def __init__(self, answers: tuple[Answer, ...], *, on_cancel: "Callable[[Request], None]") -> None:
        self.answers: Final = answers
        # Weakly: who keeps a handle, or whose listener knows it, must not keep the memory of an engine that is closed.
        self._on_cancel: Final = weakref.WeakMethod(on_cancel)

    @property
    def finished(self) -> bool:
        """Whether every answer's last event has been made."""
        return all(answer.finish_reason is not None for answer in self.answers)

    def cancel(self) -> None:
        """End the request at the next step, from any thread; what has finished already isn't changed."""
        if not self.finished and (cancel := self._on_cancel()):
            cancel(self)
