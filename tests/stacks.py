"""The whole of what serves, as real processes: two tiny models in one Triton, and a gateway with keys in front."""

import http.client
import json
import os
import re
import shutil
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any, Final

from checkpoints import make_checkpoint
from gateways import TEMPLATE
from openai import AsyncOpenAI, OpenAI

from deploykit.client import AsyncClient, Client
from deploykit.config import PackageConfig, ServeConfig
from deploykit.convert import convert
from deploykit.package import package
from deploykit.serve import LocalServer, serve

KEY: Final = "sesame-open-0123456789"
"""The key that the gateway takes, under the name `alice`."""
CONTEXT: Final = 1024
"""Tokens of prompt and answer together."""
ROWS: Final = 16
QUEUE: Final = 48
"""Requests that may wait at one model."""
PROMPT: Final = "def greet(name):"
STEPS_VARIABLE: Final = "DEPLOYKIT_TEST_STEPS"

SLOW_MODEL = f'''"""The packaged model at twenty steps a second, which writes down what it does before each."""

import os
import time

from deploykit.serve import backend


class TritonPythonModel(backend.TritonPythonModel):
    def _beat(self) -> None:
        super()._beat()
        stats = self._engine.stats() if hasattr(self, "_engine") else None
        if stats:
            with open(os.environ["{STEPS_VARIABLE}"], "a") as file:
                print(time.monotonic(), stats.running, stats.waiting, file=file)
        time.sleep(0.05)
'''


def make_models(root: Path) -> list[Path]:
    """Package one model with a chat template twice, as `fast` and as `slow`, and return both."""
    checkpoint = make_checkpoint(root / "checkpoint", "llama", max_position_embeddings=CONTEXT)
    config = json.loads((checkpoint / "tokenizer_config.json").read_text())
    (checkpoint / "tokenizer_config.json").write_text(json.dumps({**config, "chat_template": TEMPLATE}))
    converted = convert(checkpoint, root / "converted")
    fast = package(converted, root / "fast", PackageConfig(name="fast")).path
    package(converted, root / "packaged", PackageConfig(name="slow"))
    slow = shutil.copytree(root / "packaged/model_repository", root / "slow")
    replace_code(slow / "slow/1", SLOW_MODEL)
    return [fast, slow]


def replace_code(version: Path, code: str) -> None:
    """Put other Python into a packaged model, its manifest in keeping."""
    (version / "model.py").write_text(code)
    manifest = json.loads((version / "manifest.json").read_text())
    manifest["files"]["model.py"] = {"sha256": sha256(code.encode()).hexdigest(), "size": len(code.encode())}
    (version / "manifest.json").write_text(json.dumps(manifest))


@dataclass(frozen=True, kw_only=True)
class Reply:
    """What came back over HTTP."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def error(self) -> dict[str, Any]:
        """The error object, which has to be OpenAI's to the letter."""
        error: dict[str, Any] = self.json["error"]
        assert list(self.json) == ["error"]
        assert error.keys() == {"message", "type", "param", "code"}
        assert isinstance(error["message"], str)
        assert "\n" not in error["message"]
        return error


@dataclass(frozen=True, kw_only=True)
class Step:
    """What the slow engine had to do when a step began."""

    time: float
    running: int
    waiting: int


@dataclass(frozen=True, kw_only=True)
class Stack:
    """Triton, its backends and the gateway."""

    server: LocalServer
    models: list[Path]
    gateway_log: Path
    steps_file: Path

    @property
    def url(self) -> str:
        """OpenAI's base URL."""
        assert self.server.openai_url
        return self.server.openai_url

    @property
    def port(self) -> int:
        """The gateway's port."""
        return int(self.url.split(":")[-1].split("/")[0])

    def openai(self, **options: Any) -> OpenAI:
        return OpenAI(base_url=self.url, **{"api_key": KEY, "max_retries": 0, "timeout": 30, **options})

    def async_openai(self, **options: Any) -> AsyncOpenAI:
        return AsyncOpenAI(base_url=self.url, **{"api_key": KEY, "max_retries": 0, "timeout": 30, **options})

    def grpc(self, model: str = "fast", **options: Any) -> Client:
        return Client(self.server.grpc_url, model=model, **options)

    def http(self, model: str = "fast", **options: Any) -> Client:
        return Client(f"http://127.0.0.1:{self.port}", **{"model": model, "api_key": KEY, **options})

    def async_grpc(self, model: str = "fast", **options: Any) -> AsyncClient:
        return AsyncClient(self.server.grpc_url, model=model, **options)

    def ask(
        self,
        path: str,
        body: Any = None,
        *,
        key: str | None = KEY,
        method: str | None = None,
        headers: Mapping[str, str] | None = None,
        timeout: float = 30,
    ) -> Reply:
        """Send one request; `body` is bytes as they are, pieces of a chunked body, or a value that becomes JSON."""
        sent = {"content-type": "application/json"} if body is not None else {}
        sent |= {"authorization": f"Bearer {key}"} if key else {}
        raw = isinstance(body, bytes) or hasattr(body, "__next__")
        data = body if raw or body is None else json.dumps(body).encode()
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=timeout)
        try:
            method = method or ("GET" if body is None else "POST")
            connection.request(
                method, path, data, {**sent, **(headers or {})}, encode_chunked=not isinstance(data, bytes)
            )
            response = connection.getresponse()
            found = {name.lower(): value for name, value in response.getheaders()}
            return Reply(status=response.status, headers=found, body=response.read())
        finally:
            connection.close()

    def complete(self, **fields: Any) -> Reply:
        """Ask for a completion."""
        return self.ask("/v1/completions", {"model": "fast", "prompt": PROMPT, **fields})

    def complete_or_none(self, **fields: Any) -> Reply | None:
        """Ask for a completion, and return None where there is none."""
        try:
            reply = self.complete(**fields)
        except (OSError, http.client.HTTPException):
            return None
        return reply if reply.status == 200 else None

    def is_ready(self) -> bool:
        """Return what `deploykit serve` says of the whole."""
        try:
            with urllib.request.urlopen(f"{self.server.health_url}/v2/health/ready", timeout=5):
                return True
        except urllib.error.HTTPError as error:
            error.close()
            return False

    def backend(self, model: str = "slow") -> int:
        """Return the process id of a model's backend."""
        return self.server.beats()[model].pid

    def triton(self) -> int:
        """Return the process id of Triton."""
        port = self.server.grpc_url.rpartition(":")[2]
        return self._child(lambda command: command[0].endswith("/tritonserver") and f"--grpc-port={port}" in command)

    def gateway(self) -> int:
        """Return the process id of the gateway."""
        return self._child(
            lambda command: command[2:5] == ["-m", "deploykit", "gateway"] and f"--port={self.port}" in command
        )

    def processes(self) -> dict[str, int]:
        """Return all of them."""
        backends = {f"backend of {model}": beat.pid for model, beat in self.server.beats().items()}
        return {"gateway": self.gateway(), "triton": self.triton(), **backends}

    def _child(self, wanted: Callable[[list[str]], bool]) -> int:
        # Other fixtures of the same run have a Triton and a gateway of their own, on other ports.
        (found,) = (pid for pid in descendants(os.getpid()) if wanted(command_of(pid)))
        return found

    def steps(self) -> list[Step]:
        """Return the slow engine's steps so far."""
        lines = self.steps_file.read_text().splitlines(keepends=True)
        whole = [line.split() for line in lines if line.endswith("\n")]
        return [Step(time=float(at), running=int(running), waiting=int(waiting)) for at, running, waiting in whole]

    def load(self) -> tuple[int, int]:
        """Return how many answers run and wait in the slow engine."""
        steps = self.steps()
        return (steps[-1].running, steps[-1].waiting) if steps else (0, 0)

    def calm(self) -> None:
        """Return once no request is open in any engine."""
        until(lambda: not any(beat.open_requests for beat in self.server.beats().values()), 30)

    def recovered(self) -> None:
        """Return once everything is ready and has nothing to do."""
        until(self.is_ready, 60)
        until(lambda: self.complete_or_none(max_tokens=1), 30)
        self.calm()


@contextmanager
def open_stack(root: Path, models: list[Path], **gateway: Any) -> Iterator[Stack]:
    """Start all of it on free ports; `gateway` are fields of `GatewayConfig`."""
    (root / "keys").write_text(f"alice:{KEY}\n")
    os.environ[STEPS_VARIABLE] = str(root / "steps")
    (root / "steps").touch()
    config = ServeConfig(
        http_port=0,
        grpc_port=0,
        metrics_port=0,
        health_port=0,
        openai_port=0,
        startup_timeout=60,
        heartbeat_timeout=10,
        exit_timeout=20,
        engine={"threads": 1, "max_rows": ROWS, "max_queue": QUEUE},
        gateway={"api_keys": root / "keys", "body_timeout": 1.0, **gateway},
    )
    with serve(models, config, log=root / "triton.log", gateway_log=root / "gateway.log") as server:
        yield Stack(server=server, models=models, gateway_log=root / "gateway.log", steps_file=root / "steps")


def until(condition: Callable[[], object], seconds: float) -> float:
    """Return after how many seconds a condition held."""
    begin = time.monotonic()
    while not condition():
        assert time.monotonic() - begin < seconds
        time.sleep(0.02)
    return time.monotonic() - begin


def descendants(parent: int) -> Iterable[int]:
    """Yield the processes that descend from one."""
    for thread in Path(f"/proc/{parent}/task").glob("*/children"):
        for child in map(int, thread.read_text().split()):
            yield child
            yield from descendants(child)


def command_of(pid: int) -> list[str]:
    """Return a process's command line; it may just have ended."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_text().split("\0") or [""]
    except (FileNotFoundError, ProcessLookupError):
        return [""]


def resident(pid: int) -> float:
    """Return a process's memory in MB, what it shares with nobody and what it maps."""
    (kilobytes,) = re.findall(r"VmRSS:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())
    return int(kilobytes) / 1e3
