"""The course of a call, written once for every kind of client and transport. No I/O in it.

A call is a generator of **steps**: what is to be done next. A driver performs each (`stream.py` waiting in its thread,
`async_stream.py` in an event loop) and sends back what came of it, or throws the `ClientError` that did. What a
streaming call yields beside steps are the pieces of the answer.
"""

import random
import time
from collections.abc import Generator
from dataclasses import dataclass, field
from typing import Any, Final, TypeVar

from deploykit.client.answer import Answer, Reader
from deploykit.client.errors import ClientError, UnavailableError
from deploykit.client.faults import in_mid_stream
from deploykit.client.retry import TRIES, Budget, waits
from deploykit.client.values import Chunk

Result = TypeVar("Result")


@dataclass(slots=True)
class Request:
    """What is sent, in the words of a transport."""

    method: str
    """The name or the path of what is called."""
    body: Any = None
    """A protobuf message, or what becomes JSON; None where there is nothing to send."""
    headers: dict[str, str] = field(default_factory=dict)
    """What goes along outside of the body; lower-case names."""


class Step:
    """Something a driver is to do."""

    __slots__ = ()


@dataclass(slots=True)
class Ask(Step):
    """Send a request and wait for its one reply, which is sent back."""

    request: Request
    timeout: float


@dataclass(slots=True)
class Open(Step):
    """Send a request whose answer comes in parts; nothing is sent back."""

    request: Request
    timeout: float


@dataclass(slots=True)
class Wait(Step):
    """Do nothing for a while; nothing is sent back."""

    seconds: float


class Receive(Step):
    """Wait for the next part of the answer, which is sent back; None where there are no more."""

    __slots__ = ()


RECEIVE: Final = Receive()

Asking = Generator[Ask | Wait, Any, Result]
"""Steps that lead to a result."""
Answering = Generator[Ask | Open | Receive | Wait | Chunk, Any, None]
"""Steps, and the pieces of an answer between them."""


@dataclass(kw_only=True)
class Attempts:
    """The further attempts of one call: few, within its deadline, and within the client's budget."""

    budget: Budget
    deadline: float
    """Of `time.monotonic()`."""
    tries: int = TRIES

    def __post_init__(self) -> None:
        self.budget.earn()
        self._waits = waits(random.Random(), self.tries)

    @property
    def left(self) -> float:
        """Seconds until the deadline; gRPC takes 0 and less for one that has passed."""
        return self.deadline - time.monotonic()

    def pause(self, least: float = 0.0) -> float | None:
        """Return the seconds to wait before the next attempt, `least` at least; None where there must be none."""
        wait = next(self._waits, None)
        # What the server asks for comes before the random part: all who were refused together wait differently long.
        if wait is None or least + wait >= self.left or not self.budget.spend():
            return None
        return least + wait

    def wait_after(self, fault: ClientError) -> "Wait":
        """Return the pause before the next attempt after a fault; the fault itself is raised where there is none."""
        pause = self.pause(getattr(fault, "retry_after", None) or 0.0)
        if pause is None:
            # The message says it all; the frames of the transport add nothing.
            raise fault from None
        return Wait(pause)


def ask(request: Request, attempts: Attempts) -> Asking[Any]:
    """Return the reply to a request, which is sent again where nobody was there to take it.

    Raises:
        ClientError: the last attempt failed.
    """
    while True:
        try:
            return (yield Ask(request, attempts.left))
        except UnavailableError as fault:
            pause = attempts.wait_after(fault)
        yield pause


def receive(request: Request, attempts: Attempts, *, reader: Reader, answer: Answer, url: str) -> Answering:
    """Yield the pieces of the answer to a request, which is sent again only before the first of them.

    Raises:
        ClientError: the last attempt failed, or the answer broke off; with the text so far.
    """
    while True:
        fault: ClientError
        try:
            yield Open(request, attempts.left)
            while (message := (yield RECEIVE)) is not None:
                yield from reader.read(message, answer)
            fault = UnavailableError(f"{url}: the server ended the stream before the answer was complete")
        except ClientError as caught:
            fault = caught
        if answer.finished:
            # Whatever came after the last piece, nothing is missing.
            return
        if answer.begun:
            raise in_mid_stream(fault, text=answer.text, tokens=answer.num_output_tokens) from None
        if not isinstance(fault, UnavailableError):
            raise fault from None
        yield attempts.wait_after(fault)
