"""One Triton process: its command line, its log, its end."""

import http.client
import json
import os
import re
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Final

import deploykit.serve.leash as leash
from deploykit.config import ServeConfig
from deploykit.errors import ServeError
from deploykit.listening import bracketed, reachable
from deploykit.serve.heartbeat import (
    DIRECTORY_VARIABLE,
    Beat,
    State,
    current,
    forget,
    is_running,
    read_beats,
    read_facts,
)
from deploykit.serve.hiding import children, hide
from deploykit.serve.inherited import FILE_VARIABLE, handed_down
from deploykit.serve.install import Install
from deploykit.serve.settings import ENGINE_VARIABLE, ENGINES_VARIABLE
from deploykit.serve.workplace import Workplace

_TAIL_BYTES: Final = 16384
_PROBE_TIMEOUT: Final = 0.5
"""Seconds; short, because whoever asks watches the heartbeats as well."""
_LAST_BREATH: Final = 2.0
"""Seconds at most that a killed process is waited for."""
_CLOSED_APIS: Final = "shared-memory,trace,logging,model-repository"
"""Interfaces nobody needs from outside: callers' shared memory, settings that write files of a caller's choice, and
loading models, which is running a caller's code."""
_KEY: Final = "deploykit"
"""Name of the header that opens them."""

# Triton's line on a model that didn't load; a Python traceback follows behind "At:", its line ends written as "\\n".
_NOT_LOADED: Final = re.compile(
    r"\"failed to load '(?P<model>[^']+)' version \d+: [^:]+: (?P<own>TritonModelException: )?(?P<why>.*?)(?:\\n|\"$)",
    re.MULTILINE,
)

# What the call that loads a model answers, its line ends as they are.
_REFUSED: Final = re.compile(
    r"(?:version \d+ is at UNAVAILABLE state: [^:]+: (?:TritonModelException: )?|failed to load '[^']+', )"
    r"(?P<why>.*?);?$",
    re.MULTILINE,
)


class TritonProcess:
    """A running `tritonserver` with the processes of its backends.

    It dies with the thread that made it (see `leash`), so that thread must outlive it.
    """

    def __init__(
        self,
        install: Install,
        models: Path,
        config: ServeConfig,
        ports: Mapping[str, int],
        *,
        engines: int,
        workplace: Workplace,
        log: Path,
    ) -> None:
        """Start it.

        Args:
            install: the program.
            models: the folder that it polls for models.
            config: where it listens, and how its engines run.
            ports: the port of each endpoint, by its field's name.
            engines: how many models share this machine.
            workplace: where it may leave files.
            log: file that its output is appended to.
        """
        self._beats = workplace.folder("beats")
        self._log = log
        self._log_begin = log.stat().st_size if log.exists() else 0
        self._workplace = workplace
        self._probe_host, self._http_port = reachable(config.host), ports["http_port"]
        self._grpc_address = f"{bracketed(self._probe_host)}:{ports['grpc_port']}"
        self._secret, self._hidden = secrets.token_hex(16), False
        backends = install.link_backends(workplace.folder("backends"))
        command = [sys.executable, "-I", "-S", leash.__file__, str(os.getpid()), str(install.server)]
        command += flags(models, config, ports, backends=backends, memory_prefix=workplace.shared_memory_prefix)
        command += closing_flags(self._secret)
        environment = {**install.environment(), DIRECTORY_VARIABLE: str(self._beats), ENGINES_VARIABLE: str(engines)}
        if config.engine:
            environment[ENGINE_VARIABLE] = json.dumps(dict(config.engine))
        with log.open("ab") as stream, _own_stderr() as stderr:
            # Triton's log is a file that goes away; lines that were asked for come out where this process speaks.
            environment |= {FILE_VARIABLE: handed_down(stderr)} if stderr is not None else {}
            self._process = subprocess.Popen(  # noqa: S603  # the server that was asked for
                command,
                env=environment,
                pass_fds=() if stderr is None else (stderr,),
                stdin=subprocess.DEVNULL,
                stdout=stream,
                stderr=subprocess.STDOUT,
                # Its own session: Ctrl-C reaches this process alone, and one signal reaches all of the backends.
                start_new_session=True,
            )

    def status(self) -> int | None:
        """Return the exit status, or None while it runs."""
        return self._process.poll()

    def is_ready(self) -> bool:
        """Return whether Triton says that it and all its models are ready."""
        connection = http.client.HTTPConnection(self._probe_host, self._http_port, timeout=_PROBE_TIMEOUT)
        try:
            connection.request("GET", "/v2/health/ready")
            ready = connection.getresponse().status == http.HTTPStatus.OK
            if ready and not self._hidden:
                # It listens, so it has read its options.
                self._hidden = True
                for pid in (self._process.pid, *children(self._process.pid)):
                    hide(pid, self._secret)
            return ready
        except (OSError, http.client.HTTPException):
            return False
        finally:
            connection.close()

    def beats(self) -> list[Beat]:
        """Return the last sign of life of each backend; those that have ended as they should are forgotten."""
        beats = read_beats(self._beats)
        counting = current(beats)
        for beat in beats:
            replaced = beat not in counting and not beat.open_requests
            if (replaced or beat.state is State.CLOSED) and not is_running(beat.pid):
                forget(self._beats, beat)
        return beats

    def facts(self, beat: Beat) -> dict[str, Any]:
        """Return what a backend says that it runs."""
        return read_facts(self._beats, beat)

    def terminate(self) -> None:
        """Ask it to finish open requests and end."""
        if self.status() is None:
            self._process.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """End it and its backends at once, and remove what they leave."""
        # All of them may have ended already.
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        _bury(self._process.pid)
        self._workplace.release_shared_memory()

    def log_tail(self) -> str:
        """Return the end of what this process has logged."""
        with self._log.open("rb") as stream:
            end = stream.seek(0, os.SEEK_END)
            stream.seek(max(self._log_begin, end - _TAIL_BYTES))
            return stream.read().decode(errors="replace")

    def refusal(self) -> str | None:
        """Return in a line why a model wouldn't load, where it said so itself; None where it didn't."""
        found = _NOT_LOADED.search(self.log_tail())
        return f"model {found['model']!r}: {found['why']}" if found and found["own"] else None

    def reason(self) -> str:
        """Return the most telling line of the log's end."""
        tail = self.log_tail()
        if found := _NOT_LOADED.search(tail):
            return f"model {found['model']!r}: {found['why']}"
        lines = [line.strip() for line in tail.splitlines() if line.strip()]
        return lines[-1] if lines else "nothing in its log"

    def load(self, model: str, timeout: float) -> None:
        """Have a model loaded as it now stands on the shelf, beside one of its name that serves; return once it serves.

        Raises:
            ServeError: it can't be; one that served before still does.
        """
        self._control(model, "RepositoryModelLoad", timeout)

    def unload(self, model: str, timeout: float) -> None:
        """Have a model removed; its open requests are still answered.

        Raises:
            ServeError: Triton doesn't answer.
        """
        self._control(model, "RepositoryModelUnload", timeout)

    def _control(self, model: str, call: str, timeout: float) -> None:
        # Here, since these take longer to import than all else, and a server that is never reloaded needs none of it.
        import grpc
        from tritonclient.grpc import service_pb2, service_pb2_grpc

        # Not over HTTP: there, loading blocks a thread that also carries others' streams.
        with grpc.insecure_channel(self._grpc_address) as channel:
            stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
            request = getattr(service_pb2, f"{call}Request")(model_name=model)
            try:
                getattr(stub, call)(request, timeout=timeout, metadata=[(f"triton-grpc-protocol-{_KEY}", self._secret)])
            except grpc.RpcError as error:
                raise ServeError(f"model {model!r} can't be loaded: {_loading_problem(error, timeout)}") from None


def _bury(group: int) -> None:
    """Wait for what a group's leader has left behind: as the first process of a container, this one inherits it.

    Nobody else would, and each restart would take two of the processes that a pod may have.
    """
    end = time.monotonic() + _LAST_BREATH
    with suppress(ChildProcessError):
        # Killed processes end soon, if not at once.
        while os.waitpid(-group, os.WNOHANG)[0] or time.monotonic() < end:
            time.sleep(0.01)


@contextmanager
def _own_stderr() -> Iterator[int | None]:
    """Give a number under which a child can inherit this process's standard error; None where there is none."""
    try:
        file = os.dup(2)
    except OSError:
        yield None
        return
    try:
        yield file
    finally:
        os.close(file)


def flags(
    models: Path,
    config: ServeConfig,
    ports: Mapping[str, int],
    *,
    backends: Path | None,
    memory_prefix: str,
) -> Iterator[str]:
    """Yield Triton's options: only such as both 2.51 and 2.71 know."""
    yield f"--model-repository={models}"
    # Loaded are all that are there at the start, and later what `load` names.
    yield "--model-control-mode=explicit"
    yield "--load-model=*"
    # It ends if one of those fails. Later ones must not turn it unready: a model that could not be added isn't missed.
    yield "--strict-readiness=false"
    if backends:
        yield f"--backend-directory={backends}"
    for endpoint in ("http", "grpc", "metrics"):
        yield f"--{endpoint}-address={config.host}"
        yield f"--{endpoint}-port={ports[f'{endpoint}_port']}"
    yield "--allow-gpu-metrics=false"
    # The configuration is complete; without this the backend's process is started twice.
    yield "--disable-auto-complete-config"
    yield f"--backend-config=python,shm-region-prefix-name={memory_prefix}"
    yield f"--exit-timeout-secs={max(1, round(config.exit_timeout))}"
    if config.connection_age is not None:
        yield f"--grpc-max-connection-age={round(config.connection_age * 1000)}"
    # A client that vanished is found within 30 s, and one that asks whether the server lives isn't hung up on.
    yield "--grpc-keepalive-time=20000"
    yield "--grpc-keepalive-timeout=10000"
    yield "--grpc-keepalive-permit-without-calls=true"
    yield "--grpc-http2-max-pings-without-data=0"
    yield "--grpc-http2-min-recv-ping-interval-without-data=5000"
    yield "--grpc-http2-max-ping-strikes=0"


def closing_flags(secret: str) -> Iterator[str]:
    """Yield the options that close what is for administrators to all who don't know `secret`."""
    yield f"--http-restricted-api={_CLOSED_APIS}:{_KEY}={secret}"
    yield f"--grpc-restricted-protocol={_CLOSED_APIS}:{_KEY}={secret}"


def _loading_problem(error: Any, timeout: float) -> str:
    """Return in a few words why a model wasn't loaded."""
    if error.code().name == "DEADLINE_EXCEEDED":
        return f"not ready after {timeout:.0f} s; raise --startup-timeout if it is large"
    details = str(error.details())
    if found := _REFUSED.search(details):
        return found["why"]
    return "the server ended meanwhile" if error.code().name == "UNAVAILABLE" else details.partition("\n")[0]
