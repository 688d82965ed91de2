"""Carries an engine's events to the callers, and their cancellations back."""

import queue
import threading
import time
from collections.abc import Callable
from functools import partial
from typing import Final, Protocol

from deploykit.engine import Event, FinishReason
from deploykit.serve.answer import Answer, Outputs
from deploykit.serve.protocol import Query

AGAIN: Final = 0.01
"""Seconds in which a request isn't looked at a second time: a look costs a tenth of a response."""
LOOK: Final = 0.05
"""Seconds between two looks at requests that have no event of their own yet: those that wait or prefill."""
LOOKS: Final = 32
"""Requests looked at then, in turn: a look takes 30 µs, and a thousand may wait."""
STUCK: Final = 10.0
"""Seconds in one turn after which the courier counts as dead: a response takes less than a millisecond."""

Batch = list[tuple["Delivery", Event]]


class Sender(Protocol):
    """Where the responses to one request go."""

    def is_cancelled(self) -> bool:
        """Return whether the caller has gone or has cancelled."""
        ...

    def send(self, outputs: Outputs, *, last: bool) -> None:
        """Send a response."""
        ...

    def fail(self, message: str) -> None:
        """Send an internal error as the last response."""
        ...

    def expire(self, message: str) -> None:
        """Send as the last response that the request waited too long."""
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
        self.answer = Answer(query, n=n)
        self.request: Cancellable | None = None
        self.unwanted = False
        """Whether nobody waits for it any more, and the engine is to stop."""
        self.looked = 0.0
        """When its caller was last found to be there."""
        self.closed = False
        """Whether its last response has been sent, or tried."""


class Courier:
    """One thread that sends every response, so that the engine's own never waits for Triton.

    The engine's events are handed over once a step, and what has come for a request by the time its turn comes goes
    out as one response: under load there are fewer of them, and none waits.
    """

    def __init__(self, *, on_change: Callable[[int], None], on_failure: Callable[[Exception], None]) -> None:
        self._on_change = on_change
        self._on_failure = on_failure
        self._batch: Batch = []
        """Events of the step that runs; the engine's thread alone touches it."""
        self._batches: queue.SimpleQueue[Batch] = queue.SimpleQueue()
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
        looked = 0.0
        while not (self._closing and self._batches.empty()):
            self._turn = time.monotonic()
            gone = False
            for delivery, events in self._next().items():
                self._guard(delivery, partial(self._deliver, delivery, events))
                gone = self._look(delivery) or gone
            if gone or self._turn - looked > LOOK:
                looked = self._turn
                self._look_around()

    def _next(self) -> dict[Delivery, list[Event]]:
        """Return the events that have come, by request; where there are none, wait a moment for some."""
        found: dict[Delivery, list[Event]] = {}
        try:
            batch = self._batches.get(timeout=LOOK)
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

    def _deliver(self, delivery: Delivery, events: list[Event]) -> None:
        outputs = delivery.answer.add(events)
        finished = delivery.answer.finished
        try:
            if not delivery.closed:
                self._respond(delivery, outputs, {event.finish_reason for event in events}, last=finished)
        finally:
            if finished:
                self._forget(delivery)

    def _respond(
        self, delivery: Delivery, outputs: Outputs | None, reasons: set[FinishReason | None], *, last: bool
    ) -> None:
        """Send what is due. Where a choice has failed, or waited too long, that ends the whole request."""
        delivery.closed = last or not reasons.isdisjoint(("error", "timeout"))
        if "error" in reasons:
            delivery.sender.fail("the model failed on this request; the server's log says more")
        elif "timeout" in reasons:
            delivery.sender.expire("the request waited longer than its timeout and was not run")
        elif delivery.unwanted or "cancelled" in reasons:
            if last:
                delivery.sender.close()
        elif outputs is not None:
            delivery.sender.send(outputs, last=last)
        if delivery.closed and not last:
            self._drop(delivery)

    def _look_around(self) -> None:
        """Look at some requests, in turn, and go on while callers have gone: a lost connection takes many with it."""
        deliveries = list(self._open.values())
        start = self._rota % max(1, len(deliveries))
        turn = deliveries[start:] + deliveries[:start]
        for begin in range(0, len(turn), LOOKS):
            self._rota += LOOKS
            if not sum([self._look(delivery) for delivery in turn[begin : begin + LOOKS]]):
                break

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
