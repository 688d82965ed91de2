"""Many prompts at once: which is next, where the answers go, and what a failure means. No waiting in it."""

import threading
from collections.abc import Iterable, Mapping
from typing import Any, Final, Protocol

from deploykit.client.errors import ClientError, InvalidRequestError
from deploykit.client.sampling import Options
from deploykit.client.values import Completion

CONCURRENCY: Final = 16
"""Prompts asked at a time: as many as an engine runs side by side by default."""


ALL_THERE_IS: Final = 2**31 - 1
"""A limit in tokens above any context's: an answer then ends by itself, or where the context is full."""


class Stream(Protocol):
    """What can be given up."""

    def cancel(self) -> None:
        """Give it up."""


class Batch:
    """Prompts that workers take in turn, and their answers in the prompts' order; safe to use from several threads."""

    def __init__(self, prompts: Iterable[Any], *, concurrency: object, return_errors: bool) -> None:
        if isinstance(concurrency, bool) or not isinstance(concurrency, int) or concurrency < 1:
            raise InvalidRequestError(f"concurrency must be at least 1, got {concurrency!r}")
        if isinstance(prompts, str | bytes) or not isinstance(prompts, Iterable):
            raise InvalidRequestError(f"prompts must be a list of prompts, got {type(prompts).__name__}")
        self._prompts = list(prompts)
        self._return_errors = return_errors
        self._lock = threading.Lock()
        self._next = 0
        self._answers: dict[int, Completion | ClientError] = {}
        self._streams: set[Stream] = set()
        self._fault: BaseException | None = None
        self.workers = min(concurrency, len(self._prompts))
        """How many should work on it."""

    def take(self) -> tuple[int, Any] | None:
        """Return the next prompt and its place; None where there are no more, or one has failed."""
        with self._lock:
            if self._fault is not None or self._next == len(self._prompts):
                return None
            self._next += 1
            return self._next - 1, self._prompts[self._next - 1]

    def begin(self, stream: Stream) -> None:
        """Have a stream cancelled if another one fails."""
        with self._lock:
            self._streams.add(stream)
            if self._fault is None:
                return
        stream.cancel()

    def end(self, place: int, outcome: Completion | ClientError, stream: Stream | None) -> None:
        """Take an answer, or the failure that stands for it: the first one ends the batch, unless they are wanted."""
        with self._lock:
            if stream is not None:
                self._streams.discard(stream)
            self._answers[place] = outcome
        if isinstance(outcome, ClientError) and not self._return_errors:
            named = type(outcome)(f"prompts[{place}]: {outcome}", text=outcome.text)
            self.stop(named)

    def stop(self, fault: BaseException) -> None:
        """End the batch: what runs is cancelled, and nothing more is begun."""
        with self._lock:
            if self._fault is None:
                self._fault = fault
            streams = tuple(self._streams)
        for stream in streams:
            stream.cancel()

    def answers(self) -> list[Any]:
        """Return the answers in the order of their prompts.

        Raises:
            ClientError: the first failure, named by its place.
        """
        if self._fault is not None:
            raise self._fault
        return [self._answers[place] for place in range(len(self._prompts))]


def for_one_text(options: Options) -> Options:
    """Return the options of a call whose answer is a text, as long as the model makes it where nobody says.

    Raises:
        InvalidRequestError: they ask for several, or for what is no text.
    """
    # Neither is among the options, but a caller whom no type checker tells would get an empty text for an answer.
    if other := next((name for name in ("stream", "return_errors") if options.get(name)), None):
        raise InvalidRequestError(f"translate returns nothing but texts, and so has no {other}; call generate or batch")
    if options.get("n", 1) not in (1, None):
        raise InvalidRequestError(f"translate returns one text, and n is {options['n']!r}; call generate")
    return options if options.get("max_tokens") is not None else {**options, "max_tokens": ALL_THERE_IS}


def numbered(options: Mapping[str, Any], place: int) -> dict[str, Any]:
    """Return the options of one of many calls: a request id must name one of them only."""
    given = options.get("request_id")
    return {**options, "request_id": f"{given}-{place}"} if isinstance(given, str) else dict(options)
