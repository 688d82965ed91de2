"""Runs a pod by its manifest as a kubelet does: probes, restarts, and the end.

The rules are those of Kubernetes' documentation on the pod's lifecycle and on probes.
"""

import http.client
import signal
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final, Self

from deploy.life.container import ContainerProcess, Sandbox

LEAST_GRACE: Final = 2.0
"""Seconds between SIGTERM and SIGKILL even if preStop has used up the grace period."""
BACK_OFF: Final = 10.0
"""Seconds before the second restart; they double, and the first comes at once."""
LONGEST_BACK_OFF: Final = 300.0


@dataclass(frozen=True, kw_only=True)
class Probe:
    """A question over HTTP, and how often it is asked."""

    host: str
    port: int
    path: str
    delay: float
    period: float
    timeout: float
    failures: int
    successes: int

    @classmethod
    def read(cls, name: str, container: Mapping[str, Any], host: str) -> Self | None:
        """Return one of a container's probes, with Kubernetes' defaults, or None where it has none."""
        if (given := container.get(name)) is None:
            return None
        wanted = given["httpGet"]["port"]
        named = {port.get("name"): port["containerPort"] for port in container.get("ports", [])}
        return cls(
            host=host,
            port=int(named[wanted] if isinstance(wanted, str) else wanted),
            path=given["httpGet"].get("path", "/"),
            delay=given.get("initialDelaySeconds", 0),
            period=given.get("periodSeconds", 10),
            timeout=given.get("timeoutSeconds", 1),
            failures=given.get("failureThreshold", 3),
            successes=given.get("successThreshold", 1),
        )

    def passes(self) -> bool:
        """Ask once."""
        connection = http.client.HTTPConnection(self.host, self.port, timeout=self.timeout)
        try:
            connection.request("GET", self.path)
            return 200 <= connection.getresponse().status < 400
        except (OSError, http.client.HTTPException):
            return False
        finally:
            connection.close()


@dataclass(frozen=True, kw_only=True)
class Ended:
    """How one run of a container has ended."""

    status: int
    seconds: float
    """Of its life."""
    killed: bool
    """Whether it took SIGKILL, since the grace period was over."""


class Run:
    """One run of a container, from its first process's start to its end."""

    def __init__(self, container: "Container") -> None:
        self._container, self._began = container, time.monotonic()
        self._gone, self._killing = threading.Event(), threading.Lock()
        self.started, self.killed = threading.Event(), False
        self.process = container.launch()
        self._probes = [
            threading.Thread(target=self._ask, args=(name, act), daemon=True, name=name)
            for name, act in (
                ("startupProbe", self._on_startup),
                ("readinessProbe", self._on_readiness),
                ("livenessProbe", self._on_liveness),
            )
        ]

    def to_the_end(self) -> Ended:
        """Ask its probes until it has ended, and return how that was."""
        if Probe.read("startupProbe", self._container.spec, self._container.address) is None:
            self.started.set()
        for thread in self._probes:
            thread.start()
        status = self.process.wait()
        assert status is not None
        self._gone.set()
        self._container.set_ready(False)
        for thread in self._probes:
            thread.join()
        self.process.end()
        # `unshare` has no status of its own for this one.
        status = 128 + signal.SIGKILL if self.killed else status
        return Ended(status=status, seconds=time.monotonic() - self._began, killed=self.killed)

    def kill(self, grace: float) -> None:
        """End it: preStop, SIGTERM, and SIGKILL after the grace period, which counts from the beginning."""
        with self._killing:
            deadline = time.monotonic() + grace
            if hook := self._container.spec.get("lifecycle", {}).get("preStop"):
                self.process.run_inside(hook["exec"]["command"], grace)
            self._container.note("SIGTERM")
            self.process.signal(signal.SIGTERM)
            if self.process.wait(max(LEAST_GRACE, deadline - time.monotonic())) is None:
                self.killed = True
                self._container.note("SIGKILL")
                self.process.signal(signal.SIGKILL)
                self.process.wait()

    def _ask(self, name: str, act: Callable[[bool], bool]) -> None:
        """Ask one probe, and act when enough answers in a row were the same, as long as that says so."""
        probe = Probe.read(name, self._container.spec, self._container.address)
        gated = name != "startupProbe"
        while gated and not self.started.wait(0.05):
            if self._gone.is_set():
                return
        if probe is None:
            if name == "readinessProbe":
                self._container.set_ready(True)
            return
        self._gone.wait(max(0.0, self._began + probe.delay - time.monotonic()))
        last, count = None, 0
        while not self._gone.is_set():
            passed = probe.passes()
            last, count = passed, count + 1 if passed is last else 1
            if count >= (probe.successes if passed else probe.failures) and not act(passed):
                return
            self._gone.wait(probe.period)

    def _on_startup(self, passed: bool) -> bool:
        if passed:
            self.started.set()
        elif not self._container.ending.is_set():
            self._container.note("startup probe failed")
            self.kill(self._container.grace)
        return False

    def _on_readiness(self, passed: bool) -> bool:
        if not self._gone.is_set():
            self._container.set_ready(passed)
        return True

    def _on_liveness(self, passed: bool) -> bool:
        if passed:
            return True
        if not self._container.ending.is_set():
            self._container.note("liveness probe failed")
            self.kill(self._container.grace)
        return False


class Container:
    """A container of a pod, which is run again and again until the pod is to end."""

    def __init__(self, pod: "Pod", spec: Mapping[str, Any]) -> None:
        self._pod, self.spec = pod, spec
        self.name: str = spec["name"]
        self.address, self.grace, self.ending = pod.sandbox.address, pod.grace, pod.ending
        self.log = pod.sandbox.folder / f"{self.name}.log"
        self.is_ready, self.ended, self._runs = False, list[Ended](), 0
        self._run: Run | None = None
        self._thread = threading.Thread(target=self._live, name=self.name)

    def start(self) -> None:
        self._thread.start()

    def launch(self) -> ContainerProcess:
        """Start its process."""
        return ContainerProcess(self._pod.sandbox, self._pod.spec, self.spec, self.log)

    def note(self, event: str) -> None:
        """Keep what happened, and when."""
        self._pod.note(f"{self.name}: {event}")

    def set_ready(self, ready: bool) -> None:
        if ready is not self.is_ready:
            self.is_ready = ready
            self.note("ready" if ready else "not ready")

    @property
    def restarts(self) -> int:
        """How often it was run again."""
        return max(0, self._runs - 1)

    @property
    def pid(self) -> int:
        """Its first process, on this machine."""
        pid = self._run.process.pid if self._run else None
        assert pid is not None, f"{self.name} doesn't run"
        return pid

    def send(self, number: signal.Signals) -> None:
        """Send a signal to its first process."""
        assert self._run
        self._run.process.signal(number)

    def kill(self, grace: float) -> None:
        """Have it end; the pod is to end, too."""
        if self._run:
            self._run.kill(grace)

    def end(self) -> None:
        """Leave nothing of it."""
        if self._run:
            self._run.process.end()

    def join(self, seconds: float) -> bool:
        """Wait for the end, and return whether it has come."""
        self._thread.join(seconds)
        return not self._thread.is_alive()

    def _live(self) -> None:
        pause = 0.0
        while not self.ending.wait(pause):
            self._run = Run(self)
            self._runs += 1
            self.note("runs")
            self.ended.append(self._run.to_the_end())
            self.note(f"ended: {self.ended[-1]}")
            pause = min(2 * pause, LONGEST_BACK_OFF) if pause else 0.0 if len(self.ended) == 1 else BACK_OFF


class Pod:
    """A pod on this machine; a context manager that leaves nothing of it."""

    def __init__(self, name: str, template: Mapping[str, Any], sandbox: Sandbox) -> None:
        """Prepare one.

        Args:
            name: its name.
            template: a Deployment's `spec.template`.
            sandbox: where it runs; not shared with another pod.
        """
        self.name, self.spec, self.sandbox = name, template["spec"], sandbox
        assert not self.spec.get("initContainers"), "whatever these do has been done here"
        self.grace = float(self.spec.get("terminationGracePeriodSeconds", 30))
        self.ending = threading.Event()
        self.began = time.monotonic()
        self.events: list[tuple[float, str]] = []
        self._serving: list[tuple[float, bool]] = [(0.0, False)]
        self._lock = threading.Lock()
        self.containers = {each["name"]: Container(self, each) for each in self.spec["containers"]}
        self._killers: list[threading.Thread] = []

    def __enter__(self) -> Self:
        self.sandbox.prepare(self.spec)
        self.began = time.monotonic()
        for container in self.containers.values():
            container.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.ending.set()
        for container in self.containers.values():
            container.end()
        for container in self.containers.values():
            assert container.join(20), self.story()

    def __getitem__(self, name: str) -> Container:
        return self.containers[name]

    @property
    def is_ready(self) -> bool:
        """Whether each of its containers is."""
        return all(container.is_ready for container in self.containers.values())

    def was_serving(self, at: float) -> bool:
        """Return whether it was an endpoint at a time of CLOCK_MONOTONIC: ready, and not about to end."""
        return next(serving for since, serving in reversed(self._serving) if since <= at)

    def note(self, event: str) -> None:
        """Keep what happened, and when."""
        with self._lock:
            now = time.monotonic()
            self.events.append((now - self.began, event))
            serving = self.is_ready and not self.ending.is_set()
            if serving is not self._serving[-1][1]:
                self._serving.append((now, serving))

    def delete(self) -> None:
        """Have it end, and return at once: no endpoint any more, and for each container preStop, SIGTERM, SIGKILL."""
        self.ending.set()
        self.note("is to end")
        for container in self.containers.values():
            killer = threading.Thread(target=container.kill, args=(self.grace,), name="killer", daemon=True)
            killer.start()
            self._killers.append(killer)

    def wait(self, seconds: float | None = None) -> dict[str, Ended]:
        """Return how its containers have ended, once they have."""
        deadline = time.monotonic() + (self.grace + LEAST_GRACE if seconds is None else seconds)
        for container in self.containers.values():
            assert container.join(max(0.0, deadline - time.monotonic())), self.story()
        for killer in self._killers:
            killer.join()
        return {name: container.ended[-1] for name, container in self.containers.items()}

    def story(self) -> str:
        """Return what happened, and what the containers have said."""
        lines = [f"{self.name} {seconds:8.2f} s  {event}" for seconds, event in self.events]
        for container in self.containers.values():
            said = container.log.read_text(errors="replace").splitlines() if container.log.exists() else []
            lines += [f"{self.name} {container.name}: {line}" for line in said[-15:]]
        return "\n".join(lines)
