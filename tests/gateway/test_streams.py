"""Callers who go, who are slow, and a Triton that fails, in front of and behind the gateway."""

import asyncio
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from gateways import Gateway, open_gateway
from inference_server import Service, error, inputs, piece, run, trickle
from openai import APIError, APIStatusError

HELLO: Any = [{"role": "user", "content": "Hello"}]
Answer = Callable[[Any, Any], Iterator[Any]]
Scripted = Callable[[Answer], Gateway]
ASKED: Any = {"model": "chatty", "prompt": "def ", "max_tokens": 100}


@pytest.fixture(scope="module")
def service() -> Service:
    return Service(models=[("chatty", "1", "READY")], facts={"context": 200})


@pytest.fixture(scope="module")
def gateway(chatty: Path, service: Service) -> Iterator[Gateway]:
    running = run(service)
    with open_gateway([chatty], running.url) as gateway:
        yield gateway
    running.server.stop(None)


@pytest.fixture
def scripted(gateway: Gateway, service: Service) -> Iterator[Scripted]:
    """Have Triton answer so; what its engine is it says by itself."""

    def script(answer: Answer) -> Gateway:
        service.answer = answer
        service.gone.clear()
        return gateway

    yield script
    service.answer = Service().answer


def connect(gateway: Gateway, body: dict[str, Any], *, buffer: int | None = None) -> socket.socket:
    """Send a request over a bare socket, and read nothing."""
    caller = socket.socket()
    if buffer:
        caller.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer)
    caller.connect(("127.0.0.1", gateway.port))
    content = json.dumps(body).encode()
    head = (
        f"POST /v1/completions HTTP/1.1\r\nhost: a\r\ncontent-type: application/json\r\ncontent-length: {len(content)}"
    )
    caller.sendall(head.encode() + b"\r\n\r\n" + content)
    return caller


@pytest.mark.parametrize("stream", [True, False])
def test_a_caller_who_goes_cancels_at_triton(scripted: Scripted, service: Service, stream: bool) -> None:
    begun = threading.Event()

    def answer(request: Any, context: Any) -> Iterator[Any]:
        begun.set()
        # Not streamed, an answer has nothing to send that would show who listens.
        return trickle(request, context) if stream else quiet(request, context)

    gateway = scripted(answer)
    caller = connect(gateway, {**ASKED, "stream": stream})
    assert begun.wait(10)
    if stream:
        caller.recv(100)
    went = time.monotonic()
    caller.close()
    assert service.gone.wait(5)
    assert time.monotonic() - went < 1


def quiet(request: Any, context: Any) -> Iterator[Any]:
    """No answer before the caller is gone."""
    while context.is_active():
        time.sleep(0.01)
    yield piece("late", "length")


def test_a_caller_who_goes_while_waiting_for_the_first_token_cancels(scripted: Scripted, service: Service) -> None:
    gateway, before = scripted(quiet), len(service.requests)
    caller = connect(gateway, {**ASKED, "stream": True})
    while len(service.requests) == before:
        time.sleep(0.01)
    caller.close()
    assert service.gone.wait(5)


def test_a_slow_reader_alone_is_cut_off(scripted: Scripted, service: Service) -> None:
    def flood(request: Any, context: Any) -> Iterator[Any]:
        n = json.loads(inputs(request)["sampling_parameters"])["max_tokens"]
        for number in range(n):
            if not context.is_active():
                return
            yield piece("x" * 50_000 if n == 100 else "y", "length" if number == n - 1 else "None")
            time.sleep(0.005)

    gateway = scripted(flood)
    with gateway.openai() as client, connect(gateway, {**ASKED, "stream": True}, buffer=4096) as caller:
        other = client.completions.create(model="chatty", prompt="def ", max_tokens=150, stream=True)
        # Five megabytes, of which the sockets and the gateway hold a part.
        assert service.gone.wait(10)
        assert "".join(chunk.choices[0].text for chunk in other) == "y" * 150
        caller.settimeout(10)
        received = b""
        with suppress(ConnectionError):
            while data := caller.recv(1 << 20):
                received += data
    assert b"data: " in received
    assert b"[DONE]" not in received


@pytest.mark.parametrize(
    ("message", "status", "code"),
    [
        ("UNAVAILABLE: the queue is full: 16 requests run and 8 wait; try again later", 429, "rate_limit_exceeded"),
        ("UNAVAILABLE: the engine has stopped and will be restarted; try again", 503, "unavailable"),
        (
            "INVALID_ARGUMENT: the prompt has 160 tokens, but the context of 150 leaves room for 149",
            400,
            "context_length_exceeded",
        ),
        ("DEADLINE_EXCEEDED: waited longer than its timeout", 504, "timeout"),
        ("INTERNAL: /secret/path of 10.0.0.1", 500, None),
        ("unknown model", 404, "model_not_found"),
    ],
)
@pytest.mark.parametrize("stream", [True, False])
def test_failures_before_the_first_token_have_their_status(
    scripted: Scripted, message: str, status: int, code: str | None, stream: bool
) -> None:
    client = scripted(lambda request, context: iter([error(message)])).openai()
    with client, pytest.raises(APIStatusError) as caught:
        client.completions.create(**ASKED, stream=stream)
    assert (caught.value.status_code, caught.value.code) == (status, code)
    assert ("retry-after" in caught.value.response.headers) == (status in (429, 503))
    assert "secret" not in str(caught.value)
    assert "10.0.0.1" not in str(caught.value)


def test_health_is_that_of_triton_and_of_each_model(gateway: Gateway, service: Service) -> None:
    assert gateway.get("/health").status_code == 200
    service.models = [("another", "1", "READY")]
    assert gateway.get("/health").status_code == 503
    service.models = [("chatty", "1", "UNAVAILABLE")]
    reply = gateway.get("/health")
    assert (reply.status_code, reply.json()["error"]["type"]) == (503, "server_error")
    service.models = [("chatty", "1", "READY")]


def break_off(request: Any, context: Any) -> Iterator[Any]:
    """Two tokens, and then what Triton says of an engine that failed."""
    yield piece("a")
    yield piece("b")
    yield error("INTERNAL: out of order")


def test_a_failure_in_mid_stream_is_an_event_that_the_package_raises(scripted: Scripted) -> None:
    gateway = scripted(break_off)
    with gateway.openai() as client:
        stream = client.completions.create(**ASKED, stream=True)
        assert [next(stream).choices[0].text for _ in range(2)] == ["a", "b"]
        with pytest.raises(APIError, match="starts again") as caught:
            next(stream)
    assert caught.value.type == "server_error"
    lines = gateway.post("/v1/completions", {**ASKED, "stream": True}).text.split("\n\n")
    assert lines[-2:] == ["data: [DONE]", ""]
    assert json.loads(lines[-3].removeprefix("data: "))["error"]["code"] == "unavailable"


def test_the_async_package_raises_it_too(scripted: Scripted) -> None:
    gateway = scripted(break_off)

    async def read() -> list[str]:
        async with gateway.async_openai() as client:
            stream = await client.chat.completions.create(model="chatty", messages=HELLO, stream=True)
            texts = [(await anext(stream)).choices[0].delta.content or "" for _ in range(3)]
            with pytest.raises(APIError):
                await anext(stream)
        return texts

    assert asyncio.run(read()) == ["", "a", "b"]
