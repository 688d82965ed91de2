"""What a fresh clone holds answers at once: the committed repository, through the command line and a real Triton."""

import json
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from deploykit.client import Client
from deploykit.engine import Engine, SamplingParams

REPOSITORY = Path(__file__).parents[2] / "model_repository"
FREE_PORTS = ["--http-port", "0", "--grpc-port", "0", "--metrics-port", "0", "--health-port", "0"]


@pytest.fixture(scope="module")
def serving() -> Iterator[dict[str, str]]:
    """`deploykit serve model_repository`, started and ended as a user does."""
    command = [sys.executable, "-m", "deploykit", "serve", str(REPOSITORY), *FREE_PORTS, "--json"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        lines = []
        for line in process.stdout:
            lines.append(line)
            if line == "}\n":
                break
        try:
            yield json.loads("".join(lines))
        finally:
            process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0


@pytest.mark.triton
def test_answers_over_grpc_what_the_engine_answers_here(serving: dict[str, str]) -> None:
    with Client(serving["grpc"]) as client, Engine.open(REPOSITORY / "tiny-python" / "1") as engine:
        for prompt in ("def ", "import ", "class Node:\n"):
            expected = engine.generate(prompt, SamplingParams(max_tokens=32))
            assert client.generate(prompt, max_tokens=32).text == expected.text
            assert expected.num_output_tokens > 8


@pytest.mark.triton
def test_the_curl_line_of_the_readme_streams(serving: dict[str, str]) -> None:
    ask = {"text_input": "def fib(n):", "max_tokens": 16, "stream": True, "return_num_output_tokens": True}
    body = json.dumps(ask).encode()
    url = f"{serving['http']}/v2/models/tiny-python/generate_stream"
    with urllib.request.urlopen(url, body, timeout=30) as response:
        events = [json.loads(line[6:]) for line in response if line.startswith(b"data: ")]
    assert len(events) > 1
    assert sum(event["num_output_tokens"] for event in events) == 16, "those that come faster than they go share a line"
    assert any(event["text_output"] for event in events)


@pytest.mark.triton
@pytest.mark.parametrize("path", ["live", "ready"])
def test_reports_its_health(serving: dict[str, str], path: str) -> None:
    with urllib.request.urlopen(f"{serving['health']}/v2/health/{path}", timeout=10) as response:
        assert response.status == 200
