"""`gateway`: the OpenAI gateway as a process, from its start to its end."""

import asyncio
import functools
import resource
import signal
import socket
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Final

import uvicorn
import uvloop
from starlette.types import ASGIApp

from deploykit.client import AsyncClient
from deploykit.config import GatewayConfig
from deploykit.errors import ConfigError, DeploykitError
from deploykit.gateway.app import create_app
from deploykit.gateway.catalogue import Catalogue
from deploykit.gateway.connection import Bounds, Connection
from deploykit.gateway.key_ring import KeyRing
from deploykit.gateway.logs import set_up, tell
from deploykit.gateway.readiness import Readiness, watch
from deploykit.gateway.stack import guard, tell_trouble
from deploykit.gateway.tracing import Tracing, open_tracing
from deploykit.listening import bracketed, listen, reachable
from deploykit.signals import ENDING, Hangup, handling

KEEP_ALIVE: Final = 75
"""Seconds that an idle connection is kept: longer than load balancers keep theirs, or they would reuse a closed one."""
SPARE_CONNECTIONS: Final = 512
"""Connections beside those with an open request: idle ones that clients keep in their pools, and probes."""
SPARE_FILES: Final = 128
"""Files that the process has open beside its connections."""
BACKLOG: Final = 2048


@dataclass(frozen=True, kw_only=True)
class Listening:
    """A gateway that answers, as it introduces itself."""

    url: str
    models: Mapping[str, bool]
    """Those that it offers, and whether each has a chat template."""
    keys: bool
    """Whether it asks for a key."""


def run(
    paths: Sequence[Path],
    config: GatewayConfig,
    *,
    on_listening: Callable[[Listening], None],
    on_triton: Callable[[str], None] = lambda _: None,
) -> None:
    """Answer requests until SIGTERM or Ctrl-C; open streams then finish within `config.exit_timeout`.

    SIGHUP reads the models' files and the keys again. Triton may come up later, or go and come back.

    Args:
        paths: packaged artifacts and model repositories, those that Triton serves.
        config: where to listen, whom to let in, and how much to take.
        on_listening: told where and what the gateway is.
        on_triton: told how Triton is, once that is known; the log tells of changes.

    Raises:
        ArtifactError: no model there, or one that can't be read.
        ConfigError: the keys can't be read.
        ServeError: the port is taken.
    """
    set_up()
    with ExitStack() as stack:
        listening = stack.enter_context(listen(config.host, config.port, "--port"))
        _watch_peers(listening, config.body_timeout)
        ring = KeyRing(config.api_keys)
        catalogue = Catalogue(paths)
        stack.callback(catalogue.close)
        if tracing := open_tracing():
            stack.callback(tracing.close)
        _allow_files(config.max_requests + SPARE_CONNECTIONS + SPARE_FILES)
        host = bracketed(reachable(config.host))
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            told = Listening(
                url=f"http://{host}:{listening.getsockname()[1]}",
                models={model.name: model.template is not None for model in catalogue.models},
                keys=not ring.is_open,
            )
            runner.run(_serve(listening, catalogue, ring, config, tracing, lambda: on_listening(told), on_triton))


async def _serve(
    listening: socket.socket,
    catalogue: Catalogue,
    ring: KeyRing,
    config: GatewayConfig,
    tracing: Tracing | None,
    on_listening: Callable[[], None],
    on_triton: Callable[[str], None],
) -> None:
    reloads: set[asyncio.Task[None]] = set()
    hung_up = Hangup()

    def on_hangup() -> None:
        if hung_up():
            signal.raise_signal(signal.SIGTERM)
            return
        reload = asyncio.ensure_future(_reload(catalogue, ring))
        reloads.add(reload)
        reload.add_done_callback(reloads.discard)

    asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, on_hangup)
    async with AsyncClient(config.triton, timeout=config.timeout, tries=1) as backend:
        app = guard(create_app(catalogue, backend, config), config, ring, tracing=tracing)
        server = uvicorn.Server(_uvicorn_config(app, config))
        with _ending_well(server):
            on_listening()
            watching = asyncio.ensure_future(watch(Readiness(backend), lambda: catalogue.models, on_triton))
            try:
                await server.serve(sockets=[listening])
            finally:
                watching.cancel()
                await asyncio.gather(watching, return_exceptions=True)


def _uvicorn_config(app: ASGIApp, config: GatewayConfig) -> uvicorn.Config:
    bounds = Bounds(
        connections=config.max_requests + SPARE_CONNECTIONS,
        head_timeout=config.body_timeout,
        age=config.connection_age,
    )
    return uvicorn.Config(
        app,
        http=functools.partial(Connection, bounds=bounds),  # type: ignore[arg-type]  # it is only called
        ws="none",
        lifespan="on",
        # The log is ours, see `logs` and `observe`.
        log_config=None,
        access_log=False,
        server_header=False,
        # Whom a request comes from is told by its key, and not by a header that anybody can send.
        proxy_headers=False,
        timeout_keep_alive=KEEP_ALIVE,
        timeout_graceful_shutdown=max(1, round(config.exit_timeout)),
        backlog=BACKLOG,
    )


async def _reload(catalogue: Catalogue, ring: KeyRing) -> None:
    try:
        ring.reload()
    except ConfigError as error:
        # Triton serves the models that have changed, whatever became of the keys.
        tell_trouble(error)
    try:
        changed = await asyncio.to_thread(catalogue.reload)
        tell("reloaded", models=changed)
    except (DeploykitError, OSError) as error:
        # Its message may hold a path, and names what is wrong: the supervisor's own line on stderr says that.
        tell("reload failed; what was offered before still is", error=error)


@contextmanager
def _ending_well(server: uvicorn.Server) -> Iterator[None]:
    """Return after a signal instead of dying of it: uvicorn raises it once more when it has ended."""

    def end(_number: int, _frame: FrameType | None) -> None:
        server.should_exit = True

    with handling(end, *ENDING):
        yield


def _watch_peers(listening: socket.socket, seconds: float) -> None:
    """Have the kernel end connections, those accepted here, whose other end is gone or takes nothing in."""
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 15)
    listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 5)
    listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 3)
    listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, round(seconds * 1000))


def _allow_files(wanted: int) -> None:
    """Raise how many files this process may open, as far as it may do that itself; 1024 are usual."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    allowed = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    if soft != resource.RLIM_INFINITY and soft < allowed:
        resource.setrlimit(resource.RLIMIT_NOFILE, (allowed, hard))
