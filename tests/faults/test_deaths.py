"""Parts of the stack that die, hang or are not there, and who hears of it; times are only printed."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import httpx2
import pytest
from gateways import open_gateway
from inference_server import Wire
from openai import APIConnectionError, APIError, APIStatusError, APITimeoutError, OpenAI
from openai.types import Completion
from stacks import KEY, PROMPT, Stack, command_of, descendants, until

from deploykit.client import Client, ClientError, DeadlineExceededError, StreamBrokenError, UnavailableError

pytestmark = pytest.mark.triton

LONG: Final = 900
"""Tokens of an answer that the slow model needs 45 s for."""
BROKEN: Final = (APIError, APIConnectionError, httpx2.HTTPError)
"""How the `openai` package tells of a stream that breaks off."""


class Caller:
    """A call on a thread of its own: whether it has begun, how it ended and when."""

    def __init__(self, threads: ThreadPoolExecutor, call: Callable[[], Iterator[str]]) -> None:
        self.text = ""
        self.error: Exception | None = None
        self.ended = 0.0
        self._call = call
        self._future: Future[None] = threads.submit(self._run)

    def _run(self) -> None:
        try:
            for piece in self._call():
                self.text += piece
        except Exception as error:
            self.error = error
        self.ended = time.monotonic()

    def wait(self) -> "Caller":
        self._future.result(60)
        return self


def openai_stream(openai: OpenAI, **fields: Any) -> Iterator[str]:
    asked: dict[str, Any] = {"model": "slow", "prompt": PROMPT, "max_tokens": LONG, "temperature": 0, **fields}
    with openai.completions.create(**asked, stream=True, extra_body={"ignore_eos": True}) as stream:
        for event in stream:
            yield event.choices[0].text


def openai_chat(openai: OpenAI) -> Iterator[str]:
    answer = openai.chat.completions.create(
        model="slow",
        messages=[{"role": "user", "content": "hi"}],
        max_completion_tokens=LONG,
        extra_body={"ignore_eos": True},
    )
    yield answer.choices[0].message.content or ""


def openai_batch(openai: OpenAI) -> Iterator[str]:
    asked: dict[str, Any] = {"model": "slow", "prompt": [PROMPT, "def "], "max_tokens": LONG}
    for choice in openai.completions.create(**asked, extra_body={"ignore_eos": True}).choices:
        yield choice.text


def client_stream(client: Client) -> Iterator[str]:
    with client.generate(PROMPT, stream=True, max_tokens=LONG, ignore_eos=True) as stream:
        for chunk in stream:
            yield chunk.text


def client_whole(client: Client) -> Iterator[str]:
    yield client.generate(PROMPT, max_tokens=LONG, ignore_eos=True).text


@contextmanager
def callers(stack: Stack) -> Iterator[dict[str, Caller]]:
    """Begin one call of every kind, each of which would take 45 s, and give them once all of them run."""
    with (
        stack.openai() as openai,
        stack.grpc("slow", tries=1) as grpc,
        stack.http("slow", tries=1) as http,
        ThreadPoolExecutor(8) as threads,
    ):
        calls: dict[str, Callable[[], Iterator[str]]] = {
            "OpenAI stream": lambda: openai_stream(openai),
            "OpenAI chat": lambda: openai_chat(openai),
            "OpenAI batch": lambda: openai_batch(openai),
            "gRPC stream": lambda: client_stream(grpc),
            "gRPC whole": lambda: client_whole(grpc),
            "HTTP stream": lambda: client_stream(http),
        }
        open_calls = {name: Caller(threads, call) for name, call in calls.items()}
        until(lambda: stack.load()[0] == 7, 20)
        until(lambda: all(call.text for name, call in open_calls.items() if name.endswith("stream")), 20)
        try:
            yield open_calls
        finally:
            grpc.close()


def test_a_killed_backend_is_heard_of_by_every_kind_of_caller(whole: Stack) -> None:
    before, restarts = whole.complete(model="slow", max_tokens=8, temperature=0).json["choices"], whole.server.restarts
    gateway = whole.gateway()
    with callers(whole) as calls:
        killed = time.monotonic()
        os.kill(whole.backend(), signal.SIGKILL)
        red = until(lambda: not whole.is_ready(), 5)
        heard = {name: call.wait().ended - killed for name, call in calls.items()}
    until(whole.is_ready, 30)
    again = time.monotonic() - killed
    told = ", ".join(f"{name} {seconds:.2f}" for name, seconds in heard.items())
    print(
        f"\nbackend killed: readiness red after {red:.2f} s, serving again after {again:.2f} s; heard after: {told} s"
    )
    for name in ("OpenAI stream", "gRPC stream", "HTTP stream"):
        assert calls[name].text, name
    assert isinstance(calls["OpenAI stream"].error, APIError)
    for name in ("OpenAI chat", "OpenAI batch"):
        error = calls[name].error
        assert isinstance(error, APIStatusError), name
        assert error.status_code == 503
        assert error.response.headers["retry-after"] == "1"
    for name in ("gRPC stream", "HTTP stream"):
        broken = calls[name].error
        assert isinstance(broken, StreamBrokenError), name
        assert broken.text == calls[name].text
    assert isinstance(calls["gRPC whole"].error, UnavailableError)
    assert max(heard.values()) < 10
    assert whole.server.restarts == restarts + 1
    # The gateway outlives Triton, and finds it again by itself.
    assert whole.gateway() == gateway
    # Its connection may still wait before it tries again, two seconds at most.
    until(lambda: whole.complete_or_none(model="slow", max_tokens=1) is not None, 3)
    assert whole.complete(model="slow", max_tokens=8, temperature=0).json["choices"] == before


def test_a_killed_gateway_is_replaced_and_its_rows_are_free(whole: Stack) -> None:
    restarts = whole.server.restarts
    with callers(whole) as calls:
        killed = time.monotonic()
        os.kill(whole.gateway(), signal.SIGKILL)
        kinds = [name for name in calls if not name.startswith("gRPC")]
        heard = max(calls[name].wait().ended - killed for name in kinds)
        # What goes to Triton directly goes on, and nothing else does.
        until(lambda: whole.load() == (2, 0), 10)
        assert not calls["gRPC stream"].ended
        until(lambda: whole.complete_or_none(max_tokens=1) is not None, 30)
        again = time.monotonic() - killed
    print(f"\ngateway killed: heard after {heard:.2f} s, answering again after {again:.2f} s")
    assert isinstance(calls["OpenAI stream"].error, BROKEN)
    assert isinstance(calls["OpenAI chat"].error, APIConnectionError)
    assert isinstance(calls["HTTP stream"].error, StreamBrokenError)
    assert calls["HTTP stream"].error.text == calls["HTTP stream"].text
    assert whole.server.restarts == restarts


def test_nobody_there(whole: Stack, free_port: int) -> None:
    nobody = f"127.0.0.1:{free_port}"
    openai = OpenAI(base_url=f"http://{nobody}/v1", api_key=KEY, max_retries=0)
    with openai, pytest.raises(APIConnectionError):
        openai.models.list()
    for url in (nobody, f"http://{nobody}"):
        with Client(url, model="fast", tries=1, timeout=5) as client:
            with pytest.raises(UnavailableError):
                client.generate("x")
            assert not client.is_ready()


def test_a_gateway_without_triton_says_so(whole: Stack, free_port: int) -> None:
    with open_gateway(whole.models, f"127.0.0.1:{free_port}", timeout=5) as gateway, gateway.openai() as openai:
        assert [model.id for model in openai.models.list()] == ["fast", "slow"]
        assert httpx2.get(f"{gateway.url}/health").status_code == 503
        for stream in (False, True):
            with pytest.raises(APIStatusError) as caught:
                openai.completions.create(model="fast", prompt="x", stream=stream)
            assert caught.value.status_code == 503
            assert caught.value.response.headers["retry-after"] == "1"
            assert str(free_port) not in str(caught.value)


@pytest.fixture
def free_port() -> int:
    """A port where nobody listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


# Half-open connections


@contextmanager
def wire_to(port: int) -> Iterator[Wire]:
    wire = Wire(port)
    try:
        yield wire
    finally:
        wire.close()


def silent_after_a_token(wire: Wire, client: Client) -> ClientError:
    """Return what a caller hears whose connection falls silent in mid-stream."""
    with client, client.generate(PROMPT, stream=True, max_tokens=LONG, ignore_eos=True) as stream:
        next(stream)
        wire.fall_silent()
        with pytest.raises(ClientError) as caught:
            list(stream)
    return caught.value


def test_a_silent_connection_to_triton_is_found_by_keepalive(whole: Stack) -> None:
    with wire_to(int(whole.server.grpc_url.split(":")[-1])) as wire:
        begin = time.monotonic()
        error = silent_after_a_token(wire, Client(f"127.0.0.1:{wire.port}", model="slow", timeout=60, keepalive=1))
        print(f"\nsilent connection to Triton: heard after {time.monotonic() - begin:.2f} s with a keepalive of 1 s")
    assert isinstance(error, StreamBrokenError)
    assert error.text


def test_a_silent_connection_to_the_gateway_ends_with_the_deadline(whole: Stack) -> None:
    with wire_to(whole.port) as wire:
        url = f"http://127.0.0.1:{wire.port}"
        error = silent_after_a_token(wire, Client(url, model="slow", timeout=1, api_key=KEY, tries=1))
        assert isinstance(error, DeadlineExceededError)
        assert error.text
        openai = OpenAI(base_url=f"{url}/v1", api_key=KEY, max_retries=0, timeout=0.5)
        with openai, pytest.raises(APITimeoutError):
            openai.models.list()


def test_a_gateway_whose_triton_falls_silent_answers_within_its_time_limit(whole: Stack) -> None:
    with (
        wire_to(int(whole.server.grpc_url.split(":")[-1])) as wire,
        open_gateway(whole.models, f"127.0.0.1:{wire.port}", timeout=1) as gateway,
        gateway.openai() as openai,
    ):
        assert openai.completions.create(model="fast", prompt="x", max_tokens=1).choices
        stream = openai_stream(openai)
        assert next(stream)
        wire.fall_silent()
        begin = time.monotonic()
        with pytest.raises(APIError, match="time limit"):
            list(stream)
        with pytest.raises(APIStatusError) as caught:
            openai.completions.create(model="fast", prompt="x")
        assert caught.value.status_code == 504
        assert caught.value.type == "timeout_error"
        assert [model.id for model in openai.models.list()] == ["fast", "slow"]
        print(f"\nTriton silent behind the gateway: heard after {time.monotonic() - begin:.2f} s, limit 1 s each")


@pytest.mark.slow
@pytest.mark.parametrize("part", ["backend", "triton", "gateway"])
def test_a_part_that_hangs_is_replaced(whole: Stack, part: str) -> None:
    pid: int = getattr(whole, part)()
    with callers(whole) as calls:
        stopped = time.monotonic()
        os.kill(pid, signal.SIGSTOP)
        red = until(lambda: not whole.is_ready(), 15)
        kinds = [name for name in calls if part != "gateway" or not name.startswith("gRPC")]
        heard = {name: calls[name].wait().ended - stopped for name in kinds}
        until(lambda: whole.complete_or_none(max_tokens=1) is not None, 60)
        again = time.monotonic() - stopped
    assert all(calls[name].error for name in kinds)
    assert getattr(whole, part)() != pid
    print(f"\n{part} stopped: red {red:.1f} s, heard {max(heard.values()):.1f} s, again {again:.1f} s; limit 10 s")


# The end


@pytest.mark.slow
def test_sigterm_loses_no_token_of_any_kind_of_caller(whole: Stack, tmp_path: Path) -> None:
    """Streams that Triton's and the gateway's callers have open end whole, new ones are refused, and all is gone."""
    tokens = 60

    def completed(openai: OpenAI) -> str:
        asked: dict[str, Any] = {"prompt": PROMPT, "max_tokens": tokens, "temperature": 0}
        answer: Completion = openai.completions.create(model="slow", **asked, extra_body={"ignore_eos": True})
        return answer.choices[0].text

    with (
        command(whole.models[1], tmp_path) as (process, said),
        OpenAI(base_url=said["openai"], api_key="x", max_retries=0) as openai,
        Client(said["grpc"]) as client,
        ThreadPoolExecutor(8) as threads,
    ):
        alone = completed(openai)
        calls = [threads.submit(lambda: "".join(openai_stream(openai, max_tokens=tokens))) for _ in range(3)]
        calls += [threads.submit(completed, openai) for _ in range(2)]
        calls += [
            threads.submit(lambda: client.generate(PROMPT, max_tokens=tokens, ignore_eos=True).text) for _ in range(2)
        ]
        time.sleep(1)
        process.send_signal(signal.SIGTERM)
        time.sleep(0.5)
        with pytest.raises(APIConnectionError):
            openai.with_options(timeout=5).models.list()
        assert [call.result(30) for call in calls] == [alone] * 7
        last = time.monotonic()
        family = list(descendants(process.pid))
        assert process.wait(20) == 0
        print(f"\nSIGTERM: exit {time.monotonic() - last:.2f} s after the last token")
        until(lambda: not any(command_of(pid)[0] for pid in family), 5)


@contextmanager
def command(models: Path, folder: Path) -> Iterator[tuple["subprocess.Popen[str]", dict[str, Any]]]:
    """Run `deploykit serve`, and give what it says of itself."""
    ports = [f"--{name}-port=0" for name in ("http", "grpc", "metrics", "health", "openai")]
    arguments = [sys.executable, "-m", "deploykit", "serve", str(models), "--json", "--threads=1", *ports]
    environment = {**os.environ, "DEPLOYKIT_TEST_STEPS": str(folder / "steps")}
    with (folder / "stderr").open("w") as stderr:
        process = subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=stderr, text=True, env=environment)
    try:
        said = ""
        while not said.endswith("\n}\n"):
            assert process.stdout
            line = process.stdout.readline()
            assert line, (folder / "stderr").read_text()
            said += line
        yield process, json.loads(said)
    finally:
        process.kill()
        process.communicate()
