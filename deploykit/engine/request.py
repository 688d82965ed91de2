"""A request on its way: tokens go in, events come out."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Literal

from deploykit.engine.params import SamplingParams
from deploykit.engine.sampling import Choice, Sampler
from deploykit.engine.scheduler import Job
from deploykit.engine.text import Codec, Detokenizer, StopGate

FinishReason = Literal["stop", "length", "cancelled", "error"]


@dataclass(frozen=True, kw_only=True)
class Event:
    """What one more token brought, or how the answer ended."""

    text: str
    """New text; empty while a character or a possible stop string is incomplete."""
    token_ids: tuple[int, ...]
    """New tokens; none where the answer ends between two."""
    finish_reason: FinishReason | None
    """Set in the last event only: an end-of-text token or stop string, the length limit, `cancel`, or a failure."""
    num_input_tokens: int
    num_output_tokens: int
    """So far, an end-of-text token included."""
    cumulative_logprob: float
    """Sum of the tokens' log probabilities so far, in nats, by the model itself (temperature 1)."""
    error: str | None = None
    """One line on what failed, where `finish_reason` is `error`."""


@dataclass(frozen=True, kw_only=True)
class Completion:
    """A whole answer."""

    text: str
    token_ids: tuple[int, ...]
    finish_reason: FinishReason
    num_input_tokens: int
    num_output_tokens: int
    cumulative_logprob: float


Listener = Callable[[Event], None]


class Answer:
    """The tokens an answer has so far, told to a listener one by one; it knows when it is finished."""

    def __init__(
        self,
        params: SamplingParams,
        *,
        prompt: list[int],
        room: int,
        eos: frozenset[int],
        codec: Codec | None,
        listener: Listener,
    ) -> None:
        self.finish_reason: FinishReason | None = None
        self._listener: Final = listener
        self._eos = frozenset() if params.ignore_eos else eos
        self._limit = min(params.max_tokens, room)
        self._text = Detokenizer(codec, prompt) if codec else None
        self._gate = StopGate(params.stop)
        self._num_input = len(prompt)
        self._num_output = 0
        self._logprob = 0.0

    def add(self, choice: Choice) -> None:
        """Take the next token and tell of it."""
        self._num_output += 1
        self._logprob += choice.logprob
        text, reason = "", self._reason(choice.token)
        if self._text and reason != "stop":
            text = self._gate.push(self._text.push(choice.token))
        if reason:
            text += self._rest()
        self.finish_reason = "stop" if self._gate.closed else reason
        self._tell(text, (choice.token,))

    def end(self, reason: FinishReason, error: str | None = None) -> None:
        """Finish before the answer has."""
        text = self._rest()
        self.finish_reason = reason
        self._tell(text, (), error)

    def _reason(self, token: int) -> FinishReason | None:
        """Return why the answer ends with `token`, whatever its text."""
        if token in self._eos:
            return "stop"
        return "length" if self._num_output >= self._limit else None

    def _rest(self) -> str:
        """Return the text held back so far, now that nothing follows."""
        return self._gate.finish(self._text.finish()) if self._text else ""

    def _tell(self, text: str, tokens: tuple[int, ...], error: str | None = None) -> None:
        self._listener(
            Event(
                text=text,
                token_ids=tokens,
                finish_reason=self.finish_reason,
                num_input_tokens=self._num_input,
                num_output_tokens=self._num_output,
                cumulative_logprob=self._logprob,
                error=error,
            )
        )


class Request:
    """What `Engine.submit` returns: a handle to follow a request by, and to cancel it."""

    def __init__(self, *, job: Job, sampler: Sampler, answer: Answer, on_cancel: "Callable[[Request], None]") -> None:
        self.job: Final = job
        self.sampler: Final = sampler
        self.answer: Final = answer
        self._on_cancel: Final = on_cancel

    @property
    def finished(self) -> bool:
        """Whether the last event has been made."""
        return self.answer.finish_reason is not None

    def cancel(self) -> None:
        """End the request at the next step, from any thread; one that has finished already isn't changed."""
        self._on_cancel(self)
