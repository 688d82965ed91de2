"""One Triton process: its command line, its log, its end."""

import http.client
import os
import re
import secrets
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Final

import deploykit.serve.leash as leash
from deploykit.config import ServeConfig
from deploykit.serve.heartbeat import DIRECTORY_VARIABLE, Beat, read_beat
from deploykit.serve.install import Install
from deploykit.serve.repository import Repository
from deploykit.serve.workplace import Workplace

_TAIL_BYTES: Final = 16384
_PROBE_TIMEOUT: Final = 0.5
"""Seconds; short, because whoever asks watches the heartbeats as well."""
_CLOSED_APIS: Final = "shared-memory,trace,logging"
"""Interfaces nobody needs from outside: callers' shared memory, and settings that write files of a caller's choice."""

# Triton's line on a model that didn't load; a Python traceback follows behind "At:", its line ends written as "\\n".
_NOT_LOADED: Final = re.compile(
    r"\"failed to load '(?P<model>[^']+)' version \d+: [^:]+: (?:TritonModelException: )?(?P<why>.*?)(?:\\n|\"$)",
    re.MULTILINE,
)


class TritonProcess:
    """A running `tritonserver` with the processes of its backends.

    It dies with the thread that made it (see `leash`), so that thread must outlive it.
    """

    def __init__(
        self,
        install: Install,
        repository: Repository,
        config: ServeConfig,
        ports: Mapping[str, int],
        *,
        workplace: Workplace,
        log: Path,
    ) -> None:
        self._models, self._beats = repository.models, workplace.folder("beats")
        self._log = log
        self._log_begin = log.stat().st_size if log.exists() else 0
        self._workplace = workplace
        self._probe_host, self._http_port = reachable(config.host), ports["http_port"]
        backends = install.link_backends(workplace.folder("backends"))
        command = [sys.executable, "-I", "-S", leash.__file__, str(os.getpid()), str(install.server)]
        command += flags(repository, config, ports, backends=backends, memory_prefix=workplace.shared_memory_prefix)
        environment = {**install.environment(), DIRECTORY_VARIABLE: str(self._beats)}
        with log.open("ab") as stream:
            self._process = subprocess.Popen(  # noqa: S603  # the server that was asked for
                command,
                env=environment,
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
            return connection.getresponse().status == http.HTTPStatus.OK
        except (OSError, http.client.HTTPException):
            return False
        finally:
            connection.close()

    def beats(self) -> Mapping[str, Beat]:
        """Return the last sign of life of each model that has given one."""
        found = {model: read_beat(self._beats, model) for model in self._models}
        return {model: beat for model, beat in found.items() if beat}

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
        self._workplace.release_shared_memory()

    def log_tail(self) -> str:
        """Return the end of what this process has logged."""
        with self._log.open("rb") as stream:
            end = stream.seek(0, os.SEEK_END)
            stream.seek(max(self._log_begin, end - _TAIL_BYTES))
            return stream.read().decode(errors="replace")

    def reason(self) -> str:
        """Return the most telling line of the log's end."""
        tail = self.log_tail()
        if found := _NOT_LOADED.search(tail):
            return f"model {found['model']!r}: {found['why']}"
        lines = [line.strip() for line in tail.splitlines() if line.strip()]
        return lines[-1] if lines else "nothing in its log"


def flags(
    repository: Repository,
    config: ServeConfig,
    ports: Mapping[str, int],
    *,
    backends: Path | None,
    memory_prefix: str,
) -> Iterator[str]:
    """Yield Triton's options: only such as both 2.51 and 2.71 know."""
    yield f"--model-repository={repository.path}"
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
    # The value is a secret that nobody is told, so these are closed.
    secret = secrets.token_hex(16)
    yield f"--http-restricted-api={_CLOSED_APIS}:deploykit={secret}"
    yield f"--grpc-restricted-protocol={_CLOSED_APIS}:deploykit={secret}"
    # A client that vanished is found within 30 s, and one that asks whether the server lives isn't hung up on.
    yield "--grpc-keepalive-time=20000"
    yield "--grpc-keepalive-timeout=10000"
    yield "--grpc-keepalive-permit-without-calls=true"
    yield "--grpc-http2-max-pings-without-data=0"
    yield "--grpc-http2-min-recv-ping-interval-without-data=5000"
    yield "--grpc-http2-max-ping-strikes=0"


def reachable(host: str) -> str:
    """Return an address at which a server that listens on `host` answers from this machine."""
    return {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104  # compared, not bound
