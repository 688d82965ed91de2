"""What reaches a server that fails every request: how many of them for each that is asked."""

import asyncio
import json
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent import futures
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, Self

import grpc

from deploykit.client import AsyncClient, Client, UnavailableError

REQUESTS: Final = 300
AT_ONCE: Final = 16
MODELS: Final = Path(__file__).parents[1] / "model_repository"
"""What the gateway reads; nothing of it ever runs here."""
_MODEL: Final = "tiny-python"


class Failing(grpc.GenericRpcHandler):  # type: ignore[misc]  # grpc has no types
    """A gRPC server of which every method is unavailable; a context manager."""

    def __init__(self) -> None:
        self.calls = 0
        self._counting = threading.Lock()
        self._server = grpc.server(futures.ThreadPoolExecutor(AT_ONCE), handlers=[self])
        self.address = f"127.0.0.1:{self._server.add_insecure_port('127.0.0.1:0')}"

    def service(self, handler_call_details: Any) -> Any:  # noqa: ARG002  # every method is the same
        """Return the handler of any method."""
        return grpc.unary_stream_rpc_method_handler(self._fail)

    def _fail(self, _request: bytes, context: Any) -> Iterator[bytes]:
        with self._counting:
            self.calls += 1
        context.abort(grpc.StatusCode.UNAVAILABLE, "nobody is here")
        yield b""

    def __enter__(self) -> Self:
        self._server.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.stop(0).wait()


def measure() -> dict[str, Any]:
    """Return how many requests reached the server for each that was asked, by who asked, and the seconds they took."""
    found = {}
    with Failing() as server, _gateway(server.address) as gateway:
        ways: dict[str, Callable[[], None]] = {
            "Client": lambda: _in_turn(server.address),
            "AsyncClient": lambda: asyncio.run(_at_once(server.address)),
            "Client, through the gateway": lambda: _in_turn(gateway),
            "AsyncClient, through the gateway": lambda: asyncio.run(_at_once(gateway)),
        }
        for who, ask in ways.items():
            before, began = server.calls, time.perf_counter()
            ask()
            row = {"requests": REQUESTS, "reached": server.calls - before, "seconds": time.perf_counter() - began}
            found[who] = {**row, "a request": row["reached"] / REQUESTS}
            print(f"{who:<34} {row['reached'] / REQUESTS:.3f} of each request, {row['seconds']:.1f} s", flush=True)
    return found


def _in_turn(url: str) -> None:
    """Ask one after the other; each fails."""
    with Client(url, model=_MODEL) as client:
        for _ in range(REQUESTS):
            try:
                client.generate("def ", max_tokens=4)
            except UnavailableError:
                continue
            sys.exit("a server that fails every request has answered one")


async def _at_once(url: str) -> None:
    """Ask some at a time; each fails."""
    async with AsyncClient(url, model=_MODEL) as client:
        left = iter(range(REQUESTS))

        async def loop() -> None:
            for _ in left:
                try:
                    await client.generate("def ", max_tokens=4)
                except UnavailableError:
                    continue
                sys.exit("a server that fails every request has answered one")

        await asyncio.gather(*(loop() for _ in range(AT_ONCE)))


@contextmanager
def _gateway(triton: str) -> Iterator[str]:
    """Run a gateway in front of a server and yield its URL."""
    command = [sys.executable, "-P", "-m", "deploykit", "gateway", "--json", f"--triton={triton}", "--port=0"]
    with subprocess.Popen([*command, str(MODELS)], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
        try:
            assert process.stdout
            yield json.loads(process.stdout.readline())["openai"].removesuffix("/v1")
        finally:
            process.terminate()
