"""A real Triton whose models are replaced under load, and one that serves several."""

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from checkpoints import make_checkpoint

from deploykit.artifact import Artifact
from deploykit.client import Client
from deploykit.config import PackageConfig, ServeConfig
from deploykit.convert import convert
from deploykit.disk import exchange
from deploykit.engine import Engine, SamplingParams
from deploykit.errors import ArtifactError, ServeError
from deploykit.package import package
from deploykit.serve import LocalServer, serve
from deploykit.serve.heartbeat import State, is_running
from deploykit.serve.triton import TritonProcess

pytestmark = pytest.mark.triton

PROMPT = "def "
TOKENS = 60
"""Three seconds of the slow model."""
STREAMS = 20
"""More than there are rows: some wait in the queue while their model is replaced."""
SLOW_TO_LOAD = '''"""The packaged model, which takes its time to load."""

import time

from deploykit.serve import backend


class Engine(backend.Engine):
    @classmethod
    def open(cls, *args, **kwargs):
        time.sleep(5)
        return super().open(*args, **kwargs)


backend.Engine = Engine
TritonPythonModel = backend.TritonPythonModel
'''


class Stream(threading.Thread):
    """Asks for an answer in pieces, and keeps them."""

    def __init__(self, http_url: str, model: str = "tiny", tokens: int = TOKENS) -> None:
        super().__init__()
        fields = {"text_input": PROMPT, "stream": True, "max_tokens": tokens, "ignore_eos": True}
        self._request = urllib.request.Request(
            f"{http_url}/v2/models/{model}/generate_stream", json.dumps(fields).encode()
        )
        self.first = threading.Event()
        self.text = ""
        self.error: str | None = None
        self.ended = 0.0
        self.start()

    def run(self) -> None:
        try:
            with urllib.request.urlopen(self._request, timeout=60) as response:
                for line in response:
                    if line.startswith(b"data: "):
                        piece = json.loads(line[6:])
                        self.error = self.error or piece.get("error")
                        self.text += piece.get("text_output", "")
                        self.first.set()
        except OSError as error:
            self.error = repr(error)
        self.ended = time.monotonic()
        self.first.set()


@pytest.fixture(scope="module")
def models(
    packaged: Artifact,
    slow_repository: Path,
    replace_code: Callable[[Path, str], None],
    tmp_path_factory: pytest.TempPathFactory,
) -> dict[str, Path]:
    """Repositories of two models of the same name, both at twenty steps a second, and one that loads slowly."""
    slow = (slow_repository / "tiny/1/model.py").read_text()
    root = tmp_path_factory.mktemp("models")
    checkpoint = make_checkpoint(root / "checkpoint", "llama", seed=7)
    other = package(convert(checkpoint, root / "converted"), root / "packaged", PackageConfig(name="tiny"))
    made = {}
    for name, artifact, code in (
        ("first", packaged, slow),
        ("second", other, slow),
        ("slow to load", packaged, SLOW_TO_LOAD),
    ):
        made[name] = shutil.copytree(artifact.path / "model_repository", root / name)
        replace_code(made[name] / "tiny/1", code)
    return made


@pytest.fixture(scope="module")
def answers(models: dict[str, Path]) -> dict[str, str]:
    """What each model answers."""
    said = {}
    for name in ("first", "second"):
        with Engine.open(models[name] / "tiny/1") as engine:
            said[name] = engine.generate(PROMPT, SamplingParams(max_tokens=TOKENS, ignore_eos=True)).text
    assert said["first"][:8] != said["second"][:8]
    return said


@pytest.fixture(scope="module")
def repository(models: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    return shutil.copytree(models["first"], tmp_path_factory.mktemp("served") / "repository")


@pytest.fixture(scope="module")
def running(repository: Path, anywhere: ServeConfig) -> Iterator[LocalServer]:
    with serve(repository, anywhere) as server:
        yield server


@pytest.fixture
def put(repository: Path, models: dict[str, Path]) -> Callable[[str], None]:
    """Put a model in place, in one step, as `deploykit package --overwrite` does."""

    def put(name: str) -> None:
        new = shutil.copytree(models[name], repository.with_name("new"))
        exchange(new, repository)
        shutil.rmtree(new)

    return put


def until(condition: Callable[[], object], seconds: float = 20) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


def backends(server: LocalServer) -> list[Any]:
    return [beat for beat in server._supervisor.beats() if is_running(beat.pid)]


def test_streams_end_on_the_model_they_began_on_and_no_request_fails(
    running: LocalServer, put: Callable[[str], None], answers: dict[str, str]
) -> None:
    put("first")
    running.reload()
    streams = [Stream(running.http_url) for _ in range(STREAMS)]
    until(lambda: all(stream.first.is_set() for stream in streams[:8]))
    short: list[Stream] = []
    stop = threading.Event()

    def keep_asking() -> None:
        while not stop.is_set():
            short.append(Stream(running.http_url, tokens=2))
            short[-1].join()

    load = [threading.Thread(target=keep_asking) for _ in range(2)]
    for thread in load:
        thread.start()
    put("second")
    began = time.monotonic()
    assert running.reload() == ["tiny"]
    took = time.monotonic() - began
    after = Stream(running.http_url)
    after.join()
    stop.set()
    for thread in [*streams, *load]:
        thread.join()
    assert [stream.error for stream in [*streams, *short, after]] == [None] * (STREAMS + len(short) + 1)
    assert [stream.text for stream in streams] == [answers["first"]] * STREAMS
    assert after.text == answers["second"]
    assert all(answers["first"].startswith(one.text) or answers["second"].startswith(one.text) for one in short)
    assert running.restarts == 0
    # The old engine goes once its last stream has ended.
    until(lambda: len(backends(running)) == 1)
    print(f"\nreloaded in {took:.2f} s beside {STREAMS} streams; {len(short)} short requests meanwhile, none failed")


@pytest.mark.parametrize("how", ["a byte", "a setting"])
def test_what_is_broken_leaves_the_old_model_serving(
    how: str, running: LocalServer, repository: Path, put: Callable[[str], None], answers: dict[str, str]
) -> None:
    put("first")
    running.reload()
    stream = Stream(running.http_url)
    assert stream.first.wait(20)
    put("second")
    if how == "a byte":
        file = repository / "tiny/1/onnx/model.onnx_data"
        content = bytearray(file.read_bytes())
        content[100] ^= 1
        file.write_bytes(content)
        error: type[Exception] = ArtifactError
        said = r"model\.onnx_data: SHA-256 differs"
    else:
        config = repository / "tiny/config.pbtxt"
        config.write_text(config.read_text().replace("max_rows", "max_rose"))
        error, said = ServeError, r"model 'tiny' can't be loaded: config\.pbtxt: unknown parameter 'max_rose'"
    with pytest.raises(error, match=said) as caught:
        running.reload()
    assert "\n" not in str(caught.value)
    after = Stream(running.http_url)
    for each in (stream, after):
        each.join()
        assert (each.error, each.text) == (None, answers["first"])
    with urllib.request.urlopen(f"{running.http_url}/v2/health/ready", timeout=5) as response:
        assert response.status == 200
    assert running.restarts == 0


def test_a_backend_that_dies_while_it_loads_is_no_restart(running: LocalServer, put: Callable[[str], None]) -> None:
    put("slow to load")
    failed: list[Exception] = []

    def reload() -> None:
        try:
            running.reload()
        except ServeError as error:
            failed.append(error)

    thread = threading.Thread(target=reload)
    thread.start()
    until(lambda: any(beat.state is State.LOADING for beat in backends(running)))
    os.kill(next(beat.pid for beat in backends(running) if beat.state is State.LOADING), signal.SIGKILL)
    thread.join()
    assert "model 'tiny' can't be loaded" in str(failed[0])
    stream = Stream(running.http_url, tokens=2)
    stream.join()
    assert (stream.error, running.restarts) == (None, 0)


def test_the_callers_of_a_replaced_backend_hear_of_its_death(running: LocalServer, put: Callable[[str], None]) -> None:
    put("first")
    running.reload()
    old = running.beats()["tiny"].pid
    stream = Stream(running.http_url, tokens=100)
    assert stream.first.wait(20)
    put("second")
    running.reload()
    killed = time.monotonic()
    os.kill(old, signal.SIGKILL)
    stream.join()
    heard = stream.ended - killed
    assert heard < 5
    until(lambda: running.restarts == 1 and running.beats() and running._supervisor.ready() is None)
    print(f"\nthe caller of a replaced backend heard of kill -9 after {heard:.2f} s")


def test_loading_is_for_nobody_else(running: LocalServer) -> None:
    for path in ("index", "models/tiny/load", "models/tiny/unload"):
        with (
            pytest.raises(urllib.error.HTTPError) as caught,
            urllib.request.urlopen(f"{running.http_url}/v2/repository/{path}", b"{}", timeout=5),
        ):
            pass
        assert caught.value.code == 403
        caught.value.close()
    process = running._supervisor.process
    assert isinstance(process, TritonProcess)
    for file in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(FileNotFoundError, ProcessLookupError):
            assert process._secret.encode() not in file.read_bytes()


@contextmanager
def serving(*arguments: str | Path) -> Iterator[tuple["subprocess.Popen[str]", list[str]]]:
    """Run `deploykit serve` and give its process, and the lines it said when it was ready."""
    ports = [f"--{name}-port=0" for name in ("http", "grpc", "metrics", "health")]
    command = [sys.executable, "-m", "deploykit", "serve", *arguments, *ports]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout
        try:
            lines = [process.stdout.readline()]
            while lines[-1] and not lines[-1].startswith("Ctrl-C"):
                lines.append(process.stdout.readline())
            yield process, lines
        finally:
            process.terminate()
        assert process.wait(30) == 0


@pytest.fixture
def two(models: dict[str, Path], tmp_path: Path) -> tuple[Path, Path]:
    """Repositories of two models with different names."""
    one = shutil.copytree(models["first"], tmp_path / "one")
    other = shutil.copytree(models["second"], tmp_path / "two")
    (other / "tiny").rename(other / "other")
    config = other / "other/config.pbtxt"
    config.write_text(config.read_text().replace('"tiny"', '"other"'))
    return one, other


def test_two_artifacts_stream_at_once_and_a_signal_reloads_what_has_changed(
    two: tuple[Path, Path], models: dict[str, Path], answers: dict[str, str]
) -> None:
    with serving(*two, "--max-rows", "3", "--cache-memory", "1MiB", "--threads", "1") as (process, lines):
        assert process.stdout
        assert process.stderr
        http_url, grpc_url = (line.split()[1] for line in lines[:2])
        assert [line.rsplit(", ", 2)[0] for line in lines[4:6]] == [
            f"model    {name} (version 1): fp32, deterministic, 3 rows of up to 128 tokens"
            for name in ("other", "tiny")
        ]
        assert all(line.endswith(" KiB of cache, 1 thread\n") for line in lines[4:6])
        streams = [Stream(http_url, "tiny"), Stream(http_url, "other")]
        for stream in streams:
            stream.join()
        assert [stream.text for stream in streams] == [answers["first"], answers["second"]]
        assert abs(streams[0].ended - streams[1].ended) < 2
        with Client(grpc_url) as client:
            assert [(model.name, model.version) for model in client.models()] == [("other", "1"), ("tiny", "1")]

        shutil.rmtree(two[0])
        shutil.copytree(models["second"], two[0])
        process.send_signal(signal.SIGHUP)
        assert process.stdout.readline() == "reload   tiny loaded\n"
        assert process.stdout.readline().startswith("model    tiny (version 1): fp32")
        after = Stream(http_url, "tiny")
        after.join()
        assert after.text == answers["second"]

        (two[1] / "other/1/manifest.json").write_text("{}")
        process.send_signal(signal.SIGHUP)
        while not (said := process.stderr.readline()).startswith("error: reload:"):
            assert said
        assert "format version None" in said
        assert said.endswith("; what served before serves on\n")
