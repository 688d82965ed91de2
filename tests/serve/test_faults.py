"""A real Triton whose parts are killed, stopped and broken."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import tritonclient.grpc as triton

from deploykit.config import ServeConfig
from deploykit.errors import ServeError
from deploykit.serve import LocalServer, serve
from deploykit.serve.heartbeat import is_running
from deploykit.serve.ports import listen

pytestmark = pytest.mark.triton

TOKENS = 40
"""Two seconds of the slow model."""

RUN = """
import sys
from deploykit.config import ServeConfig
from deploykit.serve import serve

config = ServeConfig(http_port=0, grpc_port=0, metrics_port=0, health_port=0, exit_timeout=90)
with serve(sys.argv[1], config, signals=True) as server:
    print(server.http_url, server.grpc_url, server.beats()["tiny"].pid, flush=True)
    server.wait()
"""


class Caller(threading.Thread):
    """Asks for a stream and counts what comes."""

    def __init__(self, http_url: str) -> None:
        super().__init__()
        fields = {"text_input": "def ", "stream": True, "max_tokens": TOKENS, "ignore_eos": True}
        url = f"{http_url}/v2/models/tiny/generate_stream"
        self._request = urllib.request.Request(url, json.dumps(fields).encode())
        self.first = threading.Event()
        self.tokens = 0
        self.ended = 0.0

    def run(self) -> None:
        try:
            with urllib.request.urlopen(self._request, timeout=60) as response:
                for line in response:
                    self.tokens += line.startswith(b"data: ")
                    self.first.set()
        except OSError:
            self.first.set()  # The server has gone; the count says how far it came.
        self.ended = time.monotonic()


def start_caller(http_url: str) -> Caller:
    caller = Caller(http_url)
    caller.start()
    assert caller.first.wait(20)
    return caller


def until(condition: Callable[[], object], seconds: float) -> float:
    begin = time.monotonic()
    while not condition():
        assert time.monotonic() - begin < seconds
        time.sleep(0.02)
    return time.monotonic() - begin


def is_ready(server: LocalServer) -> bool:
    try:
        with urllib.request.urlopen(f"{server.health_url}/v2/health/ready", timeout=5):
            return True
    except urllib.error.HTTPError as error:
        error.close()
        return False


def leftovers() -> set[str]:
    """Return what this machine holds of running or killed servers."""
    places = (Path("/dev/shm"), Path(os.environ.get("TMPDIR", "/tmp")))
    return {str(entry) for place in places for entry in place.glob("deploykit-serve-*")}


def test_a_killed_backend_is_heard_of_and_served_again(slow_server: LocalServer) -> None:
    caller = start_caller(slow_server.http_url)
    before, restarts = slow_server.beats()["tiny"].pid, slow_server.restarts
    killed = time.monotonic()
    os.kill(before, signal.SIGKILL)
    red = until(lambda: not is_ready(slow_server), 5)
    caller.join()
    heard = caller.ended - killed
    again = red + until(lambda: is_ready(slow_server), 30)
    assert caller.tokens < TOKENS
    assert heard < 10
    assert slow_server.restarts == restarts + 1
    assert slow_server.beats()["tiny"].pid != before
    assert start_caller(slow_server.http_url).tokens
    print(f"\nreadiness red {red:.2f} s, caller heard {heard:.2f} s, served again {again:.2f} s after kill -9")


def start_process(repository: Path) -> tuple["subprocess.Popen[str]", str, str, int]:
    process = subprocess.Popen([sys.executable, "-c", RUN, str(repository)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    http_url, grpc_url, pid = process.stdout.readline().split()
    return process, http_url, grpc_url, int(pid)


def test_sigterm_loses_no_token_and_leaves_nothing(slow_repository: Path) -> None:
    before = leftovers()
    process, http_url, grpc_url, backend = start_process(slow_repository)
    # A stream that nothing is asked on would by itself hold Triton until its exit timeout, which is 90 s here.
    with process, triton.InferenceServerClient(grpc_url) as idle:
        idle.start_stream(lambda result, error: None)
        caller = start_caller(http_url)
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0
        exited = time.monotonic()
        caller.join()
    assert caller.tokens == TOKENS
    assert not is_running(backend)
    assert leftovers() <= before
    print(f"\nexit 0 {exited - caller.ended:.2f} s after the last token")


@pytest.mark.parametrize("streams", [0, 8])
def test_a_killed_supervisor_leaves_no_process_and_the_next_one_cleans_up(
    streams: int, slow_repository: Path, anywhere: ServeConfig
) -> None:
    before = leftovers()
    process, http_url, _, backend = start_process(slow_repository)
    callers = [start_caller(http_url) for _ in range(streams)]
    with process:
        process.kill()
    until(lambda: not is_running(backend), 10)
    for caller in callers:
        caller.join()
        assert caller.tokens < TOKENS
    assert leftovers() > before
    with pytest.raises(ServeError, match="exit status 1"):
        serve(slow_repository, anywhere, triton=Path("/bin/false"))
    assert leftovers() <= before


def test_sigterm_while_starting_leaves_nothing(slow_repository: Path) -> None:
    before = leftovers()
    process = subprocess.Popen([sys.executable, "-c", RUN, str(slow_repository)], stdout=subprocess.PIPE, text=True)
    with process:
        until(lambda: leftovers() - before, 20)
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 128 + signal.SIGTERM
    until(lambda: leftovers() <= before, 5)


@pytest.mark.parametrize("name", ["http_port", "grpc_port", "metrics_port", "health_port"])
def test_a_taken_port_is_named(name: str, slow_repository: Path, anywhere: ServeConfig) -> None:
    with listen(anywhere, "health_port") as taken:
        port = taken.getsockname()[1]
        with pytest.raises(ServeError, match=rf"--{name.replace('_', '-')} {port}: can't listen"):
            serve(slow_repository, replace(anywhere, **{name: port}))


def test_a_model_that_cannot_load_says_why(
    copied: Path, anywhere: ServeConfig, replace_code: Callable[[Path, str], None]
) -> None:
    before = leftovers()
    replace_code(copied / "model_repository/tiny/1", "import no_such_module\n")
    with pytest.raises(ServeError, match=r"Triton can't be started: .*no_such_module") as caught:
        serve(copied, anywhere)
    assert "\n" not in str(caught.value)
    assert leftovers() <= before


def test_a_setting_that_the_engine_does_not_know_is_named(copied: Path, anywhere: ServeConfig) -> None:
    config = copied / "model_repository/tiny/config.pbtxt"
    config.write_text(config.read_text().replace("max_queue", "max_cue"))
    with pytest.raises(ServeError, match="unknown parameter 'max_cue'; known are"):
        serve(copied, anywhere)
