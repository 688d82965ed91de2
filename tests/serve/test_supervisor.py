"""What the supervisor does about a process that dies, falls silent or never comes up."""

import os
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from deploykit.config import ServeConfig
from deploykit.errors import ServeError
from deploykit.serve import supervisor
from deploykit.serve.events import Event
from deploykit.serve.heartbeat import Beat, State
from deploykit.serve.supervisor import Supervisor

CONFIG = ServeConfig(startup_timeout=1, heartbeat_timeout=1, exit_timeout=1)
NOBODY = 2**22 + 1
"""A process number beyond the largest that Linux gives out."""


def beat(model: str, **fields: Any) -> Beat:
    return Beat(model=model, **{"state": State.SERVING, "time": time.monotonic(), "open_requests": 0, **fields})


class Scripted:
    """A process that behaves as told."""

    def __init__(self, *, ready: bool = True, pid: int | None = None, beating: bool = True) -> None:
        self.ended: int | None = None
        self.ready, self.pid, self.beating = ready, pid or os.getpid(), beating
        self.open_requests = 0
        self.others: list[Beat] = []
        self.refused: str | None = None
        self.calls: list[str] = []
        self._born = time.monotonic()

    def status(self) -> int | None:
        return self.ended

    def is_ready(self) -> bool:
        return self.ready

    def terminate(self) -> None:
        self.calls.append("terminate")

    def kill(self) -> None:
        self.calls.append("kill")
        self.ended = -9

    def refusal(self) -> str | None:
        return self.refused

    def reason(self) -> str:
        return "out of luck"

    def log_tail(self) -> str:
        return "first\nout of luck\n"

    def beats(self) -> list[Beat]:
        when = time.monotonic() if self.beating else self._born
        own = beat("m", load=2, pid=self.pid, time=when, open_requests=self.open_requests)
        return [own, *self.others]


@pytest.fixture
def told() -> list[Event]:
    """What whoever watches has heard."""
    return []


@pytest.fixture
def watch(told: list[Event]) -> Iterator[Callable[..., Supervisor]]:
    made: list[Supervisor] = []

    def make(*processes: Scripted) -> Supervisor:
        left = list(processes)
        made.append(Supervisor(lambda: left.pop(0) if len(left) > 1 else left[0], CONFIG, tell=told.append))
        return made[-1]

    yield make
    for each in made:
        each.stop(hurry=True)


def until(condition: Callable[[], object], seconds: float = 10) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


def test_a_server_that_ends_while_starting_fails_with_its_log(watch: Callable[..., Supervisor]) -> None:
    process = Scripted(ready=False)
    process.ended = 1
    with pytest.raises(ServeError, match=r"can't be started: out of luck \(exit status 1\)") as caught:
        watch(process).start()
    assert "first\nout of luck" in caught.value.__notes__[0]
    assert process.calls == ["kill"]


def test_a_server_that_never_gets_ready_fails_in_time(watch: Callable[..., Supervisor]) -> None:
    with pytest.raises(ServeError, match="not ready after 1 s"):
        watch(Scripted(ready=False)).start()


@pytest.mark.parametrize("fault", ["gone", "silent", "ended", "deaf"])
def test_a_fault_is_followed_by_a_restart(fault: str, watch: Callable[..., Supervisor]) -> None:
    first, second = Scripted(), Scripted()
    running = watch(first, second)
    running.start()
    assert (running.live(), running.ready()) == (None, None)
    match fault:
        case "gone":
            first.pid = NOBODY
        case "silent":
            first.beating = False
        case "ended":
            first.ended = 0
        case "deaf":
            first.ready = False
    until(lambda: running.restarts == 1 and running.ready() is None)
    assert first.calls == ["kill"]
    assert second.calls == []


@pytest.mark.parametrize(
    ("status", "how"), [(None, "backend of model 'm' has died (signal 9)"), (137, "(signal 9)"), (3, "(exit status 3)")]
)
def test_a_death_and_the_restart_are_told_of(
    status: int | None, how: str, watch: Callable[..., Supervisor], told: list[Event]
) -> None:
    first, second = Scripted(), Scripted()
    running = watch(first, second)
    running.start()
    assert told == []
    with subprocess.Popen(["sleep", "60"]) as victim:
        if status is None:
            victim.kill()
            # It has ended, and nobody has asked how.
            os.waitid(os.P_PID, victim.pid, os.WEXITED | os.WNOWAIT)
            first.pid = victim.pid
        else:
            victim.kill()
            first.ended = status
        until(lambda: len(told) == 2)
    died, restarted = told
    assert (died.what, restarted.what) == ("died", "restarted")
    assert died.reason.endswith(how)
    assert restarted.reason == died.reason
    assert 0 < restarted.seconds < 5


def test_a_dead_backend_turns_readiness_red_but_not_liveness(watch: Callable[..., Supervisor]) -> None:
    first, second = Scripted(), Scripted(ready=False)
    running = watch(first, second)
    running.start()
    first.pid = NOBODY
    assert running.ready() in ("the backend of model 'm' has died", "restarting")
    assert running.live() is None
    second.ready = True
    until(lambda: running.ready() is None)


@pytest.mark.parametrize(
    ("other", "trouble"),
    [
        ({"load": 1, "open_requests": 0}, None),
        ({"load": 1, "open_requests": 1}, "the backend of model 'm' has died"),
        ({"load": 3, "state": State.LOADING}, None),
        ({"load": 3, "state": State.CLOSED}, None),
        ({"load": 3, "state": State.SERVING}, "the backend of model 'm' has died"),
        ({"model": "n", "load": 3, "state": State.LOADING}, None),
        ({"model": "n", "load": 3}, "the backend of model 'n' has died"),
    ],
)
def test_of_backends_that_have_gone_only_those_with_callers_are_missed(
    other: dict[str, Any], trouble: str | None, watch: Callable[..., Supervisor]
) -> None:
    first = Scripted()
    running = watch(first, Scripted())
    running.start()
    first.others.append(beat(other.pop("model", "m"), pid=NOBODY, **other))
    assert running.ready() in (trouble, trouble and "restarting")
    time.sleep(0.3)
    assert running.restarts == (trouble is not None)


@pytest.mark.parametrize("status", [134, -6, 139])
def test_a_server_that_crashes_while_starting_gets_a_second_try(status: int, watch: Callable[..., Supervisor]) -> None:
    first, second = Scripted(ready=False), Scripted()
    first.ended = status
    supervisor = watch(first, second)
    supervisor.start()
    assert (supervisor.ready(), supervisor.restarts, first.calls) == (None, 1, ["kill"])
    always = Scripted(ready=False)
    always.ended = status
    always.kill = lambda: None  # type: ignore[method-assign]  # its status stays what it ended with
    with pytest.raises(ServeError, match=rf"can't be started: out of luck \(exit status {status}\)"):
        watch(always).start()


def test_a_model_that_dies_while_the_server_starts_ends_the_start(watch: Callable[..., Supervisor]) -> None:
    process = Scripted(ready=False)
    process.others.append(beat("n", load=1, pid=NOBODY, state=State.LOADING))
    with pytest.raises(ServeError, match="the backend of model 'n' has died: out of luck"):
        watch(process).start()


@pytest.mark.parametrize("ended", [1, None])
def test_a_model_that_says_why_it_wont_load_is_quoted_without_the_log(
    ended: int | None, watch: Callable[..., Supervisor]
) -> None:
    process = Scripted(ready=False)
    process.ended, process.refused = ended, "model 'n': too little memory"
    process.others.append(beat("n", load=1, pid=NOBODY, state=State.LOADING))
    with pytest.raises(ServeError, match=r"^Triton can't be started: model 'n': too little memory$") as caught:
        watch(process).start()
    assert not hasattr(caught.value, "__notes__")


def test_what_keeps_dying_is_given_up(watch: Callable[..., Supervisor], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervisor, "MAX_PAUSE", 0.01)
    first, others = Scripted(), Scripted(ready=False)
    running = watch(first, others)
    running.start()
    others.ended = 1
    first.pid = NOBODY
    with pytest.raises(ServeError, match="died 5 times in a row, given up; the last time: out of luck"):
        running.wait()
    assert running.restarts == supervisor.MAX_DEATHS - 1
    assert running.live() == "ended"


def test_the_end_waits_for_open_requests_and_no_longer(
    watch: Callable[..., Supervisor], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(supervisor, "DRAINED", 0.3)
    process = Scripted()
    process.open_requests = 1
    running = watch(process)
    running.start()
    running.request_stop()
    until(lambda: process.calls == ["terminate"])
    assert running.ready() == "stopping"
    time.sleep(0.5)
    assert process.calls == ["terminate"]
    process.open_requests = 0
    running.wait()
    assert process.calls == ["terminate", "kill"]


def test_a_model_that_could_not_be_added_does_not_cut_the_end_short(
    watch: Callable[..., Supervisor], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(supervisor, "DRAINED", 0.3)
    process = Scripted()
    process.open_requests = 1
    running = watch(process)
    running.start()
    process.others = [beat("n", load=3, pid=NOBODY, state=State.LOADING)]
    running.request_stop()
    until(lambda: process.calls == ["terminate"])
    time.sleep(0.6)
    assert process.calls == ["terminate"]


def test_a_hurry_does_not_wait(watch: Callable[..., Supervisor]) -> None:
    process = Scripted()
    process.open_requests = 1
    running = watch(process)
    running.start()
    running.stop(hurry=True)
    assert process.calls == ["terminate", "kill"]


def test_a_stop_while_starting_ends_the_start(watch: Callable[..., Supervisor]) -> None:
    process = Scripted(ready=False)
    running = watch(process)
    timer = threading.Timer(0.2, running.request_stop)
    timer.start()
    running.start()
    timer.join()
    assert process.calls == ["kill"]
    assert running.ready() == "ended"
