"""What is known of a request once it has ended: for the log and for traces."""

import re
import time
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final, Literal, Self

from deploykit.serve.courier import Delivery
from deploykit.serve.prompt import Chat
from deploykit.serve.protocol import Query
from deploykit.serve.refusal import Refusal

Operation = Literal["text_completion", "chat"]
"""As OpenTelemetry's conventions for generative models call them."""
Stage = Literal["queue", "prefill", "decode"]

_TRACEPARENT: Final = re.compile(r"[0-9a-f]{2}-(?P<trace>[0-9a-f]{32})-[0-9a-f]{16}-[0-9a-f]{2}(-.*)?")
"""https://www.w3.org/TR/trace-context/#traceparent-header"""


@dataclass(frozen=True, kw_only=True)
class Record:
    """A request that has ended; times are those of `time.monotonic`."""

    request_id: str
    arrived: float
    ended: float
    query: Query | None = None
    """What was asked for; None where that couldn't be read."""
    refusal: Refusal | None = None
    """Why it has no answer, or no whole one."""
    num_input_tokens: int = 0
    num_output_tokens: int = 0
    """Of all choices together."""
    finish_reasons: tuple[str, ...] = ()
    """One for each choice; none where the engine hasn't had the request."""
    queued: float | None = None
    """When the engine got it, its prompt made tokens."""
    begun: float | None = None
    """When the model first worked on one of its choices."""
    first_token: float | None = None
    """When the first choice had its first token."""

    @classmethod
    def of(cls, delivery: Delivery) -> Self:
        """Return what is known of a request that was taken."""
        answer = delivery.answer
        timings = answer.timings
        return cls(
            request_id=delivery.query.request_id,
            arrived=delivery.arrived,
            ended=max((timing.ended for timing in timings), default=time.monotonic()),
            query=delivery.query,
            refusal=delivery.refusal,
            num_input_tokens=answer.num_input_tokens,
            num_output_tokens=answer.num_output_tokens,
            finish_reasons=tuple(reason for reason in answer.finish_reasons if reason),
            queued=min((timing.queued for timing in timings), default=None),
            begun=_earliest(timing.begun for timing in timings),
            first_token=_earliest(timing.first_token for timing in timings),
        )

    @property
    def status(self) -> str:
        """`OK`, or the name of the error's kind."""
        return self.refusal.code.value if self.refusal else "OK"

    @property
    def operation(self) -> Operation:
        """What was asked of the model."""
        return "chat" if self.query and isinstance(self.query.prompt, Chat) else "text_completion"

    @property
    def trace_id(self) -> str:
        """The caller's trace; empty where it has none."""
        found = _TRACEPARENT.fullmatch(self.query.traceparent) if self.query else None
        return found["trace"] if found else ""

    def stages(self) -> dict[Stage, tuple[float, float]]:
        """Return when each stage that was reached began and ended."""
        marks: list[tuple[Stage, float | None]] = [
            ("queue", self.queued),
            ("prefill", self.begun),
            ("decode", self.first_token),
        ]
        reached = [(stage, begun) for stage, begun in marks if begun is not None]
        moments = [*(begun for _, begun in reached), self.ended]
        return {stage: (begun, end) for (stage, begun), end in zip(reached, moments[1:], strict=True)}


def _earliest(moments: Iterable[float | None]) -> float | None:
    return min((moment for moment in moments if moment is not None), default=None)
