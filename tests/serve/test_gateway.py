"""`deploykit serve --openai-port`: the gateway beside Triton dies and comes back, and ends without losing a token."""

import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from click.testing import CliRunner
from collector import attributes, collecting

from deploykit.artifact import Artifact
from deploykit.cli.gateway import gateway as verb
from deploykit.config import GatewayConfig, ServeConfig
from deploykit.errors import ArtifactError, ConfigError, DeploykitError, MissingExtraError, ServeError
from deploykit.serve import LocalServer, serve
from deploykit.serve.gateway import MAX_PAUSE, Gateway, command_line

PROMPT = "def a_secret_name(name):"
TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
CALLER = "00f067aa0ba902b7"


def events(url: str, **fields: Any) -> Iterator[dict[str, Any]]:
    """The events of a streamed completion, as they come; it must come to its end."""
    fixed = {"model": "tiny", "prompt": PROMPT, "stream": True, "ignore_eos": True, "temperature": 0}
    asked = {**fixed, "max_tokens": 40, **fields}
    request = urllib.request.Request(
        f"{url}/completions", json.dumps(asked).encode(), {"content-type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=60) as response:
        for line in response:
            if line.strip() == b"data: [DONE]":
                return
            if line.startswith(b"data: "):
                yield json.loads(line[6:])
    raise ConnectionError("the stream broke off")


def text_of(url: str, **fields: Any) -> str:
    return "".join(event["choices"][0]["text"] for event in events(url, **fields))


def until(true: Callable[[], bool], seconds: float) -> float:
    """How long it took until something was true."""
    began = time.monotonic()
    while not true():
        assert time.monotonic() - began < seconds
        time.sleep(0.02)
    return time.monotonic() - began


def readiness(health: str) -> tuple[int, str]:
    try:
        with urllib.request.urlopen(f"{health}/v2/health/ready", timeout=5) as response:
            return response.status, response.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode()


def gateways(parent: int, port: int | None = None) -> list[int]:
    """The gateways that descend from a process, but not what stands between; only the one on `port` if given.

    Other fixtures of the same run have gateways of their own.
    """
    found = []
    for thread in Path(f"/proc/{parent}/task").glob("*/children"):
        for child in map(int, thread.read_text().split()):
            command = Path(f"/proc/{child}/cmdline").read_bytes().split(b"\0")
            ours = port is None or f"--port={port}".encode() in command
            found += [child] if ours and command[2:5] == [b"-m", b"deploykit", b"gateway"] else []
            found += gateways(child, port)
    return found


@pytest.fixture(scope="module")
def served(
    slow_repository: Path, anywhere: ServeConfig, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[LocalServer]:
    """Triton with the tiny model at twenty steps a second, and a gateway."""
    log = tmp_path_factory.mktemp("served") / "gateway.log"
    with collecting() as collector, pytest.MonkeyPatch.context() as patch:
        patch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", collector.url)
        patch.setenv("OTEL_BSP_SCHEDULE_DELAY", "50")
        with serve(slow_repository, replace(anywhere, openai_port=0), gateway_log=log) as server:
            server.collector, server.gateway_log = collector, log  # type: ignore[attr-defined]
            yield server


@pytest.mark.triton
def test_one_trace_comes_out_whole(served: LocalServer) -> None:
    assert served.openai_url
    asked = {"model": "tiny", "prompt": PROMPT, "max_tokens": 5, "ignore_eos": True}
    headers = {
        "content-type": "application/json",
        "traceparent": f"00-{TRACE}-{CALLER}-01",
        "x-request-id": "traced-1",
    }
    request = urllib.request.Request(f"{served.openai_url}/completions", json.dumps(asked).encode(), headers)
    with urllib.request.urlopen(request, timeout=30) as response:
        assert response.headers["x-request-id"] == "traced-1"
    spans = served.collector.wait(TRACE, 5)  # type: ignore[attr-defined]
    mine, engine = spans["POST /v1/completions"], spans["text_completion tiny"]
    assert mine.parent_span_id.hex() == CALLER
    assert engine.parent_span_id == mine.span_id
    assert all(spans[stage].parent_span_id == engine.span_id for stage in ("queue", "prefill", "decode"))
    told = attributes(mine)
    expected = {
        "http.request.method": "POST",
        "http.route": "/v1/completions",
        "http.response.status_code": 200,
        "gen_ai.operation.name": "text_completion",
        "gen_ai.request.model": "tiny",
        "gen_ai.usage.output_tokens": 5,
        "gen_ai.response.finish_reasons": ["length"],
        "deploykit.request_id": "traced-1",
    }
    assert told.items() >= {name: value for name, value in expected.items() if not isinstance(value, list)}.items()
    assert told["gen_ai.response.finish_reasons"] == ["length"]
    assert attributes(engine)["deploykit.request_id"] == "traced-1"
    assert PROMPT not in str(spans)


@pytest.mark.triton
def test_comes_back_when_it_is_killed_in_mid_stream(served: LocalServer) -> None:
    assert served.openai_url
    whole = text_of(served.openai_url)
    before, triton = served.gateway_restarts, (served.restarts, served.beats()["tiny"].pid)
    port = urlsplit(served.openai_url).port
    (victim,) = gateways(os.getpid(), port)
    stream = events(served.openai_url)
    next(stream)
    os.kill(victim, signal.SIGKILL)
    with pytest.raises((ConnectionError, http.client.HTTPException)):
        list(stream)
    assert until(lambda: readiness(served.health_url) == (503, "the gateway starts again\n"), 5) < 1
    until(lambda: served.gateway_restarts == before + 1, 5)
    # It takes a second to come up, and isn't ready on the strength of what its predecessor has said.
    assert readiness(served.health_url) == (503, "the gateway starts again\n")
    until(lambda: gateways(os.getpid(), port) not in ([], [victim]) and readiness(served.health_url)[0] == 200, 30)
    assert text_of(served.openai_url) == whole
    assert (served.restarts, served.beats()["tiny"].pid) == triton


@pytest.mark.triton
def test_is_ready_after_a_restart_of_triton_only_once_the_gateway_has_found_it(served: LocalServer) -> None:
    assert served.openai_url
    until(lambda: readiness(served.health_url)[0] == 200, 30)
    restarts = served.restarts
    # Without its backend Triton is started again.
    os.kill(served.beats()["tiny"].pid, signal.SIGKILL)
    until(lambda: readiness(served.health_url)[0] == 503, 10)
    until(lambda: served.restarts == restarts + 1 and readiness(served.health_url)[0] == 200, 60)
    # At once, and by whoever asks first: not one request may be refused.
    assert text_of(served.openai_url)


@pytest.mark.triton
def test_readiness_is_red_while_it_hangs_and_green_again(served: LocalServer) -> None:
    assert served.openai_url
    until(lambda: readiness(served.health_url)[0] == 200, 30)
    (process,) = gateways(os.getpid(), urlsplit(served.openai_url).port)
    os.kill(process, signal.SIGSTOP)
    try:
        assert until(lambda: readiness(served.health_url) == (503, "the gateway does not answer\n"), 10) < 7
    finally:
        os.kill(process, signal.SIGCONT)
    until(lambda: readiness(served.health_url)[0] == 200, 10)


@pytest.mark.triton
def test_its_log_names_the_request_and_holds_no_prompt(served: LocalServer) -> None:
    assert served.openai_url
    text_of(served.openai_url, max_tokens=3)
    log: Path = served.gateway_log  # type: ignore[attr-defined]
    until(lambda: '"generated_tokens": 3' in log.read_text(), 5)
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    found = next(line for line in lines if line.get("generated_tokens") == 3)
    assert found["model"] == "tiny"
    assert found["finished"] == ["length"]
    assert 0 < found["first_token_ms"] < found["duration_ms"]
    assert PROMPT not in log.read_text()


@contextmanager
def command(repository: Path, folder: Path, *options: str) -> Iterator[tuple[subprocess.Popen[str], dict[str, Any]]]:
    """`deploykit serve` as its users start it, and what it says of itself."""
    ports = [f"--{name}-port=0" for name in ("http", "grpc", "metrics", "health", "openai")]
    with (folder / "stderr").open("w") as stderr:
        process = subprocess.Popen(
            [sys.executable, "-m", "deploykit", "serve", str(repository), "--json", "--threads=1", *ports, *options],
            stdout=subprocess.PIPE,
            stderr=stderr,
            text=True,
        )
    try:
        assert process.stdout
        said = ""
        for line in process.stdout:
            said += line
            if line == "}\n":
                break
        assert said, (folder / "stderr").read_text()
        yield process, json.loads(said)
    finally:
        process.kill()
        process.communicate()


@pytest.mark.triton
def test_ends_without_losing_a_token_of_open_streams(slow_repository: Path, tmp_path: Path) -> None:
    with command(slow_repository, tmp_path) as (process, said), ThreadPoolExecutor(4) as threads:
        whole = text_of(said["openai"])
        streams = [events(said["openai"]) for _ in range(4)]
        begun = [next(stream) for stream in streams]
        process.send_signal(signal.SIGTERM)
        until(lambda: not_listening(said["openai"]), 5)
        assert readiness(said["health"])[0] == 503
        rest: list[list[Any]] = list(threads.map(list, streams))
        last = time.monotonic()
        assert process.wait(30) == 0
        assert time.monotonic() - last < 5 + 4
        for first, others in zip(begun, rest, strict=True):
            told = [first, *others]
            assert "".join(event["choices"][0]["text"] for event in told) == whole
            assert told[-1]["choices"][0]["finish_reason"] == "length"


def not_listening(url: str) -> bool:
    port = urlsplit(url).port
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
    except OSError:
        return True
    return False


@pytest.mark.triton
def test_dies_with_its_parent_and_reads_changes_on_sighup(copied: Path, tmp_path: Path) -> None:
    keys = tmp_path / "keys"
    keys.write_text("sk-0123456789\n")
    with command(copied, tmp_path, f"--api-keys={keys}") as (process, said):
        (gateway,) = gateways(process.pid)
        assert b"0123456789" not in Path(f"/proc/{gateway}/cmdline").read_bytes()
        assert names(said["openai"], "sk-0123456789") == ["tiny"]
        assert process.stdout
        os.kill(gateway, signal.SIGKILL)
        died, restarted = (json.loads(process.stdout.readline()) for _ in range(2))
        assert died == {"event": "died", "reason": "the gateway has died (signal 9)", "seconds": None}
        assert restarted.items() >= {"event": "restarted", "reason": died["reason"]}.items()
        assert 0 < restarted["seconds"] < 30
        # In words as well, and nothing of the requests that went well.
        assert (tmp_path / "stderr").read_text().splitlines()[-2:] == [
            "the gateway has died (signal 9); it is started again",
            f"the gateway has died (signal 9); it serves again, {restarted['seconds']} s later",
        ]
        (gateway,) = gateways(process.pid)
        (copied / "model_repository/tiny").rename(copied / "model_repository/renamed")
        config = copied / "model_repository/renamed/config.pbtxt"
        config.write_text(config.read_text().replace('"tiny"', '"renamed"'))
        process.send_signal(signal.SIGHUP)
        reloaded = json.loads(process.stdout.readline())
        assert reloaded["error"] is None
        until(lambda: names(said["openai"], "sk-0123456789") == ["renamed"], 10)
        process.kill()
        process.wait()
        until(lambda: not Path(f"/proc/{gateway}").exists(), 5)


def names(url: str, key: str) -> list[str]:
    request = urllib.request.Request(f"{url}/models", headers={"authorization": f"Bearer {key}"})
    with urllib.request.urlopen(request, timeout=10) as response:
        return [model["id"] for model in json.load(response)["data"]]


@pytest.mark.parametrize(
    ("gateway", "template", "error", "said"),
    [
        ({"api_keys": "none"}, None, ConfigError, "^--api-keys none: the file can't be read"),
        ({"api_keys": "short"}, None, ConfigError, "^--api-keys short, line 1: not a key"),
        ({}, "{% for m in messages %}{{ m.content", ArtifactError, "chat template"),
    ],
)
def test_what_it_would_refuse_is_told_before_anything_starts(
    gateway: dict[str, str],
    template: str | None,
    error: type[DeploykitError],
    said: str,
    copied: Path,
    anywhere: ServeConfig,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("deploykit.serve.server.LocalServer", lambda *_, **__: pytest.fail("it was started"))
    (tmp_path / "short").write_text("abc\n")
    if template:
        change_template(copied / "model_repository/tiny/1", template)
    settings = {name: tmp_path / value for name, value in gateway.items()}
    with pytest.raises(error, match=said):
        serve(copied, replace(anywhere, openai_port=0, gateway=settings))


def change_template(version: Path, template: str) -> None:
    file = version / "chat_template.jinja"
    file.write_text(template)
    manifest = json.loads((version / "manifest.json").read_text())
    data = template.encode()
    manifest["files"][file.name] = {"sha256": sha256(data).hexdigest(), "size": len(data)}
    (version / "manifest.json").write_text(json.dumps(manifest))


@pytest.mark.triton
def test_says_why_it_cannot_start_and_leaves_nothing(packaged: Artifact, anywhere: ServeConfig, tmp_path: Path) -> None:
    others = gateways(os.getpid())
    with pytest.raises(ServeError, match=r"the gateway can't be started: can't be run \(No such file or directory\)"):
        serve(packaged.path, replace(anywhere, openai_port=0), gateway_log=tmp_path / "nowhere/log")
    assert gateways(os.getpid()) == others


def test_a_taken_port_is_told_before_anything_starts(packaged: Artifact, anywhere: ServeConfig) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(ServeError, match=f"--openai-port {port}"):
            serve(packaged.path, replace(anywhere, openai_port=port))


def test_a_server_without_one_loads_nothing_of_it() -> None:
    code = (
        "import sys, deploykit.serve, deploykit.cli.main\n"
        "print(sorted({'fastapi', 'starlette', 'uvicorn', 'uvloop', 'deploykit.gateway'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_says_which_extra_brings_it(packaged: Artifact, anywhere: ServeConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("deploykit.serve.gateway.find_spec", lambda name: None if name == "uvicorn" else object())
    with pytest.raises(MissingExtraError, match=r"'uvicorn'.*pip install 'deploykit\[gateway\]'"):
        serve(packaged.path, replace(anywhere, openai_port=0))


def test_liveness_turns_red_when_restarting_it_has_not_helped(monkeypatch: pytest.MonkeyPatch) -> None:
    gateway = Gateway([], ServeConfig(startup_timeout=1), port=1, grpc="localhost:1", log=None)
    assert (gateway.trouble(), gateway.lost()) == ("the gateway starts", None)
    began = time.monotonic()
    monkeypatch.setattr("deploykit.serve.gateway.time.monotonic", lambda: began + 1 + MAX_PAUSE + 1)
    assert gateway.lost() == "no answer from the gateway for 10 s"
    gateway.stop()
    assert gateway.lost() is None


@pytest.mark.parametrize("gateway", [{"port": 1}, {"nonsense": 1}, {"max_body": 1}])
def test_refuses_settings_that_a_gateway_cannot_have(gateway: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        ServeConfig(openai_port=0, gateway=gateway)


@pytest.mark.parametrize(
    "settings",
    [
        GatewayConfig(),
        GatewayConfig(
            host="::1",
            port=1,
            triton="localhost:2",
            api_keys=Path("-keys"),
            metrics="off",
            cors_origins=("*", "https://a.example"),
            max_body=12345,
            max_requests=7,
            body_timeout=1.5,
            timeout=2.5,
            exit_timeout=3.5,
            connection_age=4.5,
            log_requests=False,
            log_prompts=True,
        ),
    ],
)
def test_its_command_line_says_what_its_settings_do(settings: GatewayConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[Any] = []
    monkeypatch.setattr("deploykit.gateway.server.run", lambda *given, **_: told.extend(given))
    line = list(command_line([Path("-a"), Path("b")], settings))
    assert line[1:5] == ["-P", "-m", "deploykit", "gateway"]
    assert CliRunner().invoke(verb, line[5:]).exit_code == 0
    assert told == [(Path("-a"), Path("b")), settings]
