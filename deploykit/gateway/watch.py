"""What comes of one request: the endpoints tell it; the log, the metrics and the span are made of it."""

import time
from contextvars import ContextVar
from typing import Final

from prometheus_client import Counter, Histogram
from starlette.types import Scope

from deploykit.gateway.metrics import Metrics

REASONS: Final = frozenset({"stop", "length", "tool_calls", "cancelled", "timeout", "error"})
"""How an answer can end, as the metrics count it; whatever else there is counts as `other`."""


class RequestWatch:
    """Counts and times one request. An endpoint calls `begin` once, `token` as they come, and `end` for each choice."""

    def __init__(self, metrics: Metrics | None = None, *, keep_prompt: bool = False) -> None:
        self._metrics, self._keep_prompt = metrics, keep_prompt
        self._last: dict[int, float] = {}
        """When each choice's last token came."""
        self._next: Histogram | None = None
        self._generated: Counter | None = None
        self._choices = 0
        self._closed = False
        self.began: Final = time.monotonic()
        self.first_token: float | None = None
        """Seconds from the request's head to the first token."""
        self.model = ""
        self.wanted = ""
        """The model that was asked for, one that is served; known before it is begun with."""
        self.prompt_tokens = self.generated_tokens = 0
        self.prompt: str | None = None
        self.reasons: list[str] = []
        """How the choices ended that have."""

    def begin(self, model: str, *, prompt_tokens: int, choices: int = 1) -> None:
        """Note that the request goes to `model`, one that is served, and will have so many answers."""
        self.model, self.prompt_tokens, self._choices = model, prompt_tokens, choices
        if self._metrics:
            # Looked up once: for each token it would cost more than all else.
            self._next = self._metrics.next_token.labels(model)
            self._generated = self._metrics.generation_tokens.labels(model)
            self._metrics.prompt_tokens.labels(model).inc(prompt_tokens)
            self._metrics.running.labels(model).inc()

    def say(self, prompt: str) -> None:
        """Note the prompt, for the log where prompts may stand in it; elsewhere it is dropped at once."""
        if self._keep_prompt:
            self.prompt = prompt

    def token(self, count: int = 1, *, choice: int = 0) -> None:
        """Note that tokens of a choice have come just now, at once."""
        if count < 1:
            return
        now = time.monotonic()
        last, self._last[choice] = self._last.get(choice), now
        if self.first_token is None:
            self.first_token = now - self.began
            if self._metrics:
                self._metrics.first_token.labels(self.model).observe(self.first_token)
        if self._next and last is not None:
            for _ in range(count):
                self._next.observe((now - last) / count)
        self.whole(count)

    def whole(self, count: int) -> None:
        """Note tokens that have come all together at the end, which says nothing of when each was made."""
        self.generated_tokens += count
        if self._generated:
            self._generated.inc(count)

    def end(self, reason: str) -> None:
        """Note how a choice has ended; one that has no end when the request is over counts as cancelled."""
        known = reason if reason in REASONS else "other"
        self.reasons.append(known)
        if self._metrics:
            self._metrics.finished.labels(self.model, known).inc()

    def close(self, unfinished: str = "cancelled") -> None:
        """Note that the request is over; `unfinished` is how choices without an end have ended."""
        if self._closed or not self._choices:
            return
        self._closed = True
        for _ in range(self._choices - len(self.reasons)):
            self.end(unfinished)
        if self._metrics:
            self._metrics.running.labels(self.model).dec()
            self._metrics.whole_request.labels(self.model).observe(time.monotonic() - self.began)


current_watch: ContextVar[RequestWatch | None] = ContextVar("current_watch", default=None)
"""The watch over the request that the running code works on."""


def note_model(name: str) -> None:
    """Note which model the current request is for, should it be refused before an engine is asked."""
    if watch := current_watch.get():
        watch.wanted = name


def watch_of(scope: Scope) -> RequestWatch:
    """Return the watch over a request; one that tells nobody where there is none, as in a bare application."""
    watch = scope.get("state", {}).get("watch")
    return watch if isinstance(watch, RequestWatch) else RequestWatch()
