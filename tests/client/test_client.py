"""The client against a real gRPC server in this process."""

import gc
import os
import signal
import threading
import time
from collections.abc import Iterator
from typing import Any

import grpc
import pytest
from inference_server import Running, Service, Wire, error, inputs, piece, run, trickle

from deploykit.client import (
    CancelledError,
    Client,
    ClientError,
    DeadlineExceededError,
    InvalidRequestError,
    NotFoundError,
    PermissionDeniedError,
    ServerError,
    StreamBrokenError,
    UnavailableError,
)

WAIT = 10.0


@pytest.fixture
def client(running: Running) -> Iterator[Client]:
    with Client(running.url, timeout=WAIT) as client:
        yield client


def aborting(code: grpc.StatusCode, details: str = "because", after: int = 0) -> Any:
    """An answer that ends with a status."""

    def answer(request: Any, context: Any) -> Iterator[Any]:
        yield from [piece("x")] * after
        context.abort(code, details)

    return answer


# What arrives


def test_a_stream_has_its_pieces_and_counts(client: Client) -> None:
    chunks = list(client.generate("hi", stream=True))
    assert [chunk.text for chunk in chunks] == ["a", "b"]
    assert [chunk.finish_reason for chunk in chunks] == [None, "length"]
    assert [chunk.num_output_tokens for chunk in chunks] == [1, 2]
    assert chunks[-1].num_input_tokens == 3


def test_the_whole_comes_at_once(running: Running, client: Client) -> None:
    running.service.answer = lambda request, context: iter([piece("ab", "stop", tokens=7)])
    answer = client.generate("hi", max_tokens=7, temperature=0.5, top_k=3, top_p=0.9, seed=1, stop="x", ignore_eos=True)
    assert (answer.text, answer.finish_reason, answer.num_output_tokens) == ("ab", "stop", 7)
    assert inputs(running.service.requests[0])["stream"] is False
    assert running.service.sampling() == {
        "max_tokens": 7,
        "temperature": 0.5,
        "top_k": 3,
        "top_p": 0.9,
        "seed": 1,
        "stop": "x",
        "ignore_eos": True,
    }


def test_several_threads_share_a_client(running: Running, client: Client) -> None:
    running.service.answer = lambda request, context: iter([piece(inputs(request)["text_input"], "stop")])
    texts: dict[int, str] = {}
    threads = [threading.Thread(target=lambda n=n: texts.update({n: client.generate(f"p{n}").text})) for n in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert texts == {number: f"p{number}" for number in range(6)}


# Which model


def test_the_only_model_is_found_once(running: Running, client: Client) -> None:
    client.generate("hi")
    running.service.models = []
    client.generate("hi")
    assert [request.model_name for request in running.service.requests] == ["writer", "writer"]


@pytest.mark.parametrize(
    ("models", "match"),
    [
        ([], "the server has no model"),
        ([("a", "1", "READY"), ("b", "1", "READY"), ("b", "2", "READY")], r"several models \(a, b\); name one with"),
    ],
)
def test_none_or_several_models_need_a_name(
    running: Running, client: Client, models: list[tuple[str, str, str]], match: str
) -> None:
    running.service.models = models
    with pytest.raises(NotFoundError, match=match):
        client.generate("hi")


def test_a_named_model_is_asked_without_a_look(running: Running) -> None:
    running.service.models = []
    with Client(running.url, model="mine") as client:
        client.generate("hi")
    assert running.service.requests[0].model_name == "mine"


# Health


def test_health_of_a_server(running: Running, client: Client) -> None:
    assert client.is_ready()
    running.service.models = [("writer", "1", "UNAVAILABLE")]
    health = client.health()
    assert (health.live, health.ready) == (True, False)
    assert [(model.name, model.ready, model.reason) for model in client.models()] == [("writer", False, "unloaded")]


def test_nobody_there(free_port: int) -> None:
    with Client(f"127.0.0.1:{free_port}", model="m") as client:
        assert not client.is_ready()
        assert not client.health().live
        with pytest.raises(UnavailableError, match=f"127.0.0.1:{free_port}: unavailable: .*check that the server runs"):
            client.generate("hi")


# Errors


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("code", "kind"),
    [
        (grpc.StatusCode.INVALID_ARGUMENT, InvalidRequestError),
        (grpc.StatusCode.NOT_FOUND, NotFoundError),
        (grpc.StatusCode.PERMISSION_DENIED, PermissionDeniedError),
        (grpc.StatusCode.CANCELLED, CancelledError),
        (grpc.StatusCode.INTERNAL, ServerError),
    ],
)
def test_a_status_is_raised(
    running: Running, client: Client, code: grpc.StatusCode, kind: type[ClientError], stream: bool
) -> None:
    running.service.answer = aborting(code)
    with pytest.raises(kind, match="because"):
        list(client.generate("hi", stream=True)) if stream else client.generate("hi")
    assert len(running.service.requests) == 1


def test_a_message_in_the_stream_is_raised(running: Running, client: Client) -> None:
    running.service.answer = lambda request, context: iter([error("INVALID_ARGUMENT: top_p is 7")])
    with pytest.raises(InvalidRequestError, match=r"^top_p is 7$"):
        client.generate("hi", top_p=7)


def test_an_exception_in_the_server_is_its_own(running: Running, client: Client) -> None:
    running.service.answer = lambda request, context: iter([object()])
    with pytest.raises(ServerError):
        client.generate("hi")


@pytest.mark.parametrize(
    "end",
    [
        aborting(grpc.StatusCode.UNAVAILABLE, after=2),
        aborting(grpc.StatusCode.INTERNAL, after=2),
        lambda request, context: iter([piece("x"), piece("x"), error("INTERNAL: the engine stopped")]),
        lambda request, context: iter([piece("x"), piece("x")]),
    ],
    ids=["unavailable", "internal", "message", "no finish reason"],
)
def test_a_broken_stream_holds_what_arrived_and_is_not_retried(running: Running, client: Client, end: Any) -> None:
    running.service.answer = end
    with pytest.raises(StreamBrokenError, match="broke after 2 tokens") as caught:
        list(client.generate("hi", stream=True))
    assert caught.value.text == "xx"
    assert len(running.service.requests) == 1


def test_a_server_that_dies_in_mid_stream_breaks_it(running: Running, client: Client) -> None:
    running.service.answer = trickle
    stream = client.generate("hi", stream=True)
    next(stream)
    running.server.stop(grace=0)
    with pytest.raises(StreamBrokenError) as caught:
        list(stream)
    assert set(caught.value.text) == {"x"}


def test_a_cut_connection_breaks_the_stream(running: Running, wire: Wire) -> None:
    running.service.answer = trickle
    with Client(f"127.0.0.1:{wire.port}", model="m") as client:
        stream = client.generate("hi", stream=True)
        next(stream)
        running.server.stop(grace=0)
        wire.cut()
        with pytest.raises(StreamBrokenError):
            list(stream)


def test_a_connection_that_fell_silent_is_found_by_keepalive(running: Running, wire: Wire) -> None:
    running.service.answer = trickle
    with Client(f"127.0.0.1:{wire.port}", model="m", timeout=20, keepalive=1) as client:
        stream = client.generate("hi", stream=True)
        next(stream)
        wire.fall_silent()
        # Found by the deadline, it would be another error.
        with pytest.raises(StreamBrokenError):
            list(stream)


# Deadlines


def test_the_deadline_reaches_the_server(running: Running, client: Client) -> None:
    client.generate("hi", timeout=5)
    client.generate("hi")
    # The server's clock starts when the request comes, and its reading is a little off.
    assert [round(seconds) for seconds in running.service.deadlines] == [5, WAIT]


def test_a_slow_answer_meets_its_deadline(running: Running, client: Client) -> None:
    running.service.answer = trickle
    with pytest.raises(DeadlineExceededError, match=r"within the timeout.*after") as caught:
        list(client.generate("hi", stream=True, timeout=0.3))
    assert set(caught.value.text) == {"x"}
    assert running.service.gone.wait(WAIT)


def test_a_silent_server_meets_the_deadline(running: Running, client: Client) -> None:
    def answer(request: Any, context: Any) -> Iterator[Any]:
        while context.is_active():
            time.sleep(0.01)
        yield piece("late")

    running.service.answer = answer
    with pytest.raises(DeadlineExceededError):
        client.generate("hi", timeout=0.2)
    assert len(running.service.requests) == 1


@pytest.mark.parametrize("timeout", [0, -1, float("nan"), float("inf"), True, "3"])
def test_a_timeout_is_a_time(client: Client, timeout: Any) -> None:
    with pytest.raises(InvalidRequestError, match="timeout must be a positive number of seconds"):
        client.generate("hi", timeout=timeout)


# Leaving


def test_leaving_the_loop_cancels_on_the_server(running: Running, client: Client) -> None:
    running.service.answer = trickle
    for chunk in client.generate("hi", stream=True):
        assert chunk.text == "x"
        break
    assert running.service.gone.wait(WAIT)


def test_an_exception_in_the_loop_cancels_on_the_server(running: Running, client: Client) -> None:
    running.service.answer = trickle
    with pytest.raises(ZeroDivisionError), client.generate("hi", stream=True) as stream:
        [1 / 0 for _ in stream]
    assert running.service.gone.wait(WAIT)


def test_ctrl_c_cancels_on_the_server(running: Running, client: Client) -> None:
    running.service.answer = trickle
    threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGINT)).start()
    with pytest.raises(KeyboardInterrupt):
        client.generate("hi")
    assert running.service.gone.wait(WAIT)


def test_models_come_in_order(running: Running, client: Client) -> None:
    running.service.models = [("b", "1", "READY"), ("a", "2", "UNAVAILABLE"), ("a", "1", "READY")]
    assert [(model.name, model.version, model.ready, model.reason) for model in client.models()] == [
        ("a", "1", True, ""),
        ("a", "2", False, "unloaded"),
        ("b", "1", True, ""),
    ]


def test_forgetting_a_stream_cancels_on_the_server(running: Running, client: Client) -> None:
    running.service.answer = trickle
    stream = client.generate("hi", stream=True)
    next(stream)
    del stream
    gc.collect()
    assert running.service.gone.wait(WAIT)


def test_a_closed_stream_has_ended(running: Running, client: Client) -> None:
    running.service.answer = trickle
    stream = client.generate("hi", stream=True)
    next(stream)
    stream.close()
    assert list(stream) == []
    assert stream.text == "x"
    assert running.service.gone.wait(WAIT)


def test_cancel_wakes_the_reader(running: Running, client: Client) -> None:
    def answer(request: Any, context: Any) -> Iterator[Any]:
        yield piece("x")
        while context.is_active():
            time.sleep(0.01)

    running.service.answer = answer
    stream = client.generate("hi", stream=True)
    next(stream)
    threading.Timer(0.1, stream.cancel).start()
    with pytest.raises(CancelledError) as caught:
        next(stream)
    assert caught.value.text == "x"
    assert running.service.gone.wait(WAIT)


def test_cancel_ends_the_wait_for_another_try(
    running: Running, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("deploykit.client.exchange.waits", lambda generator, tries: iter([WAIT / 2]))
    running.service.answer = aborting(grpc.StatusCode.UNAVAILABLE)
    stream = client.generate("hi", stream=True)
    threading.Timer(0.3, stream.cancel).start()
    with pytest.raises(CancelledError):
        next(stream)
    assert len(running.service.requests) == 1


def test_closing_the_client_cancels_its_streams(running: Running) -> None:
    running.service.answer = trickle
    client = Client(running.url)
    stream = client.generate("hi", stream=True)
    next(stream)
    client.close()
    with pytest.raises(CancelledError):
        list(stream)
    assert running.service.gone.wait(WAIT)
    with pytest.raises(InvalidRequestError, match="this client is closed"):
        client.generate("hi")
    with pytest.raises(InvalidRequestError, match="this client is closed"):
        client.models()


# Asking again


def test_unavailable_is_asked_again_three_times_at_most(running: Running, client: Client) -> None:
    running.service.answer = aborting(grpc.StatusCode.UNAVAILABLE)
    with pytest.raises(UnavailableError):
        client.generate("hi")
    assert len(running.service.requests) == 3


def test_a_server_that_recovers_answers(running: Running, client: Client) -> None:
    def answer(request: Any, context: Any) -> Iterator[Any]:
        if len(running.service.requests) < 3:
            yield error("UNAVAILABLE: 1024 requests wait already")
        else:
            yield piece("ok", "stop")

    running.service.answer = answer
    assert client.generate("hi").text == "ok"


def test_no_second_try_past_the_deadline(running: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("deploykit.client.retry.BASE", 1e6)
    running.service.answer = aborting(grpc.StatusCode.UNAVAILABLE)
    with Client(running.url, timeout=5) as client, pytest.raises(UnavailableError):
        client.generate("hi")
    assert len(running.service.requests) == 1


def test_a_client_outlives_a_restart_of_the_server(free_port: int) -> None:
    first = run(Service(), free_port)
    with Client(first.url, model="m") as client:
        assert client.generate("hi").text == "ab"
        first.server.stop(grace=0).wait()
        second = run(Service(), free_port)
        try:
            assert client.generate("hi").text == "ab"
        finally:
            second.server.stop(grace=0).wait()


# Addresses


@pytest.mark.parametrize(
    ("url", "match"),
    [("ftp://localhost:8000", "ftp is not spoken here"), ("localhost", "no port in it"), ("[::1]", "no port in it")],
)
def test_a_url_that_is_none_of_ours(url: str, match: str) -> None:
    with pytest.raises(InvalidRequestError, match=match):
        Client(url)


def test_a_url_with_a_scheme(running: Running) -> None:
    with Client(f"grpc://{running.url}/") as client:
        assert client.is_ready()


def test_tls_is_spoken_where_asked_for(running: Running) -> None:
    with Client(f"grpcs://{running.url}") as client:
        # The server speaks no TLS, so the handshake fails.
        assert not client.is_ready(timeout=2)


def test_a_model_that_is_not_there_is_told_with_those_that_are(running: Running) -> None:
    running.service.answer = lambda request, context: iter(
        [error(f"Request for unknown model: '{request.model_name}' is not found")]
    )
    running.service.models = [("writer", "1", "READY"), ("other", "2", "READY"), ("gone", "1", "UNAVAILABLE")]
    with Client(running.url, timeout=10) as client:
        with pytest.raises(NotFoundError) as caught:
            client.generate("hi", model="nope")
        assert str(caught.value) == f"{running.url}: no model 'nope' there; there are other, writer"
        with pytest.raises(NotFoundError, match="unknown model: 'writer'"):
            client.generate("hi", model="writer")


@pytest.mark.parametrize("name", ["max_tokens", "temperature", "seed", "n"])
def test_a_text_is_no_number(name: str) -> None:
    # Triton reads the number in it, and the gateway doesn't: neither is asked.
    for url in ("127.0.0.1:1", "http://127.0.0.1:1"):
        with Client(url, model="m") as client, pytest.raises(InvalidRequestError, match=f"{name} must be a number"):
            client.generate("hi", **{name: "3"})  # type: ignore[call-overload]
