"""The OpenAI gateway beside Triton: a process of its own, kept alive and ended without losing a token."""

import http.client
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Final

import deploykit.serve.leash as leash
from deploykit.config import GatewayConfig, ServeConfig
from deploykit.errors import MissingExtraError, ServeError
from deploykit.listening import bracketed, reachable
from deploykit.repository import open_repository
from deploykit.serve.events import Event, Tell, spell_status
from deploykit.serve.settings import ENGINE_VARIABLE

POLL: Final = 0.1
"""Seconds between two looks at the process."""
PROBE_INTERVAL: Final = 1.0
"""Seconds between two questions whether it lives."""
PROBE_TIMEOUT: Final = 1.0
PROBE_LIFETIME: Final = 4.0
"""Seconds for which its last yes counts: readiness must be red within 5 s of trouble."""
LAST_STREAM: Final = 2.0
"""Seconds that the process gets beyond the exit timeout, in which it ends what it has cut off."""
STABLE: Final = 60.0
"""Seconds of life after which earlier deaths no longer count."""
MAX_PAUSE: Final = 8.0
"""Longest wait before a restart, in seconds; it doubles with each death, the first restart comes at once."""
_PACKAGES: Final = ("fastapi", "uvicorn", "uvloop", "httptools")
_ALIVE: Final = "/health/live"
_READY: Final = "/health"


def check_installed() -> None:
    """Check that there is a gateway to start.

    Raises:
        MissingExtraError: one of its packages is missing.
    """
    for package in _PACKAGES:
        if find_spec(package) is None:
            raise MissingExtraError(package, extra="gateway", needed_for="deploykit serve --openai-port")


def check_inputs(paths: Sequence[Path], config: ServeConfig) -> None:
    """Check what a gateway would refuse to start on, before Triton is started.

    Raises:
        ConfigError: the keys can't be read.
        ArtifactError: a model's chat template can't be read, or doesn't compile.
    """
    # Here, since a server without a gateway needs none of it.
    from deploykit.chat_template import ChatTemplate
    from deploykit.gateway.key_ring import KeyRing

    KeyRing(config.gateway.get("api_keys"))
    for model in open_repository(*paths).models:
        if template := ChatTemplate.open(model.version_folder(model.versions[-1])):
            template.close()


class GatewayProcess:
    """One running gateway; it dies with the thread that made it (see `leash`), so that thread must outlive it."""

    def __init__(self, paths: Sequence[Path], config: GatewayConfig, *, engine: str, log: Path | None) -> None:
        """Start it.

        Args:
            paths: what Triton serves.
            config: how it runs.
            engine: the engines' settings, as JSON.
            log: file that its output is appended to; stderr where None.
        """
        self._host, self._port, self._log = reachable(config.host), config.port, log
        command = [sys.executable, "-I", "-S", leash.__file__, str(os.getpid()), *command_line(paths, config)]
        output = None if log is None else log.open("ab")
        try:
            self._process = subprocess.Popen(  # noqa: S603  # this Python
                command,
                env={**os.environ, ENGINE_VARIABLE: engine},
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=output,
                # Ctrl-C reaches this process alone, which ends the gateway in its turn.
                start_new_session=True,
            )
        finally:
            if output is not None:
                output.close()

    def status(self) -> int | None:
        """Return the exit status, or None while it runs."""
        return self._process.poll()

    def answers(self) -> bool:
        """Return whether it answers; what Triton does is no matter."""
        return self._says_ok(_ALIVE)

    def reaches_triton(self) -> bool:
        """Return whether it has found Triton and each model ready: after a restart of Triton's that takes a moment."""
        return self._says_ok(_READY)

    def _says_ok(self, path: str) -> bool:
        connection = http.client.HTTPConnection(self._host, self._port, timeout=PROBE_TIMEOUT)
        try:
            connection.request("GET", path)
            return connection.getresponse().status == http.HTTPStatus.OK
        except (OSError, http.client.HTTPException):
            return False
        finally:
            connection.close()

    def send(self, number: signal.Signals) -> None:
        """Pass on a signal, if it runs."""
        if self.status() is None:
            self._process.send_signal(number)

    def kill(self) -> None:
        """End it at once."""
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()

    def reason(self) -> str:
        """Return its last words."""
        if self._log is None:
            return "its own line on stderr says why"
        lines = [line for line in self._log.read_text(errors="replace").splitlines() if line.strip()]
        return lines[-1].removeprefix("error: ") if lines else "nothing in its log"


class Gateway:
    """Keeps a gateway alive: starts it, restarts it when it dies or falls silent, and ends it after its last stream."""

    def __init__(
        self,
        paths: Sequence[Path],
        config: ServeConfig,
        *,
        port: int,
        grpc: str,
        log: Path | None,
        tell: Tell = lambda _: None,
    ) -> None:
        """Prepare one.

        Args:
            paths: what Triton serves.
            config: how it runs.
            port: where it is to listen.
            grpc: Triton's gRPC endpoint.
            log: file that its log is appended to; stderr where None.
            tell: hears of each death and each restart.
        """
        self._paths, self._log, self._tell = tuple(paths), log, tell
        self._settings = GatewayConfig(
            host=config.host,
            port=port,
            triton=grpc,
            exit_timeout=config.exit_timeout,
            connection_age=config.connection_age,
            **config.gateway,
        )
        self._engine = json.dumps(dict(config.engine))
        self._startup_timeout, self._silence = config.startup_timeout, config.heartbeat_timeout
        self._stop, self._hurry, self._settled = threading.Event(), threading.Event(), threading.Event()
        self._failure: ServeError | None = None
        self._process: GatewayProcess | None = None
        self._answered: float | None = None
        """When it last did; None before it ever has."""
        self._reaches = False
        """Whether it had found Triton then."""
        self._died: tuple[float, str] | None = None
        """When it stopped serving, and why; None while it serves."""
        self._began = time.monotonic()
        self.restarts = 0
        self.url = f"http://{bracketed(reachable(config.host))}:{port}/v1"
        # The process is bound to the thread that starts it, so a single one does so for as long as it lives.
        self._thread = threading.Thread(target=self._run, name="gateway")

    def start(self) -> None:
        """Start it, and return once it answers or has been ended on request before it did.

        Raises:
            ServeError: it ended, or doesn't answer in time.
        """
        self._began = time.monotonic()
        self._thread.start()
        self._settled.wait()
        if self._failure:
            raise self._failure

    def trouble(self) -> str | None:
        """Return why requests should go elsewhere, or None."""
        if self._answered is None:
            return "the gateway starts"
        process = self._process
        if self._died or (process and process.status() is not None):
            return "the gateway starts again"
        if time.monotonic() - self._answered >= PROBE_LIFETIME:
            return "the gateway does not answer"
        return None if self._reaches else "the gateway looks for Triton"

    def lost(self) -> str | None:
        """Return why the whole should be restarted from outside, or None: restarting it here has not helped."""
        down = time.monotonic() - (self._answered or self._began)
        if self._stop.is_set() or down < self._startup_timeout + MAX_PAUSE:
            return None
        return f"no answer from the gateway for {down:.0f} s"

    def reload(self) -> None:
        """Have it read the files of the models and the keys again."""
        if self._process:
            self._process.send(signal.SIGHUP)

    def drain(self, hurry: threading.Event) -> None:
        """Have it take no more requests, and return when it has ended: after its last stream, or at once in a hurry."""
        self._stop.set()
        while self._thread.is_alive():
            if hurry.is_set():
                self._hurry.set()
            self._thread.join(POLL)

    def stop(self, *, hurry: bool = False) -> None:
        """End it, if `drain` hasn't."""
        if hurry:
            self._hurry.set()
        self._stop.set()
        if self._thread.ident is not None:
            self._thread.join()

    def _run(self) -> None:
        deaths = 0
        try:
            while not self._stop.is_set():
                began = time.monotonic()
                trouble = self._run_once()
                if self._stop.is_set():
                    return
                if not self._settled.is_set():
                    self._failure = ServeError(f"the gateway can't be started: {trouble}")
                    return
                self._tell(Event(what="died", reason=f"the gateway {trouble}"))
                deaths = 1 if time.monotonic() - began > STABLE else deaths + 1
                self.restarts += 1
                self._stop.wait(0 if deaths == 1 else min(2.0 ** (deaths - 2), MAX_PAUSE))
        except Exception as error:
            # This thread is the only one that could start it again; liveness turns red in time.
            self._failure = ServeError(f"the gateway can't be kept running: {error!r}")
            self._tell(Event(what="died", reason=str(self._failure)))
        finally:
            self._settled.set()

    def _run_once(self) -> str:
        """Return what became of one process, from its start to its end."""
        try:
            process = self._process = GatewayProcess(self._paths, self._settings, engine=self._engine, log=self._log)
        except OSError as error:
            # There may be memory for it later; the first one fails for good.
            trouble = f"can't be run ({error.strerror})"
        else:
            try:
                trouble = self._watch(process)
            finally:
                process.kill()
        self._died = self._died or (time.monotonic(), trouble)
        return trouble

    def _watch(self, process: GatewayProcess) -> str:
        """Return what was wrong when it has ended or fallen silent; end it when asked to."""
        heard = asked = time.monotonic()
        allowed, interval = self._startup_timeout, POLL
        while not self._stop.wait(POLL):
            if (status := process.status()) is not None:
                lived = self._settled.is_set() and not self._died
                return f"has died ({spell_status(status)})" if lived else f"{process.reason()} (exit status {status})"
            if time.monotonic() - asked >= interval:
                asked = time.monotonic()
                if process.answers():
                    # Before the answer counts: what its predecessor had found says nothing.
                    self._reaches = process.reaches_triton()
                    heard = self._answered = time.monotonic()
                    allowed, interval = self._silence, PROBE_INTERVAL
                    self._settled.set()
                    self._tell_recovery()
            if time.monotonic() - heard > allowed:
                return f"gave no answer for {allowed:.0f} s"
        self._end(process)
        return "it was asked to end"

    def _tell_recovery(self) -> None:
        if self._died:
            since, trouble = self._died
            self._died = None
            self._tell(Event(what="restarted", reason=f"the gateway {trouble}", seconds=time.monotonic() - since))

    def _end(self, process: GatewayProcess) -> None:
        process.send(signal.SIGTERM)
        deadline = time.monotonic() + self._settings.exit_timeout + LAST_STREAM
        while process.status() is None and time.monotonic() < deadline:
            if self._hurry.wait(POLL):
                return


def command_line(paths: Sequence[Path], config: GatewayConfig) -> Iterator[str]:
    """Yield the command that runs a gateway; no key is in it, but at most the path of a file with keys."""
    # Without -P, a module in the current folder would be taken for one of Python's.
    yield from (sys.executable, "-P", "-m", "deploykit", "gateway", "--json")
    yield from (f"--triton={config.triton}", f"--host={config.host}", f"--port={config.port}")
    if config.api_keys:
        yield f"--api-keys={config.api_keys}"
    yield f"--metrics-access={config.metrics}"
    yield from (f"--cors-origin={origin}" for origin in config.cors_origins)
    yield from (f"--max-body={config.max_body}", f"--max-requests={config.max_requests}")
    yield from (f"--body-timeout={config.body_timeout}", f"--answer-timeout={config.timeout}")
    yield f"--exit-timeout={config.exit_timeout}"
    if config.connection_age is not None:
        yield f"--connection-age={config.connection_age}"
    if not config.log_requests:
        yield "--no-log-requests"
    if config.log_prompts:
        yield "--log-prompts"
    yield "--"
    yield from map(str, paths)
