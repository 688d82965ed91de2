"""What a pod was given is what its processes take, measured on a real Triton with every row full and a queue."""

import json
import os
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from deploykit.config import EngineConfig, ServeConfig
from deploykit.deploy.config import DeployConfig
from deploykit.deploy.reading import read_facts
from deploykit.deploy.sizing import SUPERVISOR, size_pod
from deploykit.serve import LocalServer, serve

REPOSITORY = Path(__file__).parents[2] / "model_repository"
QUEUE = 300

pytestmark = [pytest.mark.triton, pytest.mark.slow]


def processes(pid: int) -> list[int]:
    """Return a process and all below it."""
    children = [
        int(each) for task in Path(f"/proc/{pid}/task").iterdir() for each in (task / "children").read_text().split()
    ]
    return [pid, *(each for child in children for each in processes(child))]


def peak(pid: int) -> int:
    """Return the most bytes of a process that were in memory at once, those it shares with others in full."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:"))


def ask(server: LocalServer, tokens: int) -> None:
    """Have one row filled with an answer."""
    body = {"text_input": "def", "max_tokens": tokens, "ignore_eos": True, "stream": True}
    url = f"{server.http_url}/v2/models/tiny-python/generate_stream"
    with urllib.request.urlopen(urllib.request.Request(url, data=json.dumps(body).encode())) as answer:
        assert b"data:" in answer.read()


def test_a_pods_processes_stay_within_its_limit() -> None:
    config = DeployConfig(engine=EngineConfig(max_queue=QUEUE))
    facts = read_facts(REPOSITORY, config)
    sizing = size_pod(facts, config)
    engine = {"max_rows": facts.rows, "max_context": facts.context, "cache_memory": sizing.cache, "threads": 2}
    free = ServeConfig(http_port=0, grpc_port=0, metrics_port=0, health_port=0, engine={**engine, "max_queue": QUEUE})
    with serve([REPOSITORY], free) as server:
        with ThreadPoolExecutor(QUEUE) as callers:
            # Each row is filled to its end, and the others wait meanwhile.
            list(callers.map(lambda _: ask(server, 480), range(2 * facts.rows)))
            list(callers.map(lambda _: ask(server, 8), range(QUEUE)))
        # The peaks of all, as if they had come at one moment; what is left when the callers are gone would be less.
        taken = sum(map(peak, processes(os.getpid())[1:]))
    # Without `deploykit serve` itself, which is this test here, and without what /dev/shm may grow to.
    given = sizing.serve.memory - SUPERVISOR - sizing.shm
    assert 0.3 * given < taken < given, f"{taken / 2**20:.0f} MiB of {given / 2**20:.0f}"
