"""Keeps one Triton alive: starts it, watches its models, restarts it, and ends it without losing a token."""

import signal
import threading
import time
from collections.abc import Callable, Sequence
from enum import Enum
from typing import Final, Protocol

from deploykit.config import ServeConfig
from deploykit.errors import DeploykitError, ServeError
from deploykit.serve.events import Event, Tell, spell_ending, spell_status
from deploykit.serve.heartbeat import Beat, State, current, is_running

POLL: Final = 0.1
"""Seconds between two looks at the heartbeats: a dead backend's callers must hear of it within 2 s."""
PROBE_INTERVAL: Final = 1.0
"""Seconds between two questions to Triton whether it is ready."""
PROBE_LIFETIME: Final = 4.0
"""Seconds for which Triton's last yes counts: readiness must be red within 5 s of trouble."""
DRAINED: Final = 4.0
"""Seconds without an open request after which a server that was told to end is ended: an idle gRPC stream would hold
it until its exit timeout, and all is to be over 5 s after the last token."""
STABLE: Final = 60.0
"""Seconds of service after which earlier deaths no longer count."""
LAST_WORDS: Final = 1.0
"""Seconds at most that Triton gets to say why a model didn't load."""
CRASHES: Final = frozenset({signal.SIGABRT, signal.SIGBUS, signal.SIGSEGV})
"""Signals that a process ends by at a fault of its own."""
MAX_DEATHS: Final = 5
"""Deaths in a row, each within `STABLE` seconds of service, after which restarting is no remedy."""
MAX_PAUSE: Final = 8.0
"""Longest wait before a restart, in seconds; it doubles with each death, the first restart comes at once."""


class Phase(Enum):
    """What the server is doing."""

    STARTING = "starting"
    SERVING = "serving"
    RESTARTING = "restarting"
    STOPPING = "stopping"
    ENDED = "ended"


class Process(Protocol):
    """What the supervisor asks of a server process."""

    def status(self) -> int | None:
        """Return the exit status, or None while it runs."""
        ...

    def is_ready(self) -> bool:
        """Return whether the server and all its models are ready; answers soon."""
        ...

    def terminate(self) -> None:
        """Ask it to finish open requests and end."""
        ...

    def kill(self) -> None:
        """End it at once, and remove what it leaves."""
        ...

    def refusal(self) -> str | None:
        """Return in a line why a model wouldn't load, where it said so itself."""
        ...

    def reason(self) -> str:
        """Return the most telling line of its log."""
        ...

    def log_tail(self) -> str:
        """Return the end of its log."""
        ...

    def beats(self) -> list[Beat]:
        """Return the last sign of life of each backend that has given one."""
        ...


class Supervisor:
    """The one thread that starts the server and ends it; every method may be called from any thread."""

    def __init__(
        self,
        launch: Callable[[], Process],
        config: ServeConfig,
        *,
        before_end: Callable[[threading.Event], None] = lambda _: None,
        tell: Tell = lambda _: None,
    ) -> None:
        """Keep what `launch` starts alive.

        Args:
            launch: starts a server.
            config: its time limits.
            before_end: called before a server that serves is asked to end, and what it does is waited for, as long as
                the event isn't set: there is no time then.
            tell: hears of each death and each restart.
        """
        self._launch, self._before_end, self._tell = launch, before_end, tell
        self._config = config
        self._stop, self._hurry, self._settled = threading.Event(), threading.Event(), threading.Event()
        self._phase = Phase.STARTING
        self._since = self._probed = time.monotonic()
        self._process: Process | None = None
        self._failure: BaseException | None = None
        self._died: tuple[float, str] | None = None
        """When it stopped serving, and why; None while it serves."""
        self.restarts = 0
        # The server is bound to the thread that starts it, so a single one does so for as long as it lives.
        self._thread = threading.Thread(target=self._run, name="supervisor")

    def start(self) -> None:
        """Start the server and return once it is ready, or has been ended on request before it was.

        Raises:
            ServeError: it ended, or was not ready in time.
        """
        self._thread.start()
        self._settled.wait()
        self._raise_failure()

    def request_stop(self, *, hurry: bool = False) -> None:
        """Ask for the end, after open requests or, in a hurry, at once; return without waiting for it."""
        if hurry:
            self._hurry.set()
        self._stop.set()

    def wait(self) -> None:
        """Return when the server has been ended on request.

        Raises:
            ServeError: it kept dying and was given up.
        """
        if self._thread.ident is not None:
            self._thread.join()
        self._raise_failure()

    def stop(self, *, hurry: bool = False) -> None:
        """Ask for the end and wait for it; a failure is not raised again."""
        self.request_stop(hurry=hurry)
        if self._thread.ident is not None:
            self._thread.join()

    @property
    def phase(self) -> Phase:
        """What the server is doing."""
        return self._phase

    @property
    def process(self) -> Process | None:
        """The latest process."""
        return self._process

    @property
    def is_stopping(self) -> bool:
        """Whether the end has been asked for."""
        return self._stop.is_set()

    def beats(self) -> list[Beat]:
        """Return the last sign of life of each backend that has given one."""
        process = self._process
        return process.beats() if process else []

    def live(self) -> str | None:
        """Return why the whole should be restarted from outside, or None.

        A backend that is being restarted is no reason: one owner recovers, and it gives up by ending.
        """
        if self._phase is Phase.ENDED:
            return "ended"
        waited = time.monotonic() - self._since
        if self._phase in (Phase.STARTING, Phase.RESTARTING) and waited > self._config.startup_timeout + MAX_PAUSE:
            return f"not ready after {waited:.0f} s"
        if self._phase is Phase.SERVING:
            return self._silent(self.beats(), grace=2 * PROBE_LIFETIME)
        return None

    def ready(self) -> str | None:
        """Return why requests should go elsewhere, or None."""
        if self._phase is not Phase.SERVING:
            return str(self._phase.value)
        if time.monotonic() - self._probed > PROBE_LIFETIME:
            return "Triton does not answer"
        return self._trouble(self.beats())

    def _run(self) -> None:
        try:
            self._supervise()
        except BaseException as error:  # raised again in the thread that waits
            self._failure = error
        finally:
            self._enter(Phase.ENDED)
            self._settled.set()

    def _supervise(self) -> None:
        deaths = 0
        while not self._stop.is_set():
            process = self._process = self._launch()
            try:
                trouble = self._start(process)
                if self._phase is Phase.SERVING:
                    trouble = self._serve(process)
                crashed, fault = _crashed(process), self._fault(process, trouble or "it ended")
            finally:
                process.kill()
            if self._stop.is_set():
                return
            served = time.monotonic() - self._since if self._phase is Phase.SERVING else 0.0
            deaths = 1 if served > STABLE else deaths + 1
            self._recover(process, trouble or "it ended", deaths, crashed=crashed, fault=fault)

    def _recover(self, process: Process, trouble: str, deaths: int, *, crashed: bool, fault: str) -> None:
        """Prepare another start.

        Raises:
            ServeError: it has never been ready, or dies again and again.
        """
        # Now and then Triton 2.51 aborts over a lock while it starts; the same start succeeds a moment later.
        if not self._settled.is_set() and not (crashed and deaths == 1):
            raise _failed(f"Triton can't be started: {trouble}", process)
        if deaths >= MAX_DEATHS:
            raise _failed(f"Triton died {deaths} times in a row, given up; the last time: {trouble}", process)
        self._tell(Event(what="died", reason=fault))
        self._died = self._died or (time.monotonic(), fault)
        if self._phase is not Phase.RESTARTING:
            self._enter(Phase.RESTARTING)
        self.restarts += 1
        self._stop.wait(0 if deaths == 1 else min(2.0 ** (deaths - 2), MAX_PAUSE))

    def _start(self, process: Process) -> str | None:
        """Return None once the server is ready or unwanted, else what went wrong."""
        deadline = time.monotonic() + self._config.startup_timeout
        while not self._stop.wait(POLL):
            if process.status() is not None:
                return process.refusal() or f"{process.reason()} (exit status {process.status()})"
            trouble = self._dead(process.beats())
            if trouble:
                self._hear_out(process)
                return process.refusal() or f"{trouble}: {process.reason()}"
            if process.is_ready():
                self._probed = time.monotonic()
                self._enter(Phase.SERVING)
                self._settled.set()
                self._tell_recovery()
                return None
            if time.monotonic() > deadline:
                return f"not ready after {self._config.startup_timeout:.0f} s; raise --startup-timeout if it is large"
        return None

    def _fault(self, process: Process, trouble: str) -> str:
        """Return what died and how, for whoever watches; the log's last line stands for it only while it starts."""
        status = process.status()
        if self._phase is Phase.SERVING and status is not None:
            return f"Triton has died ({spell_status(status)})"
        return trouble if self._phase is Phase.SERVING else f"Triton did not come up: {trouble}"

    def _tell_recovery(self) -> None:
        if self._died:
            since, fault = self._died
            self._died = None
            self._tell(Event(what="restarted", reason=fault, seconds=time.monotonic() - since))

    def _hear_out(self, process: Process) -> None:
        """Wait a moment for what Triton says of a model whose backend has gone: it writes that afterwards."""
        end = time.monotonic() + LAST_WORDS
        while process.status() is None and process.refusal() is None and time.monotonic() < end:
            if self._stop.wait(POLL):
                return

    def _serve(self, process: Process) -> str | None:
        """Watch until something is wrong, and return what; or end the server when asked to, and return None."""
        asked = time.monotonic()
        while not self._stop.wait(POLL):
            if process.status() is not None:
                return f"{process.reason()} (exit status {process.status()})"
            trouble = self._trouble(process.beats())
            if trouble:
                return trouble
            now = time.monotonic()
            if now - asked >= PROBE_INTERVAL:
                asked = now
                if process.is_ready():
                    self._probed = time.monotonic()
            if now - self._probed > self._config.heartbeat_timeout:
                return f"no answer from Triton for {self._config.heartbeat_timeout:.0f} s"
        self._drain(process)
        return None

    def _drain(self, process: Process) -> None:
        """Tell the server to end and return when it has, or when nothing is left for it to do."""
        self._enter(Phase.STOPPING)
        self._before_end(self._hurry)
        process.terminate()
        idle_since = time.monotonic()
        while process.status() is None and not self._hurry.wait(POLL):
            now = time.monotonic()
            beats = process.beats()
            if any(beat.open_requests for beat in beats) and not self._dead(beats):
                idle_since = now
            if now - idle_since > DRAINED or now - self._since > self._config.exit_timeout + DRAINED:
                return

    def _trouble(self, beats: list[Beat]) -> str | None:
        return self._dead(beats) or self._silent(beats)

    def _dead(self, beats: list[Beat]) -> str | None:
        for beat in _needed(beats):
            if beat.state is State.LOADING and self._phase in (Phase.SERVING, Phase.STOPPING):
                # A model that was added; whoever has it loaded looks after it.
                continue
            if beat.state is not State.CLOSED and not is_running(beat.pid):
                ending = spell_ending(beat.pid)
                return f"the backend of model {beat.model!r} has died{f' ({ending})' if ending else ''}"
        return None

    def _silent(self, beats: list[Beat], grace: float = 0.0) -> str | None:
        for beat in _needed(beats):
            if beat.state is State.SERVING and beat.age() > self._config.heartbeat_timeout + grace:
                return f"no heartbeat of model {beat.model!r} for {beat.age():.0f} s"
        return None

    def _enter(self, phase: Phase) -> None:
        self._since = time.monotonic()
        self._phase = phase

    def _raise_failure(self) -> None:
        if isinstance(self._failure, DeploykitError):
            raise self._failure
        if self._failure is not None:
            raise ServeError(f"the supervisor failed: {self._failure!r}") from self._failure


def _needed(beats: list[Beat]) -> list[Beat]:
    """Return the backends that must live: those for new requests, and replaced ones whose requests are still open.

    Triton tells the callers of a replaced backend nothing when it dies, for minutes; ending all is how they hear of it.
    One that fails while it loads leaves the one before it in place.
    """
    counting = current(beats)
    return [beat for beat in beats if beat in counting or beat.open_requests]


def _crashed(process: Process) -> bool:
    """Return whether a process has ended by a fault of its own, with nothing said of a model."""
    status = process.status()
    # Its shell's way of telling a signal, or Python's.
    return status is not None and process.refusal() is None and (status - 128 in CRASHES or -status in CRASHES)


def _failed(message: str, process: Process) -> ServeError:
    error = ServeError(message)
    if process.refusal() is None:
        # A model that says itself what is wrong needs no log beside it.
        tail: Sequence[str] = process.log_tail().splitlines()[-20:]
        error.add_note("\n".join(["The end of Triton's log:", *tail]))
    return error
