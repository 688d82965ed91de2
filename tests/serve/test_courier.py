"""Every response goes to its caller, and a caller that has gone costs the others nothing."""

import threading
import time
from collections.abc import Callable, Iterator

import pytest

from deploykit.engine import Event
from deploykit.errors import RequestError
from deploykit.serve.courier import Courier, Delivery
from deploykit.serve.protocol import Query, Tensors

QUERY = Query(prompt="p", stream=True, prepend=False, sampling={}, wanted=frozenset())


class Caller:
    """Takes responses, and may leave or fail."""

    def __init__(self, *, fails: bool = False) -> None:
        self.got: list[str] = []
        self.gone, self.fails = False, fails
        self.done = threading.Event()

    def is_cancelled(self) -> bool:
        return self.gone

    def send(self, tensors: Tensors, *, last: bool) -> None:
        if self.fails:
            raise OSError("no way to it")
        self.got.append(tensors["text_output"].item().decode())
        if last:
            self.done.set()

    def fail(self, message: str) -> None:
        self.got.append(message)
        self.done.set()

    def close(self) -> None:
        self.got.append("closed")
        self.done.set()


class Running:
    """A request in an engine: it waits, unless told to say something."""

    def __init__(self, on_event: Callable[[Event], None]) -> None:
        self.say = on_event
        self.cancelled = threading.Event()

    def cancel(self) -> None:
        self.cancelled.set()


def event(text: str, reason: str | None = None) -> Event:
    return Event(
        text=text,
        token_ids=(1,),
        finish_reason=reason,  # type: ignore[arg-type]
        num_input_tokens=1,
        num_output_tokens=1,
        cumulative_logprob=0.0,
        error="disk on fire at /secret" if reason == "error" else None,
    )


class Scene:
    def __init__(self) -> None:
        self.failures: list[Exception] = []
        self.counts: list[int] = []
        self.courier = Courier(on_change=self.counts.append, on_failure=self.failures.append)

    def take(self, caller: Caller) -> Running:
        made: list[Running] = []

        def submit(on_event: Callable[[Event], None]) -> Running:
            made.append(Running(on_event))
            return made[0]

        self.courier.take(Delivery(caller, QUERY), submit)
        return made[0]


@pytest.fixture
def scene() -> Iterator[Scene]:
    made = Scene()
    yield made
    made.courier.close()


def test_each_event_is_a_response_in_order(scene: Scene) -> None:
    caller = Caller()
    request = scene.take(caller)
    for text in "abc":
        request.say(event(text))
    request.say(event("", "stop"))
    assert caller.done.wait(5)
    assert caller.got == ["a", "b", "c", ""]


def test_a_caller_that_leaves_while_waiting_is_noticed(scene: Scene) -> None:
    caller = Caller()
    request = scene.take(caller)
    caller.gone = True
    assert request.cancelled.wait(5)
    request.say(event("", "cancelled"))
    assert caller.done.wait(5)
    assert caller.got == ["closed"]


def test_a_failure_to_send_ends_that_request_alone(scene: Scene) -> None:
    broken, sound = Caller(fails=True), Caller()
    one, two = scene.take(broken), scene.take(sound)
    one.say(event("a"))
    assert one.cancelled.wait(5)
    two.say(event("b", "length"))
    assert sound.done.wait(5)
    assert (sound.got, [type(error) for error in scene.failures]) == (["b"], [OSError])
    assert scene.courier.is_alive()


def test_an_engines_error_is_told_without_its_details(scene: Scene) -> None:
    caller = Caller()
    scene.take(caller).say(event("", "error"))
    assert caller.done.wait(5)
    assert caller.got == ["the model failed on this request; the server's log says more"]


def test_what_cannot_be_submitted_is_not_open(scene: Scene) -> None:
    def refuse(on_event: Callable[[Event], None]) -> Running:
        raise RequestError("too long")

    with pytest.raises(RequestError, match="too long"):
        scene.courier.take(Delivery(Caller(), QUERY), refuse)
    assert scene.courier.open_requests() == 0


def test_the_count_follows_the_open_requests(scene: Scene) -> None:
    caller = Caller()
    scene.take(caller).say(event("", "stop"))
    end = time.monotonic() + 5
    while scene.counts != [1, 0]:
        assert time.monotonic() < end, scene.counts
        time.sleep(0.01)
