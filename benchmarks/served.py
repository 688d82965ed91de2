"""A real Triton with a real gateway before it, and what processor time each of them takes."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from urllib.parse import urlsplit

from deploykit.config import ServeConfig
from deploykit.serve import leash, serve


@dataclass(frozen=True, kw_only=True)
class Served:
    """Where a model is asked."""

    grpc: str
    http: int
    gateway: int

    def ports(self) -> dict[str, object]:
        """Return it for `drivers/callers.py`."""
        return {"grpc": self.grpc, "http": self.http, "gateway": self.gateway}


@contextmanager
def served(artifact: Path) -> Iterator[Served]:
    """Serve an artifact through Triton and the gateway."""
    config = ServeConfig(http_port=0, grpc_port=0, metrics_port=0, health_port=0, openai_port=0)
    with TemporaryDirectory() as name, serve(artifact, config, gateway_log=Path(name) / "gateway.log") as server:
        assert server.openai_url
        http, gateway = urlsplit(server.http_url).port, urlsplit(server.openai_url).port
        assert http
        assert gateway
        yield Served(grpc=server.grpc_url, http=http, gateway=gateway)


def gateway_process(port: int) -> int:
    """Return the id of the gateway that listens on a port."""
    mine = {"gateway", f"--port={port}"}
    commands = {int(path.name): _words(path) for path in Path("/proc").glob("[0-9]*")}
    # Whoever watches over it has the same words in its command, behind its own.
    (found,) = [process for process, words in commands.items() if mine < set(words) and leash.__file__ not in words]
    return found


def processor_seconds(process: int) -> float:
    """Return the processor time of a process, all its threads, those that have ended excepted."""
    return sum(int(path.read_text().split()[0]) for path in Path(f"/proc/{process}/task").glob("*/schedstat")) / 1e9


def _words(process: Path) -> list[str]:
    try:
        return process.joinpath("cmdline").read_text().split("\0")
    except OSError:
        return []
