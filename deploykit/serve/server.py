"""`serve`: a real Triton on this machine, watched over."""

import os
import signal
import threading
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import FrameType
from typing import Final, Self

from deploykit.config import ServeConfig
from deploykit.serve.health import HealthServer
from deploykit.serve.heartbeat import Beat
from deploykit.serve.install import Install, find_install
from deploykit.serve.ports import choose_ports, listen
from deploykit.serve.repository import Repository, open_repository
from deploykit.serve.supervisor import Supervisor
from deploykit.serve.triton import TritonProcess, reachable
from deploykit.serve.workplace import Workplace

_SIGNALS: Final = (signal.SIGTERM, signal.SIGINT)


class LocalServer:
    """A running server; a context manager that ends it. `serve` makes one."""

    def __init__(self, repository: Repository, config: ServeConfig, install: Install, *, log: Path | None) -> None:
        self.models = list(repository.models)
        self._stack = ExitStack()
        with ExitStack() as stack:
            ports = choose_ports(config)
            listening = stack.enter_context(listen(config, "health_port"))
            workplace = stack.enter_context(Workplace())
            file = log or workplace.path / "triton.log"

            def launch() -> TritonProcess:
                return TritonProcess(install, repository, config, ports, workplace=workplace, log=file)

            self._supervisor = Supervisor(launch, config)
            live, ready = self._supervisor.live, self._supervisor.ready
            stack.enter_context(HealthServer(listening, live=live, ready=ready))
            self._stack = stack.pop_all()
        host = reachable(config.host)
        host = f"[{host}]" if ":" in host else host
        self.http_url = f"http://{host}:{ports['http_port']}"
        self.grpc_url = f"{host}:{ports['grpc_port']}"
        self.metrics_url = f"http://{host}:{ports['metrics_port']}/metrics"
        self.health_url = f"http://{host}:{listening.getsockname()[1]}"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def restarts(self) -> int:
        """How often a dead server was replaced."""
        return self._supervisor.restarts

    def beats(self) -> Mapping[str, Beat]:
        """Return the last sign of life of each model: its process, and how many requests are open."""
        return self._supervisor.beats()

    def start(self) -> None:
        """Start it and return once every model is ready.

        Raises:
            ServeError: it ended, or was not ready in time.
        """
        self._supervisor.start()

    def wait(self) -> None:
        """Return when the server has ended: after SIGTERM or Ctrl-C if this is the main thread, or after `close`.

        The first signal lets open requests finish, the second doesn't.

        Raises:
            ServeError: the server kept dying and was given up.
        """

        def on_signal(_number: int, _frame: FrameType | None) -> None:
            self._supervisor.request_stop(hurry=self._supervisor.is_stopping)

        with _handling(on_signal):
            self._supervisor.wait()

    def close(self, *, hurry: bool = False) -> None:
        """Let open requests finish (not in a hurry), end the server, and remove all it used."""
        try:
            self._supervisor.stop(hurry=hurry)
        finally:
            self._stack.close()


def serve(
    path: str | os.PathLike[str],
    config: ServeConfig | None = None,
    *,
    triton: Path | None = None,
    log: Path | None = None,
    signals: bool = False,
) -> LocalServer:
    """Return a running Triton that serves a packaged artifact or a model repository, every model ready.

    Args:
        path: a packaged artifact, or a model repository; its files are verified first.
        config: ports and time limits.
        triton: the `tritonserver` to start; that of the wheel, or else the first in PATH, where None.
        log: file to append Triton's log to; one that is removed with the server where None.
        signals: whether SIGTERM while starting leaves through `SystemExit`, so that everything is cleaned up
            (main thread only).

    Raises:
        ArtifactError: nothing to serve there, or a file was changed.
        MissingExtraError: there is no Triton on this machine.
        ServeError: a port is taken, or Triton does not become ready.

    Example:
        >>> with serve("out") as server:  # doctest: +SKIP
        ...     print(server.http_url)
    """
    config = config or ServeConfig()
    with _handling(_leave) if signals else ExitStack():
        repository = open_repository(Path(path))
        install = find_install(triton)
        install.check()
        server = LocalServer(repository, config, install, log=log)
        try:
            server.start()
        except BaseException:
            server.close(hurry=True)
            raise
    return server


def _leave(number: int, _frame: FrameType | None) -> None:
    # Once: a second signal must not interrupt the cleaning up that the first has begun.
    for each in _SIGNALS:
        signal.signal(each, signal.SIG_IGN)
    if number == signal.SIGINT:
        raise KeyboardInterrupt
    raise SystemExit(128 + number)


@contextmanager
def _handling(handler: "signal._HANDLER") -> Iterator[None]:
    """Let `handler` take SIGTERM and SIGINT; only the main thread can, elsewhere nothing changes."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, handler) for number in _SIGNALS}
    try:
        yield
    finally:
        for number, old in before.items():
            signal.signal(number, old)
