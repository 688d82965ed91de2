"""How a server is reached: TLS, keys, traces, several connections, several addresses."""

import asyncio
import socket
import ssl
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from inference_server import Running, Service, piece, run
from openai_server import OpenAIService, run_gateway
from opentelemetry.sdk.trace import TracerProvider

from deploykit.client import TLS, AsyncClient, Client, InvalidRequestError, UnavailableError
from deploykit.client.address import parse_url
from deploykit.client.channel import STREAMS, Pool
from deploykit.client.retry import SHARE

WAIT = 10.0


# Addresses


@pytest.mark.parametrize(
    ("url", "protocol", "target", "secure"),
    [
        ("localhost:8001", "grpc", "localhost:8001", False),
        ("grpc://[::1]:8001/", "grpc", "[::1]:8001", False),
        ("grpcs://a.b:443", "grpc", "a.b:443", True),
        ("dns:///models.svc:8001", "grpc", "dns:///models.svc:8001", False),
        ("dns://10.0.0.1/models.svc:8001", "grpc", "dns://10.0.0.1/models.svc:8001", False),
        ("http://a:9000", "http", "http://a:9000", False),
        ("https://a.b/v1/", "http", "https://a.b", True),
    ],
)
def test_an_address_is_read(url: str, protocol: str, target: str, secure: bool) -> None:
    address = parse_url(url)
    assert (address.protocol, address.target, address.secure) == (protocol, target, secure)


class Names(threading.Thread):
    """A name server that gives every name two addresses of this machine."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.bind(("127.0.0.1", 0))
        self.port = int(self._socket.getsockname()[1])
        self.start()

    def run(self) -> None:
        while True:
            try:
                query, caller = self._socket.recvfrom(512)
            except OSError:
                return
            if not query:
                return
            self._socket.sendto(self._reply(query), caller)

    def close(self) -> None:
        # A reader isn't woken by closing.
        self._socket.sendto(b"", self._socket.getsockname())
        self.join()
        self._socket.close()

    def _reply(self, query: bytes) -> bytes:
        end = query.index(b"\0", 12) + 5
        question, kind = query[12:end], query[end - 4 : end - 2]
        found = [b"\x7f\0\0\1", b"\x7f\0\0\2"] if kind == b"\0\1" else []
        counts = b"\0\1" + len(found).to_bytes(2, "big") + b"\0\0\0\0"
        records = b"".join(b"\xc0\x0c\0\1\0\1\0\0\0\x3c\0\4" + address for address in found)
        return query[:2] + b"\x85\x80" + counts + question + records


def test_calls_go_in_turn_to_all_addresses_of_a_name(free_port: int) -> None:
    servers = [run(Service(), free_port, host=f"127.0.0.{number}") for number in (1, 2)]
    names = Names()
    try:
        url = f"dns://127.0.0.1:{names.port}/models.test:{free_port}"
        with Client(url, model="m", timeout=WAIT) as client:
            assert client.generate("hi").text == "ab"
            for _ in range(39):
                client.generate("hi")
        shares = [len(server.service.requests) for server in servers]
        assert sum(shares) == 40
        assert min(shares) >= 10
        # One that dies is left out.
        with Client(url, model="m", timeout=WAIT) as client:
            client.generate("hi")
            servers[0].server.stop(grace=0).wait()
            assert {client.generate("hi").text for _ in range(6)} == {"ab"}
    finally:
        names.close()
        for server in servers:
            server.server.stop(grace=0).wait()


# Several connections


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("deploykit.client.channel.STREAMS", 2)


def held(running: Running, calls: int) -> threading.Event:
    """Let the server answer only once so many calls are there."""
    there, all_there = threading.Semaphore(0), threading.Event()

    def answer(request: Any, context: Any) -> Iterator[Any]:
        there.release()
        all_there.wait(WAIT)
        yield piece("a", "stop")

    running.service.answer = answer

    def watch() -> None:
        for _ in range(calls):
            there.acquire(timeout=WAIT)
        all_there.set()

    threading.Thread(target=watch, daemon=True).start()
    return all_there


def test_many_calls_at_a_time_have_several_connections(running: Running, few: None) -> None:
    with Client(running.url, model="m", timeout=WAIT) as client:
        held(running, 5)
        streams = [client.generate("hi", stream=True) for _ in range(5)]
        assert [stream.completion().text for stream in streams] == ["a"] * 5
        assert len({peer for peer, _ in running.service.callers}) == 3
        # Those that were there are used again.
        client.generate("hi")
        assert len({peer for peer, _ in running.service.callers}) == 3


def test_many_calls_in_a_loop_have_several_connections(running: Running, few: None) -> None:
    held(running, 5)

    async def main() -> None:
        async with AsyncClient(running.url, model="m", timeout=WAIT) as client:
            await asyncio.gather(*(client.generate("hi") for _ in range(5)))
            await client.generate("hi")

    asyncio.run(main())
    assert len({peer for peer, _ in running.service.callers}) == 3


def test_one_connection_is_enough_for_a_hundred_calls() -> None:
    class Channel:
        def unary_stream(self, *arguments: Any, **options: Any) -> None: ...

    pool = Pool(Channel, url="u")
    lanes = [pool.take() for _ in range(STREAMS)]
    assert len({id(lane) for lane in lanes}) == 1
    another = pool.take()
    assert another is not lanes[0]
    pool.give_back(another)
    assert pool.take() is another


# Keys and traces


@pytest.mark.parametrize("key", ["", "a b", "a\nb", "ä"])
def test_a_key_is_printable(key: str) -> None:
    with pytest.raises(InvalidRequestError, match="api_key must be printable ASCII") as caught:
        Client("localhost:1", api_key=key)
    assert not key or key not in str(caught.value)


def test_the_key_goes_along_with_every_call(running: Running) -> None:
    with Client(running.url, api_key="sk-1", timeout=WAIT) as client:
        client.generate("hi")
        assert "sk-1" not in repr(vars(client))
    assert running.service.callers[0][1]["authorization"] == "Bearer sk-1"


def test_the_current_span_goes_along(running: Running) -> None:
    tracer = TracerProvider().get_tracer("test")
    with Client(running.url, model="m", timeout=WAIT) as client, tracer.start_as_current_span("asking") as span:
        client.generate("hi", request_id="r-1")
        client.generate("hi", trace={"traceparent": "00-mine", "tracestate": "a=b"})
    first, second = running.service.requests
    expected = f"00-{span.get_span_context().trace_id:032x}-{span.get_span_context().span_id:016x}"
    assert first.id == "r-1"
    told = first.parameters["traceparent"].string_param
    # After it come flags.
    assert told.rpartition("-")[0] == expected
    assert running.service.callers[0][1]["traceparent"] == told
    assert {name: value.string_param for name, value in second.parameters.items()} == {
        "traceparent": "00-mine",
        "tracestate": "a=b",
    }


def test_without_a_span_nothing_goes_along(running: Running) -> None:
    with Client(running.url, model="m", timeout=WAIT) as client:
        stream = client.generate("hi", stream=True)
        assert stream.request_id == running_id(stream, running)
    assert not running.service.requests[0].parameters


def running_id(stream: Any, running: Running) -> str:
    stream.completion()
    return str(running.service.requests[0].id)


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"request_id": "a b"}, "request_id must be"),
        ({"request_id": ""}, "request_id must be"),
        ({"request_id": 7}, "request_id must be"),
        ({"trace": {"baggage": "x"}}, "trace takes traceparent and tracestate, got 'baggage'"),
        ({"trace": {"traceparent": "a\nb"}}, "traceparent must be printable ASCII"),
        ({"tools": [{}]}, "tools go with the messages of a chat"),
    ],
)
def test_what_can_not_go_along(running: Running, options: dict[str, Any], match: str) -> None:
    with AsyncHolder(running.url) as client, pytest.raises(InvalidRequestError, match=match):
        client.open_stream("hi", **options)


class AsyncHolder:
    """A client for a loop, of which nothing is awaited."""

    def __init__(self, url: str) -> None:
        self._client = AsyncClient(url)

    def __enter__(self) -> AsyncClient:
        return self._client

    def __exit__(self, *_: object) -> None:
        asyncio.run(self._client.close())


@pytest.mark.parametrize("tries", [0, 4, True, 1.0])
def test_tries_are_one_to_three(tries: Any) -> None:
    with pytest.raises(InvalidRequestError, match="tries must be 1 to 3"):
        Client("localhost:1", tries=tries)


# A storm


@pytest.mark.parametrize("way", ["threads", "loop"])
def test_at_most_a_tenth_is_sent_again_where_everything_fails(running: Running, way: str) -> None:
    requests = 60

    def refuse(request: Any, context: Any) -> Iterator[Any]:
        context.abort(grpc.StatusCode.UNAVAILABLE, "busy")
        yield

    running.service.answer = refuse
    if way == "threads":
        with Client(running.url, model="m", timeout=WAIT) as client:
            outcomes: list[Any] = list(client.batch(["hi"] * requests, return_errors=True))
    else:

        async def main() -> list[Any]:
            async with AsyncClient(running.url, model="m", timeout=WAIT) as client:
                return list(await client.batch(["hi"] * requests, return_errors=True))

        outcomes = asyncio.run(main())
    assert {type(outcome) for outcome in outcomes} == {UnavailableError}
    sent = len(running.service.requests)
    assert requests < sent <= requests * (1 + SHARE)


def test_who_is_asked_again_already_sends_once(running: Running) -> None:
    running.service.models = []
    with Client(running.url, model="m", timeout=WAIT, tries=1) as client:

        def refuse(request: Any, context: Any) -> Iterator[Any]:
            context.abort(grpc.StatusCode.UNAVAILABLE, "busy")
            yield

        running.service.answer = refuse
        with pytest.raises(UnavailableError):
            client.generate("hi")
    assert len(running.service.requests) == 1


# TLS


def own(folder: Path) -> dict[str, Any]:
    return {"certificate": folder / "client.pem", "key": folder / "client.key"}


@pytest.mark.parametrize("mutual", [False, True])
def test_tls_over_grpc(certificates: Path, mutual: bool) -> None:
    pair = [((certificates / "models.test.key").read_bytes(), (certificates / "models.test.pem").read_bytes())]
    ca = (certificates / "ca.pem").read_bytes()
    server = run(Service(), credentials=grpc.ssl_server_credentials(pair, ca if mutual else None, mutual))
    named: dict[str, Any] = {"ca": certificates / "ca.pem", "server_name": "models.test"}
    full = named | own(certificates) if mutual else named
    try:
        for url in (f"grpcs://{server.url}", server.url):
            with Client(url, tls=TLS(**full), model="m", timeout=WAIT) as client:
                assert client.generate("hi").text == "ab"
        strangers = [TLS(server_name="models.test"), TLS(ca=certificates / "ca.pem")]
        for tls in [*strangers, *([TLS(**named)] if mutual else [])]:
            with Client(f"grpcs://{server.url}", tls=tls) as client:
                assert not client.health(timeout=1).live
    finally:
        server.server.stop(grace=0).wait()


@pytest.mark.parametrize("mutual", [False, True])
def test_tls_over_http(certificates: Path, mutual: bool) -> None:
    gateway = run_gateway(OpenAIService())
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificates / "models.test.pem", certificates / "models.test.key")
    if mutual:
        context.load_verify_locations(certificates / "ca.pem")
        context.verify_mode = ssl.CERT_REQUIRED
    gateway.server.socket = context.wrap_socket(gateway.server.socket, server_side=True)
    url = gateway.url.replace("http:", "https:")
    named: dict[str, Any] = {"ca": certificates / "ca.pem", "server_name": "models.test"}
    full = named | own(certificates) if mutual else named
    try:
        with Client(url, tls=TLS(**full), model="m", timeout=WAIT) as client:
            assert client.generate("hi").text == "ab"
        strangers = [TLS(server_name="models.test"), TLS(ca=certificates / "ca.pem")]
        for tls in [*strangers, *([TLS(**named)] if mutual else [])]:
            with Client(url, tls=tls) as client:
                assert not client.health(timeout=1).live
    finally:
        gateway.stop()


@pytest.mark.parametrize(
    ("tls", "url", "match"),
    [
        ({"ca": "nowhere.pem"}, "grpcs://h:1", "ca nowhere.pem: No such file"),
        ({"certificate": "nowhere.pem", "key": "nowhere.key"}, "https://h:1", "TLS: "),
        ({"certificate": "me.pem"}, "grpcs://h:1", "certificate and key together"),
        ({}, "http://h:1", "TLS doesn't go with an address that says it has none"),
        ({}, "grpc://h:1", "TLS doesn't go with an address that says it has none"),
    ],
)
def test_certificates_that_can_not_be(tls: dict[str, Any], url: str, match: str) -> None:
    with pytest.raises(InvalidRequestError, match=match):
        Client(url, tls=TLS(**tls))


def test_a_file_that_is_no_certificate(tmp_path: Path) -> None:
    (tmp_path / "ca.pem").write_text("no certificate")
    with pytest.raises(InvalidRequestError, match="TLS: "):
        Client("https://h:1", tls=TLS(ca=tmp_path / "ca.pem"))
