"""Carries an engine's events to the callers, and their cancellations back."""

import queue
import threading
import time
from collections.abc import Callable
from functools import partial
from typing import Final, Protocol

from deploykit.engine import Event
from deploykit.serve.protocol import Answer, Query, Tensors

LOOK: Final = 0.05
"""Seconds between two looks at requests that have no event of their own yet: those that wait or prefill."""
STUCK: Final = 10.0
"""Seconds in one turn after which the courier counts as dead: a response takes less than a millisecond."""


class Sender(Protocol):
    """Where the responses to one request go."""

    def is_cancelled(self) -> bool:
        """Return whether the caller has gone or has cancelled."""
        ...

    def send(self, tensors: Tensors, *, last: bool) -> None:
        """Send a response."""
        ...

    def fail(self, message: str) -> None:
        """Send an internal error as the last response."""
        ...

    def close(self) -> None:
        """Say that there is no further response."""
        ...


class Cancellable(Protocol):
    """A request that the engine runs."""

    def cancel(self) -> None:
        """Free its row; an event with the reason `cancelled` follows."""
        ...


class Delivery:
    """One request on its way."""

    def __init__(self, sender: Sender, query: Query) -> None:
        self.sender = sender
        self.answer = Answer(query)
        self.request: Cancellable | None = None
        self.unwanted = False


class Courier:
    """One thread that sends every response, so that the engine's own never waits for Triton."""

    def __init__(self, *, on_change: Callable[[int], None], on_failure: Callable[[Exception], None]) -> None:
        self._on_change = on_change
        self._on_failure = on_failure
        self._events: queue.SimpleQueue[tuple[Delivery, Event]] = queue.SimpleQueue()
        self._open: dict[int, Delivery] = {}
        self._turn = time.monotonic()
        self._closing = False
        self._thread = threading.Thread(target=self._run, name="courier", daemon=True)
        self._thread.start()

    def take(self, delivery: Delivery, submit: Callable[[Callable[[Event], None]], Cancellable]) -> None:
        """Submit a request whose events are then delivered; what `submit` raises passes through."""
        self._open[id(delivery)] = delivery
        self._on_change(len(self._open))
        try:
            delivery.request = submit(lambda event: self._events.put((delivery, event)))
        except BaseException:
            self._forget(delivery)
            self._on_change(len(self._open))
            raise

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
        while not (self._closing and self._events.empty()):
            self._turn = time.monotonic()
            item = self._next()
            if item is not None:
                self._guard(item[0], partial(self._deliver, *item))
            if self._turn - looked > LOOK:
                looked = self._turn
                for delivery in list(self._open.values()):
                    self._guard(delivery, partial(self._look, delivery))

    def _next(self) -> tuple[Delivery, Event] | None:
        try:
            return self._events.get(timeout=LOOK)
        except queue.Empty:
            return None

    def _guard(self, delivery: Delivery, act: Callable[[], None]) -> None:
        """Act; a failure ends that delivery and no other."""
        try:
            act()
        except Exception as error:
            self._on_failure(error)
            delivery.unwanted = True
            self._cancel(delivery)

    def _look(self, delivery: Delivery) -> None:
        if not delivery.unwanted and delivery.sender.is_cancelled():
            delivery.unwanted = True
        if delivery.unwanted:
            self._cancel(delivery)

    def _cancel(self, delivery: Delivery) -> None:
        # Not there yet while it is being submitted: the next look comes soon.
        if delivery.request is not None:
            delivery.request.cancel()

    def _deliver(self, delivery: Delivery, event: Event) -> None:
        last = event.finish_reason is not None
        if last:
            self._forget(delivery)
        else:
            self._look(delivery)
        if delivery.unwanted or event.finish_reason == "cancelled":
            if last:
                delivery.sender.close()
        elif event.finish_reason == "error":
            delivery.sender.fail("the model failed on this request; the server's log says more")
        elif (tensors := delivery.answer.add(event)) is not None:
            delivery.sender.send(tensors, last=last)
        if last:
            self._on_change(len(self._open))

    def _forget(self, delivery: Delivery) -> None:
        self._open.pop(id(delivery), None)
