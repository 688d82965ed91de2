"""`serve`: a real Triton on this machine, watched over."""

import os
import signal
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from pathlib import Path
from types import FrameType
from typing import Any, Self

from deploykit.config import EngineConfig, ServeConfig
from deploykit.errors import DeploykitError, ServeError
from deploykit.listening import bracketed, reachable
from deploykit.serve.events import Event, Events, Tell
from deploykit.serve.gateway import Gateway, check_inputs, check_installed
from deploykit.serve.health import HealthServer
from deploykit.serve.heartbeat import Beat, current
from deploykit.serve.install import Install, find_install
from deploykit.serve.loading import Loading
from deploykit.serve.ports import choose_ports, listen
from deploykit.serve.supervisor import Phase, Supervisor
from deploykit.serve.triton import TritonProcess
from deploykit.serve.workplace import Workplace
from deploykit.signals import ENDING, Hangup, handling


class LocalServer:
    """A running server; a context manager that ends it. `serve` makes one."""

    def __init__(
        self,
        loading: Loading,
        config: ServeConfig,
        install: Install,
        *,
        log: Path | None,
        gateway_log: Path | None,
    ) -> None:
        self._loading = loading
        self._events = Events()
        self._stack = ExitStack()
        with ExitStack() as stack:
            ports = choose_ports(config)
            listening = stack.enter_context(listen(config, "health_port"))
            workplace = stack.enter_context(Workplace())
            file = log or workplace.path / "triton.log"

            def launch() -> TritonProcess:
                models, engines = loading.begin(workplace.folder("shelf")), len(loading.names)
                return TritonProcess(install, models, config, ports, engines=engines, workplace=workplace, log=file)

            host = bracketed(reachable(config.host))
            self.http_url = f"http://{host}:{ports['http_port']}"
            self.grpc_url = f"{host}:{ports['grpc_port']}"
            self._gateway: Gateway | None = None
            if port := ports.get("openai_port"):
                self._gateway = Gateway(
                    loading.paths, config, port=port, grpc=self.grpc_url, log=gateway_log, tell=self._events.tell
                )
            self._supervisor = Supervisor(launch, config, before_end=self._drain_gateway, tell=self._events.tell)
            stack.enter_context(HealthServer(listening, live=self._live, ready=self._ready))
            self._stack = stack.pop_all()
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

    @property
    def gateway_restarts(self) -> int:
        """How often a dead gateway was replaced."""
        return self._gateway.restarts if self._gateway else 0

    @property
    def openai_url(self) -> str | None:
        """What OpenAI's clients take as their base URL; None without a gateway."""
        return self._gateway.url if self._gateway else None

    @property
    def models(self) -> list[str]:
        """Names of the models, sorted."""
        return self._loading.names

    def beats(self) -> Mapping[str, Beat]:
        """Return the last sign of life of each model: its process, and how many requests are open.

        Of a model that is being replaced, it is that of the backend which gets new requests.
        """
        return {beat.model: beat for beat in current(self._supervisor.beats())}

    def facts(self) -> Mapping[str, Mapping[str, Any]]:
        """Return what each model says that it runs: version, precision, mode, rows, context, memory, threads."""
        process = self._process()
        return {model: process.facts(beat) for model, beat in self.beats().items()}

    def start(self) -> None:
        """Start it and return once every model is ready, and the gateway if there is one.

        Raises:
            ServeError: it ended, or was not ready in time.
        """
        self._supervisor.start()
        if self._gateway and self._supervisor.phase is Phase.SERVING:
            self._gateway.start()

    def reload(self) -> list[str]:
        """Have the files that have changed served instead, and return the names of the models that were replaced.

        Open requests end on the engine that they began on; new ones go to the new engine as soon as it is ready. Until
        the last of the open ones has ended, both are in memory. Models that were added are loaded, those whose files
        are gone are served no longer. Any thread may call.

        Raises:
            ArtifactError: a file isn't what its manifest says; everything is served as before.
            ServeError: Triton could not load a model; what served before it still does.
        """
        names = self._loading.reload(self._process())
        if self._gateway:
            self._gateway.reload()
        return names

    def wait(
        self,
        *,
        on_reload: Callable[[list[str] | DeploykitError], None] = lambda _: None,
        on_event: Tell = lambda _: None,
    ) -> None:
        """Return when the server has ended: after SIGTERM or Ctrl-C if this is the main thread, or after `close`.

        The first signal lets open requests finish, the second doesn't. SIGHUP reloads, unless it means that the
        terminal was closed, which ends the server.

        Args:
            on_reload: told, on a thread of its own, which models a reload has replaced, or why it could not.
            on_event: told, on another one, what has died, what serves again, and that the end has been asked for.

        Raises:
            ServeError: the server kept dying and was given up.
        """

        def on_end(_number: int, _frame: FrameType | None) -> None:
            again = self._supervisor.is_stopping
            self._supervisor.request_stop(hurry=again)
            if not again:
                self._events.tell(Event(what="stopping"))

        hung_up = Hangup()

        def on_hangup(number: int, frame: FrameType | None) -> None:
            if hung_up():
                on_end(number, frame)
            else:
                threading.Thread(target=self._reload_and_tell, args=(on_reload,), name="reload", daemon=True).start()

        with self._events.heard_by(on_event), handling(on_end, *ENDING), handling(on_hangup, signal.SIGHUP):
            self._supervisor.wait()

    def _reload_and_tell(self, on_reload: Callable[[list[str] | DeploykitError], None]) -> None:
        try:
            on_reload(self.reload())
        except DeploykitError as error:
            on_reload(error)

    def _process(self) -> TritonProcess:
        process = self._supervisor.process
        if not isinstance(process, TritonProcess) or self._supervisor.phase is not Phase.SERVING:
            raise ServeError("the server starts or ends just now; try again when it is ready")
        return process

    def close(self, *, hurry: bool = False) -> None:
        """Let open requests finish (not in a hurry), end the server, and remove all it used."""
        try:
            self._supervisor.stop(hurry=hurry)
            if self._gateway:
                # Triton is gone: nothing that still runs there has an end.
                self._gateway.stop(hurry=True)
        finally:
            self._stack.close()

    def _drain_gateway(self, hurry: threading.Event) -> None:
        # First, and Triton afterwards, which would refuse what the gateway has taken.
        if self._gateway:
            self._gateway.drain(hurry)

    def _live(self) -> str | None:
        return self._supervisor.live() or (self._gateway.lost() if self._gateway else None)

    def _ready(self) -> str | None:
        return self._supervisor.ready() or (self._gateway.trouble() if self._gateway else None)


def serve(
    path: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
    config: ServeConfig | None = None,
    *,
    triton: Path | None = None,
    log: Path | None = None,
    gateway_log: Path | None = None,
    signals: bool = False,
) -> LocalServer:
    """Return a running Triton that serves a packaged artifact or a model repository, every model ready.

    Args:
        path: a packaged artifact, or a model repository, or several of these, whose models are served together; their
            files are verified first.
        config: ports, time limits, and how the engines run.
        triton: the `tritonserver` to start; that of the wheel, or else the first in PATH, where None.
        log: file to append Triton's log to; one that is removed with the server where None.
        gateway_log: file to append the gateway's log to; stderr where None.
        signals: whether SIGTERM while starting leaves through `SystemExit`, so that everything is cleaned up
            (main thread only).

    Raises:
        ArtifactError: nothing to serve there, or a file was changed.
        MissingExtraError: there is no Triton on this machine, or no gateway.
        ServeError: a port is taken, or Triton or the gateway does not become ready.

    Example:
        >>> with serve("out") as server:  # doctest: +SKIP
        ...     print(server.http_url)
    """
    config = config or ServeConfig()
    paths = [path] if isinstance(path, str | os.PathLike) else path
    if config.openai_port is not None:
        check_installed()
    with _leaving() if signals else nullcontext():
        mode = config.engine.get("mode", EngineConfig.mode)
        loading = Loading([Path(each) for each in paths], mode=mode, timeout=config.startup_timeout)
        if config.openai_port is not None:
            check_inputs(loading.paths, config)
        install = find_install(triton)
        install.check()
        server = LocalServer(loading, config, install, log=log, gateway_log=gateway_log)
        try:
            server.start()
        except BaseException:
            server.close(hurry=True)
            raise
    return server


@contextmanager
def _leaving() -> Iterator[None]:
    """Leave on a signal as on an error, all cleaned up; a SIGHUP that asks for a reload finds nothing to reload yet."""
    hung_up = Hangup()

    def on_hangup(number: int, frame: FrameType | None) -> None:
        if hung_up():
            _leave(number, frame)

    with handling(_leave, *ENDING), handling(on_hangup, signal.SIGHUP):
        yield


def _leave(number: int, _frame: FrameType | None) -> None:
    # Once: a second signal must not interrupt the cleaning up that the first has begun.
    for each in (*ENDING, signal.SIGHUP):
        signal.signal(each, signal.SIG_IGN)
    if number == signal.SIGINT:
        raise KeyboardInterrupt
    raise SystemExit(128 + number)
