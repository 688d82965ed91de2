"""Carries an engine's events to the callers, and their cancellations back."""

import queue
import threading
import time
from collections import deque
from collections.abc import Callable
from functools import partial
from typing import Final, Protocol

from deploykit.engine import Event, FinishReason
from deploykit.serve.answer import Answer, Outputs
from deploykit.serve.protocol import Query
from deploykit.serve.refusal import FAILED, GONE, LATE, Refusal

AGAIN: Final = 0.01
"""Seconds in which a request isn't looked at a second time: a look costs a tenth of a response."""
LOOK: Final = 0.05
"""Seconds between two looks at requests that have no event of their own yet: those that wait or prefill."""
LOOKS: Final = 32
"""Requests looked at then, in turn: a look takes 30 µs, and a thousand may wait."""
STUCK: Final = 10.0
"""Seconds in one turn after which the courier counts as dead: a response takes less than a millisecond."""

Batch = list[tuple["Delivery", Event | Refusal]]


class Sender(Protocol):
    """Where the responses to one request go."""

    def is_cancelled(self) -> bool:
        """Return whether the caller has gone or has cancelled."""
        ...

    def send(self, outputs: Outputs, *, last: bool) -> None:
        """Send a response."""
        ...

    def fail(self, refusal: Refusal) -> None:
        """Send an error as the last response."""
        ...

    def close(self) -> None:
        """Say that there is no further response."""
        ...


class Cancellable(Protocol):
    """A request that the engine runs."""

    def cancel(self) -> None:
        """Free its rows; an event with the reason `cancelled` follows for each."""
        ...


class Delivery:
    """One request on its way."""

    def __init__(self, sender: Sender, query: Query, *, n: int = 1) -> None:
        self.sender = sender
        self.query = query
        self.answer = Answer(query, n=n)
        self.arrived = time.monotonic()
        self.request: Cancellable | None = None
        self.unwanted = False
        """Whether nobody waits for it any more, and the engine is to stop."""
        self.looked = 0.0
        """When its caller was last found to be there."""
        self.closed = False
        """Whether its last response has been sent, or tried."""
        self.refusal: Refusal | None = None
        """Why its caller gets no answer, or no whole one."""


class Courier:
    """One thread that sends every response, so that the engine's own never waits for Triton.

    The engine's events are handed over once a step, and what has come for a request by the time its turn comes goes
    out as one response: under load there are fewer of them, and none waits.
    """

    def __init__(
        self,
        *,
        on_change: Callable[[int], None],
        on_failure: Callable[[Exception], None],
        on_end: Callable[[Delivery], None] = lambda _: None,
    ) -> None:
        """Start the thread.

        Args:
            on_change: told how many requests are open, from any thread.
            on_failure: told of what went wrong.
            on_end: told of each request that was taken, after its last response and from the courier's thread.
        """
        self._on_change = on_change
        self._on_end = on_end
        self._on_failure = on_failure
        self._batch: Batch = []
        """Events of the step that runs; the engine's thread alone touches it."""
        self._batches: queue.SimpleQueue[Batch] = queue.SimpleQueue()
        self._leaving: deque[tuple[Delivery, list[Event | Refusal]]] = deque()
        """Events of requests that nobody waits for: others go first, and so does looking for more of those."""
        self._open: dict[int, Delivery] = {}
        self._rota = 0
        self._turn = time.monotonic()
        self._closing = False
        self._thread = threading.Thread(target=self._run, name="courier", daemon=True)
        self._thread.start()

    def take(self, delivery: Delivery, submit: Callable[[Callable[[Event], None]], Cancellable]) -> None:
        """Submit a request whose events are then delivered; what `submit` raises passes through."""
        self._open[id(delivery)] = delivery
        self._on_change(len(self._open))
        try:
            delivery.request = submit(lambda event: self._batch.append((delivery, event)))
        except BaseException:
            self._forget(delivery)
            raise
        if delivery.unwanted:
            # Its first event came before this: the courier found nothing to cancel, and may never look again.
            delivery.request.cancel()

    def refuse(self, delivery: Delivery, refusal: Refusal) -> None:
        """End a request that was taken and that the engine will not run; any thread may call."""
        self._batches.put([(delivery, refusal)])

    def step(self) -> None:
        """Hand over the events of a step, from the engine's thread."""
        if self._batch:
            self._batches.put(self._batch)
            self._batch = []

    def open_requests(self) -> int:
        """Return how many requests have not had their last response."""
        return len(self._open)

    def is_alive(self) -> bool:
        """Return whether responses are still carried."""
        return self._thread.is_alive() and time.monotonic() - self._turn < STUCK

    def close(self) -> None:
        """Deliver what is there, and end."""
        self._closing = True
        self._thread.join()

    def _run(self) -> None:
        looked, pause = 0.0, LOOK
        while not (self._closing and self._batches.empty() and not self._leaving):
            self._turn = time.monotonic()
            gone = False
            for delivery, events in self._next(0 if self._leaving else pause).items():
                if delivery.unwanted:
                    self._leaving.append((delivery, events))
                    continue
                self._guard(delivery, partial(self._deliver, delivery, events))
                gone = self._look(delivery) or gone
            if gone or self._turn - looked > pause:
                looked = self._turn
                pause = AGAIN if self._look_around() else LOOK
            for _ in range(min(LOOKS, len(self._leaving))):
                delivery, events = self._leaving.popleft()
                self._guard(delivery, partial(self._deliver, delivery, events))

    def _next(self, pause: float) -> dict[Delivery, list[Event | Refusal]]:
        """Return the events that have come, by request; where there are none, wait `pause` seconds for some."""
        found: dict[Delivery, list[Event | Refusal]] = {}
        try:
            batch = self._batches.get(timeout=pause)
            while True:
                for delivery, event in batch:
                    found.setdefault(delivery, []).append(event)
                batch = self._batches.get_nowait()
        except queue.Empty:
            return found

    def _guard(self, delivery: Delivery, act: Callable[[], None]) -> None:
        """Act; a failure ends that delivery and no other."""
        try:
            act()
        except Exception as error:
            self._on_failure(error)
            self._drop(delivery)

    def _deliver(self, delivery: Delivery, events: list[Event | Refusal]) -> None:
        told = [event for event in events if isinstance(event, Event)]
        # A refusal comes alone: the engine has never had the request.
        refusal = None if told else next(event for event in events if isinstance(event, Refusal))
        outputs = delivery.answer.add(told)
        finished = delivery.answer.finished or refusal is not None
        try:
            if not delivery.closed:
                refusal = refusal or _refusal_of({event.finish_reason for event in told})
                self._respond(delivery, outputs, refusal, last=finished)
        finally:
            if finished:
                self._forget(delivery)
                self._on_end(delivery)

    def _respond(self, delivery: Delivery, outputs: Outputs | None, refusal: Refusal | None, *, last: bool) -> None:
        """Send what is due. Where a choice has failed, or waited too long, that ends the whole request."""
        if delivery.unwanted:
            refusal = GONE
        delivery.refusal = refusal
        delivery.closed = last or refusal not in (None, GONE)
        if refusal is GONE:
            if last:
                delivery.sender.close()
        elif refusal:
            delivery.sender.fail(refusal)
        elif outputs is not None:
            delivery.sender.send(outputs, last=last)
        if delivery.closed and not last:
            self._drop(delivery)

    def _look_around(self) -> bool:
        """Look at some requests, in turn, and go on while callers have gone: a lost connection takes many with it.

        Return whether any has gone.
        """
        deliveries = [delivery for delivery in list(self._open.values()) if not delivery.unwanted]
        start = self._rota % max(1, len(deliveries))
        turn = deliveries[start:] + deliveries[:start]
        found = False
        for begin in range(0, len(turn), LOOKS):
            self._rota += LOOKS
            if not sum([self._look(delivery) for delivery in turn[begin : begin + LOOKS]]):
                break
            found = True
        return found

    def _look(self, delivery: Delivery) -> bool:
        """Return whether the caller is found to have gone; then the request is dropped."""
        now = time.monotonic()
        if delivery.closed or now - delivery.looked < AGAIN:
            return False
        delivery.looked = now
        gone = False
        try:
            gone = not delivery.unwanted and delivery.sender.is_cancelled()
        except Exception as error:
            self._on_failure(error)
            gone = True
        if gone or delivery.unwanted:
            self._drop(delivery)
        return gone

    def _drop(self, delivery: Delivery) -> None:
        delivery.unwanted = True
        # Not there yet while it is being submitted: the next look comes soon.
        if delivery.request is not None:
            delivery.request.cancel()

    def _forget(self, delivery: Delivery) -> None:
        self._open.pop(id(delivery), None)
        self._on_change(len(self._open))


def _refusal_of(reasons: set[FinishReason | None]) -> Refusal | None:
    """Return why a request ends whose choices have ended so."""
    known: dict[FinishReason, Refusal] = {"error": FAILED, "timeout": LATE, "cancelled": GONE}
    return next((refusal for reason, refusal in known.items() if reason in reasons), None)
