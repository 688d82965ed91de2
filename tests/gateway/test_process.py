"""`deploykit gateway` as a process, with no Triton behind it: keys, broken callers by raw sockets, its log, its end."""

import json
import os
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2
import pytest
from collector import never_answering

from deploykit.gateway.limits import MAX_HEAD, MAX_HEADERS

KEY = "sk-0123456789abcdef"
SECRET = "a prompt that nobody may see"
LIMIT = 4096
PATIENCE = 1.0


@dataclass(frozen=True, kw_only=True)
class Process:
    """A gateway."""

    url: str
    process: subprocess.Popen[str]
    log: Path
    keys: Path
    client: httpx2.Client

    @property
    def port(self) -> int:
        return int(self.url.rpartition(":")[2])

    def ask(self, method: str, path: str, *, key: str | None = KEY, **options: Any) -> httpx2.Response:
        headers = {**({} if key is None else {"authorization": f"Bearer {key}"}), **options.pop("headers", {})}
        return self.client.request(method, path, headers=headers, **options)

    def lines(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.log.read_text().splitlines()]

    def line(self, request_id: str) -> dict[str, Any]:
        """The line about a request."""
        end = time.monotonic() + 10
        while not (found := [line for line in self.lines() if line.get("request_id") == request_id]):
            assert time.monotonic() < end
            time.sleep(0.02)
        return found[-1]

    def raw(self, *pieces: bytes, pause: float = 0.0) -> tuple[int, dict[str, Any], float]:
        """Send pieces, read to the end of the connection; return status, JSON body and seconds that it took."""
        began = time.monotonic()
        with socket.create_connection(("127.0.0.1", self.port), timeout=20) as connection:
            answer = b""
            try:
                for piece in pieces:
                    connection.sendall(piece)
                    time.sleep(pause)
                while data := connection.recv(65536):
                    answer += data
            except ConnectionError:
                pass
        seconds = time.monotonic() - began
        if not answer:
            return 0, {}, seconds
        head, _, body = answer.partition(b"\r\n\r\n")
        return int(head.split()[1]), json.loads(body), seconds


@contextmanager
def started(model: Path, folder: Path, *options: str, **environment: str) -> Iterator[Process]:
    """Start a gateway whose Triton isn't there."""
    keys = folder / "keys"
    keys.write_text(f"team-a:{KEY}\n")
    log = folder / "log"
    command = [sys.executable, "-m", "deploykit", "gateway", str(model), "--triton=127.0.0.1:1", "--port=0", "--json"]
    command += [f"--api-keys={keys}", f"--max-body={LIMIT}", f"--body-timeout={PATIENCE}", *options]
    with log.open("w") as stream:
        process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=stream, text=True, env={**os.environ, **environment}
        )
    try:
        assert process.stdout
        url = json.loads(process.stdout.readline())["openai"].removesuffix("/v1")
        with httpx2.Client(base_url=url, timeout=20) as client:
            yield Process(url=url, process=process, log=log, keys=keys, client=client)
    finally:
        process.kill()
        process.communicate()


@pytest.fixture(scope="module")
def running(chatty: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Process]:
    with started(chatty, tmp_path_factory.mktemp("running"), "--cors-origin=https://chat.example") as process:
        yield process


def test_wants_a_key_on_every_route_that_there_is(running: Process) -> None:
    document = running.ask("GET", "/openapi.json").json()
    routes = [(method.upper(), path) for path, methods in document["paths"].items() for method in methods]
    others = [("GET", "/metrics"), ("GET", "/openapi.json"), ("GET", "/nowhere"), ("DELETE", "/v1/models")]
    assert len(routes) >= 7
    for method, path in routes + others:
        if path.startswith("/health"):
            continue
        for key, code in ((None, "missing_api_key"), ("sk-wrong-wrong", "invalid_api_key")):
            answer = running.ask(method, path.replace("{model}", "chatty"), key=key)
            assert (answer.status_code, answer.json()["error"]["code"]) == (401, code), (method, path)
            assert answer.headers["www-authenticate"].startswith("Bearer")
        assert running.ask(method, path.replace("{model}", "chatty")).status_code != 401, (method, path)


def test_probes_need_no_key_and_liveness_no_triton(running: Process) -> None:
    assert running.ask("GET", "/health/live", key=None).status_code == 200
    answer = running.ask("GET", "/health", key=None)
    assert answer.status_code == 503
    assert answer.json()["error"]["message"] == "Triton does not answer; try again"
    assert [line["message"] for line in running.lines()].count("Triton does not answer") == 1


def test_introduces_itself_with_what_can_be_pasted(chatty: Path, tmp_path: Path) -> None:
    (tmp_path / "keys").write_text(KEY)
    command = [sys.executable, "-m", "deploykit", "gateway", str(chatty), "--triton=127.0.0.1:1", "--port=0"]
    process = subprocess.Popen(
        [*command, f"--api-keys={tmp_path / 'keys'}"], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    try:
        assert process.stdout
        said = ""
        while "triton " not in said:
            line = process.stdout.readline()
            assert line, said
            said += line
    finally:
        process.kill()
        process.communicate()
    assert "model    chatty\n" in said
    assert "keys     wanted\n" in said
    assert said.endswith("triton   127.0.0.1:1: Triton does not answer\n")
    (curl,) = (line for line in said.splitlines() if "curl" in line)
    words = shlex.split(curl)
    assert words[2].endswith("/v1/chat/completions")
    assert words[4] == "Authorization: Bearer YOUR_KEY"
    assert json.loads(words[-1])["messages"] == [{"role": "user", "content": "Hello"}]
    assert KEY not in said


def test_reads_the_keys_again_when_they_change(running: Process) -> None:
    kept = running.keys.read_text()
    running.keys.write_text("team-b:another-key-of-b\n")
    try:
        assert running.ask("GET", "/v1/models").status_code == 401
        assert running.ask("GET", "/v1/models", key="another-key-of-b").status_code == 200
    finally:
        running.keys.write_text(kept)


def test_answers_a_browser_of_a_named_origin_with_keys_on(running: Process) -> None:
    asking = {"origin": "https://chat.example", "access-control-request-method": "POST"}
    preflight = {**asking, "access-control-request-headers": "authorization, content-type"}
    answer = running.ask("OPTIONS", "/v1/chat/completions", key=None, headers=preflight)
    assert answer.status_code == 200
    assert answer.headers["access-control-allow-origin"] == "https://chat.example"
    refused = running.ask("GET", "/v1/models", key=None, headers={"origin": "https://chat.example"})
    assert refused.status_code == 401
    assert refused.headers["access-control-allow-origin"] == "https://chat.example"
    assert "x-request-id" in refused.headers["access-control-expose-headers"].lower()
    stranger = running.ask("OPTIONS", "/v1/models", key=None, headers={**preflight, "origin": "https://evil.example"})
    assert stranger.status_code == 400
    assert "access-control-allow-origin" not in stranger.headers


def test_without_named_origins_a_browser_is_told_nothing(chatty: Path, tmp_path: Path) -> None:
    with started(chatty, tmp_path, "--metrics-access=open") as plain:
        asking = {"origin": "https://chat.example", "access-control-request-method": "GET"}
        answer = plain.ask("OPTIONS", "/v1/models", key=None, headers=asking)
        assert answer.status_code == 401
        assert "access-control-allow-origin" not in answer.headers
        assert plain.ask("GET", "/metrics", key=None).status_code == 200


HEAD = f"POST /v1/completions HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {KEY}\r\nContent-Type: application/json\r\n"
CHUNKED = (HEAD + "Transfer-Encoding: chunked\r\n\r\n").encode()


def chunk(data: bytes, extension: bytes = b"") -> bytes:
    return b"%x%s\r\n%s\r\n" % (len(data), extension, data)


def test_takes_a_body_in_chunks_of_one_byte(running: Process) -> None:
    body = b'{"model": "none", "prompt": "a"}'
    pieces = b"".join(chunk(body[at : at + 1]) for at in range(len(body)))
    head = CHUNKED.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n")
    status, answer, _ = running.raw(head, pieces + b"0\r\n\r\n")
    assert (status, answer["error"]["code"]) == (404, "model_not_found")


def test_refuses_bodies_that_are_too_large_and_the_caller_hears_it(running: Process) -> None:
    sizes = HEAD.encode() + b"Content-Length: %d\r\n\r\n" % 2**20
    for pieces in ((sizes, b"x" * 2**20), (CHUNKED, chunk(b"x" * 2**20) + b"0\r\n\r\n")):
        status, answer, _ = running.raw(*pieces)
        assert (status, answer["error"]["code"]) == (413, "body_too_large")


def test_waits_for_a_body_only_so_long(running: Process) -> None:
    halves = (HEAD.encode() + b"Content-Length: 100\r\n\r\n{", CHUNKED + b"5\r\n{")
    for half in halves:
        status, answer, seconds = running.raw(half)
        assert (status, answer["error"]["code"]) == (408, "body_too_slow")
        assert seconds < PATIENCE + 3


def test_drips_do_not_hold_a_connection(running: Process) -> None:
    drips = [chunk(b" ") for _ in range(40)]
    status, _, seconds = running.raw(CHUNKED, *drips, pause=0.1)
    assert status in (0, 408)
    assert seconds < 40 * 0.1 + 3


def test_a_refused_caller_cannot_go_on_for_ever(running: Process) -> None:
    drips = [chunk(b" ") for _ in range(80)]
    _, _, seconds = running.raw(CHUNKED.replace(KEY.encode(), b"sk-wrong-wrong"), *drips, pause=0.1)
    assert seconds < PATIENCE + 4


@pytest.mark.parametrize("half", [b"", b"\r\n\r\n", b"GET /v1/models HT", b"GET /v1/models HTTP/1.1\r\nHost: x\r\n"])
def test_waits_for_a_head_only_so_long(running: Process, half: bytes) -> None:
    status, _, seconds = running.raw(half)
    assert status in (0, 408)
    assert PATIENCE / 2 < seconds < PATIENCE + 3


ENDLESS = b"x" * (MAX_HEAD * 40)


@pytest.mark.parametrize(
    "pieces",
    [
        (b"GET / HTTP/1.1\r\nX: ", ENDLESS),
        (b"GET /", ENDLESS),
        (b"GET / HTTP/1.1\r\n", b"X: y\r\n" * 200_000),
        (HEAD.encode() + b"Connection: close\r\n" + b"X: y\r\n" * MAX_HEADERS + b"\r\n",),
        (CHUNKED + b"1;", ENDLESS),
        (CHUNKED + chunk(b"{") + b"0\r\nX: ", ENDLESS),
        (CHUNKED + chunk(b"{") + b"0\r\n", b"X: y\r\n" * 200_000),
    ],
    ids=["header", "url", "headers", "many", "extension", "trailer", "trailers"],
)
def test_refuses_heads_and_frames_without_end(running: Process, pieces: tuple[bytes, ...]) -> None:
    before = resident(running.process.pid)
    status, answer, seconds = running.raw(*pieces)
    # Whoever still sends when the connection is closed may not hear the reason.
    assert status in (0, 400, 431)
    assert not answer or answer["error"]["type"] == "invalid_request_error"
    assert seconds < 10
    assert resident(running.process.pid) - before < 8


@pytest.mark.parametrize(
    "nonsense",
    [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"hello\r\n\r\n",
        b"GET / HTTP/9.9\r\n\r\n",
        HEAD.encode() + b"Content-Length: -1\r\n\r\n",
        HEAD.encode() + b"Content-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n",
        CHUNKED + b"zz\r\n",
        "GET /ü HTTP/1.1\r\nHost: x\r\n\r\n".encode(),
    ],
)
def test_what_is_no_http_gets_an_error_object(running: Process, nonsense: bytes) -> None:
    status, answer, _ = running.raw(nonsense)
    assert status == 400
    assert answer["error"]["type"] == "invalid_request_error"


@pytest.mark.parametrize("body", [b"[" * 4000, b'{"a":' * 600 + b"1" + b"}" * 600, b'{"prompt": "\xff"}', b"9" * 4000])
def test_refuses_what_is_unsafe_to_parse_at_once(running: Process, body: bytes) -> None:
    began = time.monotonic()
    answer = running.ask("POST", "/v1/completions", content=body, headers={"content-type": "application/json"})
    assert answer.status_code == 400
    assert time.monotonic() - began < 5


def test_takes_a_sane_request_id_and_replaces_any_other(running: Process) -> None:
    assert running.ask("GET", "/v1/models", headers={"x-request-id": "a-1.b"}).headers["x-request-id"] == "a-1.b"
    for name in ("", "x" * 129, 'a"b', "a b", "ä".encode().decode("latin-1"), "-a", "a\tb"):
        answer = running.ask("GET", "/v1/models", headers={"x-request-id": name.encode("latin-1")})
        assert answer.headers["x-request-id"].startswith("req-")


def test_logs_one_line_for_each_request_and_nothing_that_is_nobodys_business(running: Process) -> None:
    asked = {"model": "chatty", "prompt": SECRET, "max_tokens": 1}
    answer = running.ask("POST", "/v1/completions", json=asked, headers={"x-request-id": "logged"})
    assert answer.status_code == 503
    line = running.line("logged")
    expected = {"message": "request", "level": "info", "method": "POST", "route": "/v1/completions", "status": 503}
    assert line.items() >= {**expected, "client": "team-a"}.items()
    assert line["duration_ms"] > 0
    text = running.log.read_text()
    for private in (SECRET, KEY, "127.0.0.1", str(running.keys), "sk-wrong"):
        assert private not in text


def test_says_what_clients_and_models_come_to_in_few_series(running: Process) -> None:
    for number in range(20):
        running.ask("GET", f"/nowhere/{number}")
        running.ask(f"VERB{number}", "/v1/models")
        running.ask("POST", "/v1/completions", json={"model": f"m{number}", "prompt": "x"})
    text = running.ask("GET", "/metrics").text
    assert 'http_requests_total{method="GET",route="none",status="404"}' in text
    assert "nowhere" not in text
    assert "VERB" not in text
    assert "m19" not in text
    assert len(text.splitlines()) < 200
    assert "_created" not in text


def test_broken_keys_do_not_keep_changed_models_from_being_read(chatty: Path, tmp_path: Path) -> None:
    repository = shutil.copytree(chatty / "model_repository", tmp_path / "models")

    def models(process: Process) -> list[str]:
        return [model["id"] for model in process.ask("GET", "/v1/models").json()["data"]]

    with started(repository, tmp_path) as process:
        assert models(process) == ["chatty"]
        shutil.copytree(repository / "chatty", repository / "second")
        process.keys.write_text("no key\n")
        process.process.send_signal(signal.SIGHUP)
        end = time.monotonic() + 20
        while models(process) != ["chatty", "second"]:
            assert time.monotonic() < end
            time.sleep(0.05)
        said = [
            line["message"] for line in process.lines() if line["message"] not in ("request", "Triton does not answer")
        ]
        assert len(said) == 2
        assert "not a key" in said[0]
        assert said[1] == "reloaded"


def test_ends_well_and_soon_with_a_collector_that_never_answers(chatty: Path, tmp_path: Path) -> None:
    with never_answering() as collector, started(chatty, tmp_path, OTEL_EXPORTER_OTLP_ENDPOINT=collector) as process:
        began = time.monotonic()
        assert process.ask("GET", "/v1/models").status_code == 200
        assert time.monotonic() - began < 3
        process.process.send_signal(signal.SIGTERM)
        assert process.process.wait(20) == 0
        assert "127.0.0.1" not in process.log.read_text()


def resident(pid: int) -> float:
    """Megabytes in memory."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6
