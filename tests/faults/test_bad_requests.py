"""Whatever is sent is answered, or refused with an official error object; and the server goes on as before."""

import http.client
import json
import socket
import time
from collections.abc import Iterator
from contextlib import suppress
from typing import Any, Final, Self

import pytest
from openapi_fields import Field, body_with, fields
from stacks import KEY, Reply, Stack

pytestmark = pytest.mark.triton

BODIES: Final[dict[str, dict[str, Any]]] = {
    "/v1/chat/completions": {
        "model": "fast",
        "messages": [{"role": "user", "content": "hi"}],
        "max_completion_tokens": 1,
    },
    "/v1/completions": {"model": "fast", "prompt": "hi", "max_tokens": 1},
    "/tokenize": {"model": "fast", "prompt": "hi"},
    "/detokenize": {"model": "fast", "tokens": [5]},
}
CHAT: Final = {"model": "fast", "messages": [{"role": "user", "content": "hi"}]}
"""What `/tokenize` takes, too."""


@pytest.fixture
def unharmed(whole: Stack) -> Iterator[Stack]:
    """A stack that answers after the test as it did before, in the same processes."""
    asked = {"max_tokens": 12, "temperature": 0, "ignore_eos": True}
    whole.recovered()
    before, processes = whole.complete(**asked).json["choices"], whole.processes()
    yield whole
    assert whole.complete(**asked).json["choices"] == before
    assert whole.processes() == processes


class Line:
    """One connection that many requests go over."""

    def __init__(self, stack: Stack) -> None:
        self._connection = http.client.HTTPConnection("127.0.0.1", stack.port, timeout=30)

    def post(self, path: str, body: bytes) -> Reply:
        headers = {"content-type": "application/json", "authorization": f"Bearer {KEY}"}
        self._connection.request("POST", path, body, headers)
        response = self._connection.getresponse()
        return Reply(status=response.status, headers=dict(response.getheaders()), body=response.read())

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._connection.close()


def base_of(field: Field) -> dict[str, Any]:
    if field.path == "/tokenize" and field.place[0] not in BODIES["/tokenize"]:
        return CHAT
    body = dict(BODIES[field.path])
    if field.place[0] == "max_tokens":
        body.pop("max_completion_tokens", None)
    return body


@pytest.mark.parametrize("path", BODIES)
def test_every_field_at_its_limits_and_beyond(unharmed: Stack, path: str) -> None:
    found = [field for field in fields(unharmed.ask("/openapi.json").json) if field.path == path]
    counts: dict[int, int] = {}
    with Line(unharmed) as line:
        for field in found:
            for literal in field.literals():
                reply = line.post(path, body_with(base_of(field), field.place, literal))
                counts[reply.status] = counts.get(reply.status, 0) + 1
                case = f"{path} {field.place} {literal[:40]}: {reply.status} {reply.body[:200]!r}"
                assert reply.status in (200, 400) or (reply.status == 404 and field.place == ("model",)), case
                assert not (field.forbids(literal) and reply.status == 200), case
                if reply.status != 200:
                    assert reply.error["type"] == "invalid_request_error", case
    print(path, counts)
    assert len(found) >= 2
    assert counts[400] > counts[200] > 0


def nested(depth: int, opening: bytes, closing: bytes) -> bytes:
    return b'{"model": "fast", "prompt": ' + opening * depth + closing * depth + b"}"


OBJECT: Final = json.dumps({f"{number:x}": 1 for number in range(150_000)}).encode()
PLAIN: Final = json.dumps({"model": "fast", "prompt": "hi", "max_tokens": 1}).encode()

WHOLE: Final = {
    "larger than any": (413, b" " * 2_100_000),
    "a long prompt": (400, json.dumps({"model": "fast", "prompt": "x" * 1_900_000}).encode()),
    "nested lists": (400, nested(200_000, b"[", b"]")),
    "nested objects": (400, nested(100_000, b'{"a":', b"}")),
    "never closed": (400, b"[" * 1_000_000),
    "never opened": (400, b"]" * 1_000_000),
    "not UTF-8": (400, b'{"model": "fast", "prompt": "\xff\xfe"}'),
    "half of a character": (400, b'{"model": "fast", "prompt": "\xf0\x9f\x91"}'),
    "surrogates in UTF-8": (400, b'{"model": "fast", "prompt": "\xed\xa0\x80"}'),
    "overlong UTF-8": (400, b'{"model": "fast", "prompt": "\xc0\x80"}'),
    "UTF-16": (400, PLAIN.decode().encode("utf-16")),
    "UTF-8 with its mark": (400, b"\xef\xbb\xbf" + PLAIN),
    "NUL": (400, b"\x00" * 100),
    "NUL behind": (400, PLAIN + b"\x00"),
    "two bodies": (400, PLAIN * 2),
    "no end": (400, PLAIN[:-1]),
    "no quotes": (400, b'{"model": "fast", "prompt": "hi'),
    "empty": (400, b" "),
    "a number": (400, b"1" * 1_000_000),
    "many keys": (400, OBJECT),
    "many keys inside": (400, b'{"model": "fast", "prompt": "x", "stream": true, "stream_options": ' + OBJECT + b"}"),
    "many prompts": (400, json.dumps({"model": "fast", "prompt": ["x"] * 100_000}).encode()),
    "many messages": (400, json.dumps({"model": "fast", "messages": [{}] * 100_000}).encode()),
    "many tokens": (400, json.dumps({"model": "fast", "prompt": [1] * 500_000}).encode()),
    "many words": (400, json.dumps({"model": "fast", "prompt": "x", "bad_words": ["a"] * 100_000}).encode()),
    "a key twice": (200, PLAIN[:-1] + b', "max_tokens": 1}'),
}
"""Bodies that come whole, and their status."""


@pytest.mark.parametrize(("status", "body"), WHOLE.values(), ids=WHOLE)
def test_a_body_that_cannot_be(unharmed: Stack, status: int, body: bytes) -> None:
    reply = unharmed.ask("/v1/completions", body)
    assert reply.status == status
    if status != 200:
        assert reply.error["type"] == "invalid_request_error"


HEAD: Final = f"POST /v1/completions HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {KEY}\r\n".encode()
JSON: Final = b"content-type: application/json\r\n"
CHUNKED: Final = HEAD + JSON + b"transfer-encoding: chunked\r\n\r\n"


def sized(length: bytes) -> bytes:
    return HEAD + JSON + b"content-length: " + length + b"\r\n\r\n"


RAW: Final[dict[str, tuple[set[int], bytes]]] = {
    "chunked to death": ({400}, CHUNKED + b"1\r\n \r\n" * 1_000_000 + b"0\r\n\r\n"),
    "chunks with extensions": ({431}, CHUNKED + (b"1;" + b"x" * 1000 + b"\r\n \r\n") * 1000),
    "chunks beyond the limit": ({413}, CHUNKED + (b"ffff\r\n" + b" " * 0xFFFF + b"\r\n") * 40),
    "a chunk without end": ({400}, CHUNKED + b"f" * 100_000),
    "a negative chunk": ({400}, CHUNKED + b"-1\r\n"),
    "trailers without end": ({431}, CHUNKED + b"0\r\n" + b"a: b\r\n" * 100_000),
    "a length that is none": ({400}, sized(b"abc")),
    "a negative length": ({400}, sized(b"-1")),
    "a length beyond any": ({400, 413}, sized(b"9" * 30)),
    "two lengths": ({400}, HEAD + JSON + b"content-length: 5\r\ncontent-length: 6\r\n\r\n"),
    "a length and chunks": ({400}, HEAD + JSON + b"content-length: 5\r\ntransfer-encoding: chunked\r\n\r\n"),
    "a body that never comes": ({408}, sized(b"100")),
    "a head that never ends": ({408}, HEAD),
    "a head beyond any": ({400, 431}, HEAD + b"x: y\r\n" * 100_000),
    "one header beyond any": ({400, 431}, HEAD + b"x: " + b"y" * 1_000_000),
    "many headers": ({431}, HEAD + b"x: y\r\n" * 200 + b"\r\n"),
    "a path beyond any": ({400, 404, 431}, b"GET /" + b"a" * 1_000_000 + b" HTTP/1.1\r\n\r\n"),
    "no HTTP": ({400}, bytes(range(256)) * 10),
    "HTTP/2": ({400}, b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"),
    "TLS": ({400}, b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\x00" * 100),
    "compressed": ({415}, HEAD + JSON + b"content-encoding: gzip\r\ncontent-length: 2\r\n\r\n{}"),
    "another type": ({415}, HEAD + b"content-type: text/xml\r\ncontent-length: 2\r\n\r\n{}"),
    "no type": ({415}, HEAD + b"content-length: 2\r\n\r\n{}"),
}
"""Connections byte by byte, and the statuses that may answer; `body_timeout` is 1 s here."""


@pytest.mark.slow  # The same kinds go to the gateway's process alone in tests/gateway.
@pytest.mark.parametrize(("statuses", "sent"), RAW.values(), ids=RAW)
def test_a_connection_that_misbehaves(unharmed: Stack, statuses: set[int], sent: bytes) -> None:
    status, body = converse(unharmed.port, sent)
    assert status in statuses
    assert json.loads(body)["error"].keys() == {"message", "type", "param", "code"}


def converse(port: int, sent: bytes, *, until_end: float = 10.0) -> tuple[int, bytes]:
    """Return the status and the body that answer what is sent, however much of it is taken."""
    with socket.create_connection(("127.0.0.1", port), timeout=until_end) as line:
        with suppress(BrokenPipeError, ConnectionResetError):
            line.sendall(sent)
        response = http.client.HTTPResponse(line)
        response.begin()
        return response.status, response.read()


def test_a_body_that_breaks_off_is_nobody(unharmed: Stack) -> None:
    for sent in (HEAD, sized(b"100") + b"{", CHUNKED + b"5\r\n", CHUNKED + b"5\r\n{", PLAIN, b""):
        with socket.create_connection(("127.0.0.1", unharmed.port)) as line:
            line.sendall(sent)


def test_no_complaint_shows_what_was_sent(unharmed: Stack) -> None:
    """A prompt may be private wherever it stands: a log of refusals must not hold it."""
    secret = "my-own-secret"
    for body in (
        {"model": "fast", "prompt": [secret, 7.5]},
        {"model": "fast", "prompt": "x", "stop": [secret, 7]},
        {"model": "fast", "messages": [{"role": "user", "content": [{"type": "text", "text": 7, "name": secret}]}]},
        {"model": "fast", "messages": [{"role": "user", "content": {"text": secret}}]},
        {"model": "fast", "prompt": {"text": secret}},
        {"model": "fast", "prompt": "x", "temperature": secret},
        {"model": "fast", "prompt": "x", "user": secret * 100},
    ):
        path = "/v1/chat/completions" if "messages" in body else "/v1/completions"
        reply = unharmed.ask(path, body)
        assert reply.status == 400
        assert secret not in reply.body.decode()
    assert secret not in unharmed.gateway_log.read_text()


# Keys

UNLISTED: Final = ("/metrics", "/openapi.json")
"""Routes that the document doesn't name."""
OPEN: Final = {"/health"}
"""Routes that probes ask without a key."""
WRONG: Final = {
    "none": {},
    "empty": {"authorization": ""},
    "no key": {"authorization": "Bearer "},
    "another": {"authorization": "Bearer wrong-key-0123456789"},
    "the beginning": {"authorization": f"Bearer {KEY[:-1]}"},
    "more": {"authorization": f"Bearer {KEY}x"},
    "another way": {"authorization": f"Basic {KEY}"},
    "bare": {"authorization": KEY},
    "another header": {"x-api-key": KEY},
    "not ASCII": {"authorization": "Bearer \xff\xfe\x80"},
    "its name": {"authorization": f"Bearer alice:{KEY}"},
}


@pytest.mark.parametrize("headers", WRONG.values(), ids=WRONG)
def test_no_route_answers_without_a_key(unharmed: Stack, headers: dict[str, str]) -> None:
    document = unharmed.ask("/openapi.json").json
    routes = [(method, path) for path, methods in document["paths"].items() for method in methods]
    routes += [
        ("get", path) for path in (*UNLISTED, "/", "/docs", "/v1/embeddings", "/v1//models", "/health/", "/%6detrics")
    ]
    asked = set()
    for method, path in routes:
        if path in OPEN:
            continue
        body = BODIES.get(path, {}) if method == "post" else None
        reply = unharmed.ask(path.replace("{model}", "fast"), body, key=None, method=method.upper(), headers=headers)
        assert reply.status == 401, path
        assert reply.error["type"] == "invalid_request_error"
        assert reply.error["code"] in ("missing_api_key", "invalid_api_key")
        assert reply.headers["www-authenticate"].startswith("Bearer")
        assert "fast" not in reply.body.decode()
        asked.add(path)
    assert asked > set(BODIES)


def test_a_body_without_a_key_is_not_waited_for(unharmed: Stack) -> None:
    begin = time.monotonic()
    status, _ = converse(unharmed.port, sized(b"1000").replace(KEY.encode(), b"wrong-key"))
    assert status == 401
    assert time.monotonic() - begin < 1
