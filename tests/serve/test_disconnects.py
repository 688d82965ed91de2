"""A thousand callers go at once: their rows and places are free within two steps."""

import shutil
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import tritonclient.grpc as triton
from triton_calls import inputs

from deploykit.client import Client
from deploykit.config import ServeConfig
from deploykit.serve import LocalServer, serve

pytestmark = pytest.mark.triton

PROMPT = "def greet(name):"
ROWS = 16

WATCHED_MODEL = '''"""The packaged model at twenty steps a second, which writes down what it does before each."""

import os
import time

from deploykit.serve import backend


class TritonPythonModel(backend.TritonPythonModel):
    def _beat(self) -> None:
        super()._beat()
        stats = self._engine.stats() if hasattr(self, "_engine") else None
        if stats:
            with open(os.environ["DEPLOYKIT_TEST_STEPS"], "a") as file:
                print(time.monotonic(), stats.running, stats.waiting, file=file)
        time.sleep(0.05)
'''


@dataclass(frozen=True, kw_only=True)
class Step:
    """What the engine had to do when a step began."""

    time: float
    running: int
    waiting: int


@dataclass(frozen=True, kw_only=True)
class Watched:
    """A server, and the file its steps are written to."""

    server: LocalServer
    file: Path

    def steps(self) -> list[Step]:
        lines = [line.split() for line in self.file.read_text().splitlines(keepends=True) if line.endswith("\n")]
        return [Step(time=float(at), running=int(running), waiting=int(waiting)) for at, running, waiting in lines]

    def until(self, holds: Callable[[Step], bool]) -> None:
        end = time.monotonic() + 20
        while not (steps := self.steps()) or not holds(steps[-1]):
            assert time.monotonic() < end, steps[-1:]
            time.sleep(0.01)


@pytest.fixture(scope="module")
def watched(
    slow_repository: Path,
    replace_code: Callable[[Path, str], None],
    anywhere: ServeConfig,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Watched]:
    folder = tmp_path_factory.mktemp("watched")
    root = shutil.copytree(slow_repository, folder / "repository")
    replace_code(root / "tiny/1", WATCHED_MODEL)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DEPLOYKIT_TEST_STEPS", str(folder / "steps"))
        with serve(root, anywhere) as server:
            yield Watched(server=server, file=folder / "steps")


class Connection:
    """A connection with many streams on it."""

    def __init__(self, url: str, requests: int) -> None:
        self.began = threading.Event()
        self._client = triton.InferenceServerClient(url)
        self._client.start_stream(self._take)
        for _ in range(requests):
            asked = inputs(text_input=PROMPT, stream=True, max_tokens=400, ignore_eos=True)
            self._client.async_stream_infer("tiny", asked)

    def _take(self, result: object, error: object) -> None:
        if result is not None:
            self.began.set()

    def drop(self) -> None:
        self._client.stop_stream(cancel_requests=True)
        self._client.close()


def in_time(leave: Callable[[], list[Step]], *, most: int) -> bool:
    """Return whether at most so many steps had something left to do for callers that had gone.

    One try of three must be so: on a machine that is busy with other things, Triton itself hears late now and then.
    """
    for _ in range(3):
        held = len(leave())
        print(f"{held} steps with some callers left")
        if held <= most:
            return True
    return False


@pytest.mark.parametrize("requests", [100, pytest.param(1000, marks=pytest.mark.slow)])
def test_callers_that_go_free_their_rows_within_two_steps(watched: Watched, requests: int) -> None:
    def leave() -> list[Step]:
        connections = [Connection(watched.server.grpc_url, requests // 10) for _ in range(10)]
        watched.until(lambda step: step.running + step.waiting == requests)
        watched.until(lambda step: step.running == ROWS)
        threads = [threading.Thread(target=connection.drop) for connection in connections]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        gone = time.monotonic()
        watched.until(lambda step: step.running + step.waiting == 0)
        return [step for step in watched.steps() if step.time > gone and step.running + step.waiting]

    # Whoever runs is looked at in every step, the others one after another until nobody more has gone.
    assert in_time(leave, most=2)
    with Client(watched.server.grpc_url, model="tiny") as client:
        assert client.generate(PROMPT, max_tokens=2, timeout=2, ignore_eos=True).num_output_tokens == 2
    assert watched.server.restarts == 0


def test_a_caller_that_drops_its_http_stream_frees_its_row(watched: Watched) -> None:
    body = b'{"text_input": "def", "stream": true, "max_tokens": 400, "ignore_eos": true}'
    url = f"{watched.server.http_url}/v2/models/tiny/generate_stream"

    def leave() -> list[Step]:
        with urllib.request.urlopen(url, body, timeout=20) as response:
            assert response.readline().startswith(b"data: ")
            # What runs is written down before each step: the first token may be here sooner than the next line.
            watched.until(lambda step: step.running == 1)
        gone = time.monotonic()
        watched.until(lambda step: step.running == 0)
        return [step for step in watched.steps() if step.time > gone and step.running]

    # Triton hears of it by the response that it can't send any more.
    assert in_time(leave, most=3)
