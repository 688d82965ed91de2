"""Every response goes to its caller, and a caller that has gone costs the others nothing."""

import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from deploykit.engine import Event
from deploykit.errors import RequestError
from deploykit.serve.answer import Outputs
from deploykit.serve.courier import LOOK, LOOKS, Courier, Delivery
from deploykit.serve.protocol import Query
from deploykit.serve.refusal import Refusal

QUERY = Query(prompt="p", stream=True, prepend=False, sampling={}, wanted=frozenset())


class Caller:
    """Takes responses, and may leave, fail, or be slow."""

    def __init__(self, *, fails: bool = False, waits: threading.Event | None = None) -> None:
        self.got: list[str] = []
        self.gone, self.fails, self.waits = False, fails, waits
        self.busy, self.done = threading.Event(), threading.Event()

    def is_cancelled(self) -> bool:
        return self.gone

    def send(self, outputs: Outputs, *, last: bool) -> None:
        if self.fails:
            raise OSError("no way to it")
        self.busy.set()
        if self.waits:
            assert self.waits.wait(5)
        self._end("|".join(outputs["text_output"]), last=last)

    def fail(self, refusal: Refusal) -> None:
        self._end(f"{refusal.code.value}: {refusal.message}")

    def close(self) -> None:
        self._end("closed")

    def _end(self, text: str, *, last: bool = True) -> None:
        assert not self.done.is_set(), "nothing follows the last response"
        self.got.append(text)
        if last:
            self.done.set()


class Running:
    """A request in an engine: it waits, unless told to say something."""

    def __init__(self, on_event: Callable[[Event], None]) -> None:
        self.say = on_event
        self.cancelled = threading.Event()

    def cancel(self) -> None:
        self.cancelled.set()


def event(text: str, reason: str | None = None, *, tokens: int = 1, index: int = 0) -> Event:
    return Event(
        index=index,
        text=text,
        token_ids=(1,),
        logprobs=(),
        finish_reason=reason,  # type: ignore[arg-type]
        num_input_tokens=1,
        num_output_tokens=tokens,
        cumulative_logprob=None,
        error="disk on fire at /secret" if reason == "error" else None,
    )


class Scene:
    def __init__(self) -> None:
        self.failures: list[Exception] = []
        self.counts: list[int] = []
        self.courier = Courier(on_change=self.counts.append, on_failure=self.failures.append)

    def take(self, caller: Caller, *, n: int = 1, **asked: Any) -> Running:
        made: list[Running] = []

        def submit(on_event: Callable[[Event], None]) -> Running:
            made.append(Running(on_event))
            return made[0]

        self.courier.take(Delivery(caller, Query(**{**vars(QUERY), **asked}), n=n), submit)
        return made[0]

    def step(self, request: Running, *events: Event) -> None:
        for each in events:
            request.say(each)
        self.courier.step()


@pytest.fixture
def scene() -> Iterator[Scene]:
    made = Scene()
    yield made
    made.courier.close()


def test_events_go_out_in_order_when_their_step_is_over(scene: Scene) -> None:
    caller = Caller()
    request = scene.take(caller)
    request.say(event("a"))
    assert not caller.busy.wait(0.1)
    scene.courier.step()
    assert caller.busy.wait(5)
    scene.step(request, event("b", tokens=2))
    scene.step(request, event("c", tokens=3))
    scene.step(request, event("", "stop", tokens=4))
    assert caller.done.wait(5)
    assert "".join(caller.got) == "abc"


def test_what_comes_while_the_courier_is_busy_is_one_response(scene: Scene) -> None:
    release = threading.Event()
    slow, caller = Caller(waits=release), Caller()
    one, two = scene.take(slow), scene.take(caller)
    scene.step(one, event("x"))
    assert slow.busy.wait(5)
    for at, text in enumerate("abc", 1):
        scene.step(two, event(text, tokens=at))
    scene.step(two, event("d", "length", tokens=4))
    release.set()
    assert caller.done.wait(5)
    assert caller.got == ["abcd"]


def test_choices_of_one_step_are_one_response(scene: Scene) -> None:
    caller = Caller()
    request = scene.take(caller, n=2)
    scene.step(request, event("a"), event("x", index=1))
    scene.step(request, event("b", "stop"), event("y", "stop", index=1))
    assert caller.done.wait(5)
    assert caller.got in (["a|x", "b|y"], ["ab|xy"])


def test_a_caller_that_leaves_while_waiting_is_noticed(scene: Scene) -> None:
    caller = Caller()
    request = scene.take(caller)
    caller.gone = True
    assert request.cancelled.wait(5)
    scene.step(request, event("", "cancelled"))
    assert caller.done.wait(5)
    assert caller.got == ["closed"]


def test_callers_that_leave_together_are_noticed_together(scene: Scene) -> None:
    callers = [Caller() for _ in range(40 * LOOKS)]
    requests = [scene.take(caller) for caller in callers]
    for caller in callers:
        caller.gone = True
    began = time.monotonic()
    assert all(request.cancelled.wait(5) for request in requests)
    # One share of them every 50 ms would take 2 s.
    assert time.monotonic() - began < 1.5
    for request in requests:
        request.say(event("", "cancelled"))
    scene.courier.step()
    assert all(caller.done.wait(5) for caller in callers)
    assert scene.courier.open_requests() == 0


class Leader(Caller):
    """Somebody else leaves at the moment in which this one is found to have left."""

    def __init__(self, follower: Caller) -> None:
        super().__init__()
        self.follower, self.found = follower, 0.0

    def is_cancelled(self) -> bool:
        if self.gone:
            self.found, self.follower.gone = time.monotonic(), True
        return self.gone


def test_where_some_have_left_the_courier_soon_looks_for_more(scene: Scene) -> None:
    waits = []
    for _ in range(5):
        # The follower is looked at first, so it leaves just behind the courier's back.
        follower = Caller()
        leader = Leader(follower)
        requests = [scene.take(follower), scene.take(leader)]
        leader.gone = True
        assert requests[0].cancelled.wait(5)
        waits.append(time.monotonic() - leader.found)
        for request in requests:
            scene.step(request, event("", "cancelled"))
        until(lambda: scene.courier.open_requests() == 0)
    assert min(waits) < 0.8 * LOOK


def test_a_failure_to_send_ends_that_request_alone(scene: Scene) -> None:
    broken, sound = Caller(fails=True), Caller()
    one, two = scene.take(broken), scene.take(sound)
    scene.step(one, event("a"))
    assert one.cancelled.wait(5)
    scene.step(two, event("b", "length"))
    assert sound.done.wait(5)
    assert (sound.got, [type(error) for error in scene.failures]) == (["b"], [OSError])
    assert scene.courier.is_alive()


def test_an_engines_error_is_told_without_its_details(scene: Scene) -> None:
    caller = Caller()
    scene.step(scene.take(caller), event("", "error"))
    assert caller.done.wait(5)
    assert caller.got == ["INTERNAL: the model failed on this request; the server's log says more"]


def test_one_choices_error_ends_the_request(scene: Scene) -> None:
    caller = Caller()
    request = scene.take(caller, n=2)
    scene.step(request, event("", "error"))
    assert request.cancelled.wait(5)
    scene.step(request, event("", "cancelled", index=1))
    until(lambda: scene.courier.open_requests() == 0)
    assert caller.got == ["INTERNAL: the model failed on this request; the server's log says more"]


def test_an_error_that_comes_while_a_request_is_submitted_cancels_its_other_choices(scene: Scene) -> None:
    caller = Caller()
    made: list[Running] = []

    def submit(on_event: Callable[[Event], None]) -> Running:
        made.append(Running(on_event))
        scene.step(made[0], event("", "error"))
        assert caller.done.wait(5)
        until(lambda: delivery.unwanted)
        return made[0]

    delivery = Delivery(caller, QUERY, n=2)
    scene.courier.take(delivery, submit)
    assert made[0].cancelled.wait(1)


def test_a_request_that_waited_too_long_hears_so(scene: Scene) -> None:
    caller = Caller()
    scene.step(scene.take(caller), event("", "timeout"))
    assert caller.done.wait(5)
    assert caller.got == ["DEADLINE_EXCEEDED: the request waited longer than its timeout and was not run"]


def test_what_cannot_be_submitted_is_not_open(scene: Scene) -> None:
    def refuse(on_event: Callable[[Event], None]) -> Running:
        raise RequestError("too long")

    with pytest.raises(RequestError, match="too long"):
        scene.courier.take(Delivery(Caller(), QUERY), refuse)
    assert scene.courier.open_requests() == 0


def test_the_count_follows_the_open_requests(scene: Scene) -> None:
    caller = Caller()
    scene.step(scene.take(caller), event("", "stop"))
    until(lambda: scene.counts == [1, 0])


def until(holds: Callable[[], bool]) -> None:
    end = time.monotonic() + 5
    while not holds():
        assert time.monotonic() < end
        time.sleep(0.01)
