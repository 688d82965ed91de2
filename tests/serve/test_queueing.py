"""A real Triton with one row: who waits, for how long, and what the others hear."""

import json
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from triton_calls import generate, stream
from tritonclient.utils import InferenceServerException

from deploykit.client import Client
from deploykit.config import ServeConfig
from deploykit.serve import LocalServer, serve

pytestmark = pytest.mark.triton

PROMPT = "def greet(name):"
QUEUE = 4


@pytest.fixture(scope="module")
def server(
    slow_repository: Path, anywhere: ServeConfig, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[LocalServer]:
    """The tiny model at twenty steps a second, one row and a short queue."""
    root = shutil.copytree(slow_repository, tmp_path_factory.mktemp("narrow") / "repository")
    file = root / "tiny/config.pbtxt"
    text = file.read_text()
    for name, before, now in (("max_rows", 16, 1), ("max_queue", 1024, QUEUE)):
        was = f'key: "{name}"\n  value {{\n    string_value: "{before}"'
        assert was in text
        text = text.replace(was, was.replace(f'"{before}"', f'"{now}"'))
    file.write_text(text)
    with serve(root, anywhere) as running:
        yield running


@contextmanager
def row_taken(server: LocalServer) -> Iterator[None]:
    """Take the row, for ten seconds at most."""
    with Client(server.grpc_url, model="tiny") as client:
        stream = client.generate(PROMPT, stream=True, max_tokens=200, ignore_eos=True)
        next(iter(stream))
        yield
        stream.close()


@pytest.fixture
def busy(server: LocalServer) -> Iterator[LocalServer]:
    """The server, its row taken."""
    with row_taken(server):
        yield server
    until_open(server, 0)


def until_open(server: LocalServer, requests: int) -> None:
    end = time.monotonic() + 10
    while server.beats()["tiny"].open_requests != requests:
        assert time.monotonic() < end
        time.sleep(0.005)


def by_tensor(server: LocalServer, **fields: Any) -> str:
    """Return what a gRPC stream says to a request: its text, or an error."""
    try:
        with stream(server, text_input=PROMPT, max_tokens=2, **fields) as responses:
            return "".join(part["text_output"][0].decode() for part in responses)
    except InferenceServerException as error:
        return str(error.message())


def by_json(server: LocalServer, **fields: Any) -> str:
    return by_tensor(server, sampling_parameters=json.dumps(fields))


def by_triton(server: LocalServer, *, timeout: float) -> str:
    return by_tensor(server, timeout_us=round(timeout * 1e6))


def by_http(server: LocalServer, **fields: Any) -> str:
    return generate(server, text_input=PROMPT, max_tokens=2, **fields)[1]


@pytest.mark.parametrize("way", [by_tensor, by_json, by_triton, by_http])
def test_who_waits_too_long_hears_so_and_is_not_run(busy: LocalServer, way: Callable[..., str]) -> None:
    began = time.monotonic()
    said = way(busy, timeout=0.2)
    # The row is taken for ten seconds.
    assert 0.2 <= time.monotonic() - began < 5
    assert "DEADLINE_EXCEEDED: the request waited longer than its timeout and was not run" in said


def test_a_full_queue_is_told_at_once(busy: LocalServer) -> None:
    with Client(busy.grpc_url, model="tiny") as client:
        streams = [client.generate(PROMPT, stream=True, max_tokens=2) for _ in range(QUEUE)]
        until_open(busy, QUEUE + 1)
        began = time.monotonic()
        assert "UNAVAILABLE" in by_tensor(busy)
        assert "UNAVAILABLE" in by_http(busy)
        # What the engine is may be asked all the same, and nobody waits for it.
        with stream(busy, parameters={"describe": True}) as responses:
            assert json.loads(next(responses)["text_output"][0])["rows"] == 1
        assert busy.beats()["tiny"].open_requests == QUEUE + 1
        assert time.monotonic() - began < 2
        for waiting in streams:
            waiting.close()


def order(server: LocalServer, asked: list[tuple[str, dict[str, Any]]]) -> list[str]:
    """Return in which order requests end that were queued one after another while the row was taken."""
    ended: list[str] = []

    def run(name: str, fields: dict[str, Any]) -> None:
        by_tensor(server, **fields)
        ended.append(name)

    with row_taken(server):
        threads = [threading.Thread(target=run, args=each) for each in asked]
        for waiting, thread in enumerate(threads, 2):
            thread.start()
            until_open(server, waiting)
    for thread in threads:
        thread.join()
    until_open(server, 0)
    return ended


# Every fourth turn is that of whoever came first, so that nobody starves.


def test_the_lower_priority_goes_first(server: LocalServer) -> None:
    asked = [("late 1", {"priority": 1}), ("late 2", {"priority": 1}), ("soon 1", {}), ("soon 2", {"priority": -1})]
    ended = order(server, asked)
    assert ended[-1] == "late 2"
    assert ended.index("soon 2") < ended.index("soon 1")


def test_a_client_with_one_request_does_not_wait_for_all_of_anothers(server: LocalServer) -> None:
    ended = order(server, [*((f"a{at}", {"client": "a"}) for at in range(3)), ("b", {"client": "b"})])
    assert ended.index("b") < ended.index("a2")
