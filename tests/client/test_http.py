"""Both clients over HTTP, against a real server in this process."""

import asyncio
import gc
import json
import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from openai_server import (
    DONE,
    Cut,
    Gateway,
    OpenAIService,
    Status,
    piece,
    plain,
    refusal,
    run_gateway,
    said,
    trickle,
    usage,
)

from deploykit.client import (
    AsyncClient,
    CancelledError,
    Chunk,
    Client,
    ClientError,
    DeadlineExceededError,
    InvalidRequestError,
    NotFoundError,
    PermissionDeniedError,
    ServerError,
    StreamBrokenError,
    TokenLogprob,
    UnavailableError,
)
from deploykit.client.http_transport import socket_options

WAIT = 10.0


@pytest.fixture
def gateway() -> Iterator[Gateway]:
    gateway = run_gateway(OpenAIService())
    yield gateway
    gateway.stop()


class Both:
    """What one client has, the other has: each call goes through both, and must come to the same."""

    def __init__(self, url: str, **options: Any) -> None:
        self._url, self._options = url, {"timeout": WAIT, **options}

    def generate(self, prompt: Any = "hi", **options: Any) -> Any:
        return self._both("generate", prompt, **options)

    def chat(self, messages: Any, **options: Any) -> Any:
        return self._both("chat", messages, **options)

    def stream(self, prompt: Any = "hi", **options: Any) -> Any:
        async def read(client: AsyncClient) -> list[Chunk]:
            return [chunk async for chunk in client.generate(prompt, stream=True, **options)]

        return self._same(lambda client: list(client.generate(prompt, stream=True, **options)), read)

    def models(self) -> Any:
        return self._both("models")

    def health(self) -> Any:
        return self._both("health")

    def _both(self, name: str, *arguments: Any, **options: Any) -> Any:
        async def ask(client: AsyncClient) -> Any:
            return await getattr(client, name)(*arguments, **options)

        return self._same(lambda client: getattr(client, name)(*arguments, **options), ask)

    def _same(self, sync: Callable[[Client], Any], asynchronous: Callable[[AsyncClient], Any]) -> Any:
        async def main() -> Any:
            async with AsyncClient(self._url, **self._options) as client:
                return await asynchronous(client)

        with Client(self._url, **self._options) as client:
            first = outcome(lambda: sync(client))
        second = outcome(lambda: asyncio.run(main()))
        assert repr(first) == repr(second)
        if isinstance(first, ClientError):
            assert first.text == getattr(second, "text", None)
            raise first
        return first


def outcome(call: Callable[[], Any]) -> Any:
    try:
        return call()
    except ClientError as error:
        return error


@pytest.fixture
def both(gateway: Gateway) -> Both:
    return Both(gateway.url)


def fixed(*events: Any) -> Callable[[Any], Iterator[Any]]:
    return lambda body: iter(events)


# What arrives


def test_the_whole(gateway: Gateway, both: Both) -> None:
    answer = both.generate("hi", max_tokens=2)
    assert (answer.text, answer.finish_reason, answer.num_input_tokens, answer.num_output_tokens) == (
        "ab",
        "length",
        3,
        2,
    )
    assert [choice.num_output_tokens for choice in answer.choices] == [2]
    path, _, body = gateway.service.requests[0]
    assert path == "/v1/completions"
    assert body == {"model": "writer", "prompt": "hi", "stream": False, "max_tokens": 2, "temperature": 0}


def test_a_stream(gateway: Gateway, both: Both) -> None:
    chunks = both.stream("hi", max_tokens=2)
    assert [chunk.text for chunk in chunks] == ["a", "b", ""]
    assert [chunk.finish_reason for chunk in chunks] == [None, None, "length"]
    assert (chunks[-1].num_input_tokens, chunks[-1].num_output_tokens) == (3, 2)
    assert gateway.service.requests[0][2]["stream_options"] == {"include_usage": True}


def test_a_chat(gateway: Gateway, both: Both) -> None:
    messages = [{"role": "user", "content": "hé"}]
    tools = [{"type": "function", "function": {"name": "now"}}]
    assert both.chat(messages, tools=tools, logprobs=2).text == "ab"
    path, _, body = gateway.service.requests[0]
    assert path == "/v1/chat/completions"
    assert (body["messages"], body["tools"], body["logprobs"], body["top_logprobs"]) == (messages, tools, True, 2)
    with Client(gateway.url) as client:
        assert "".join(chunk.text for chunk in client.chat(messages, stream=True)) == "ab"


def test_token_ids_and_choices(gateway: Gateway, both: Both) -> None:
    gateway.service.answer = fixed(
        piece("a"), piece("x", index=1), piece("", "stop", index=1), piece("b", "length"), usage(3, 3), DONE
    )
    chunks = both.stream([5, 6], n=2, client="me", seed=1)
    assert [(chunk.index, chunk.text, chunk.finish_reason) for chunk in chunks] == [
        (0, "a", None),
        (1, "x", None),
        (1, "", "stop"),
        (0, "b", "length"),
    ]
    body = gateway.service.requests[0][2]
    assert (body["prompt"], body["n"], body["user"], "temperature" in body) == ([5, 6], 2, "me", False)


def test_the_engines_defaults_are_sent(gateway: Gateway) -> None:
    """What a client leaves out means the same over both protocols."""
    from deploykit.engine import SamplingParams

    def answer(body: Any) -> Iterator[Any]:
        texts = [{"index": index, "text": "a", "finish_reason": "stop"} for index in range(body.get("n", 1))]
        yield {"choices": texts, "usage": {"prompt_tokens": 1, "completion_tokens": len(texts)}}

    gateway.service.answer = answer
    cases: list[dict[str, Any]] = [{}, {"top_p": 0.5}, {"top_k": 3}, {"min_p": 0.1}, {"seed": 1}, {"n": 2}]
    with Client(gateway.url) as client:
        for given in cases:
            client.generate("hi", **given)
    for given, (_, _, body) in zip(cases, gateway.service.requests, strict=True):
        meant = SamplingParams.from_mapping(given)
        # The gateway's own default is 1, OpenAI's.
        assert (body["max_tokens"], body.get("temperature", 1.0)) == (meant.max_tokens, meant.effective_temperature)


def test_log_probabilities_of_a_completion(gateway: Gateway, both: Both) -> None:
    told = {
        "text_offset": [0, 1],
        "tokens": ["a", "bytes:\\xc3"],
        "token_logprobs": [-3.0, -0.5],
        "top_logprobs": [{"b": -0.5, "a": -3.0}, {"bytes:\\xc3": -0.5}],
    }
    gateway.service.answer = fixed(piece("a", logprobs=told), piece("", "stop"), usage(1, 2), DONE)
    first, last = both.stream(logprobs=1)
    assert first.logprobs == (
        TokenLogprob(
            token="a", logprob=-3.0, token_id=None, top=(TokenLogprob(token="b", logprob=-0.5, token_id=None),)
        ),
        TokenLogprob(
            token="\ufffd",
            logprob=-0.5,
            token_id=None,
            top=(TokenLogprob(token="\ufffd", logprob=-0.5, token_id=None),),
        ),
    )
    assert (first.num_output_tokens, last.num_output_tokens) == (2, 2)


def test_log_probabilities_of_a_chat(gateway: Gateway) -> None:
    likely = {"token": "b", "logprob": -0.5, "bytes": [98]}
    told = {"content": [{"token": "a", "logprob": -3.0, "bytes": [97], "top_logprobs": [likely]}], "refusal": None}
    gateway.service.answer = fixed(said("a", logprobs=told), said("", "stop"), usage(1, 1), DONE)
    with Client(gateway.url) as client:
        answer = client.chat([{"role": "user", "content": "x"}], stream=True, logprobs=1).completion()
    top = (TokenLogprob(token="b", logprob=-0.5, token_id=None),)
    assert answer.logprobs == (TokenLogprob(token="a", logprob=-3.0, token_id=None, top=top),)


def test_models_and_health(gateway: Gateway, both: Both) -> None:
    gateway.service.models = {"data": [{"id": "b"}, {"id": "a"}]}
    assert [model.name for model in both.models()] == ["a", "b"]
    assert both.health().ready
    gateway.service.health = 503
    assert (both.health().live, both.health().ready) == (True, False)
    with pytest.raises(NotFoundError, match=r"several models \(a, b\)"):
        both.generate()


def test_several_streams_run_side_by_side(gateway: Gateway) -> None:
    held = threading.Barrier(3)

    def answer(body: Any) -> Iterator[Any]:
        held.wait(WAIT)
        yield from (piece("a"), piece("", "stop"), usage(1, 1), DONE)

    gateway.service.answer = answer
    with Client(gateway.url, model="m") as client:
        streams = [client.generate("hi", stream=True) for _ in range(3)]
        assert [stream.completion().text for stream in streams] == ["a"] * 3


# Errors


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("status", "content", "kind", "match"),
    [
        (400, refusal("invalid_request_error", "top_p is 7"), InvalidRequestError, "^top_p is 7$"),
        (413, refusal("invalid_request_error", "too large"), InvalidRequestError, "too large"),
        (401, refusal("invalid_request_error", "no key", "invalid_api_key"), PermissionDeniedError, "no key"),
        (403, refusal("x", "not you"), PermissionDeniedError, "not you"),
        (404, refusal("invalid_request_error", "no m", "model_not_found"), NotFoundError, "no m"),
        (500, refusal("server_error", "its log says more"), ServerError, "its log"),
        (504, refusal("timeout_error", "too long", "timeout"), DeadlineExceededError, "too long"),
        (418, b"tea", InvalidRequestError, "HTTP status 418"),
        (500, b"<html>", ServerError, "HTTP status 500"),
        (302, b"", ServerError, "HTTP status 302"),
        (200, b"<html>", ServerError, "doesn't answer as OpenAI's API does"),
        (200, b"[1]", ServerError, "doesn't answer as OpenAI's API does"),
        (200, {"choices": [{}]}, ServerError, "doesn't answer as OpenAI's API does"),
        (200, {"choices": [7]}, ServerError, "doesn't answer as OpenAI's API does"),
    ],
)
def test_a_status_is_raised(
    gateway: Gateway, both: Both, status: int, content: Any, kind: type[ClientError], match: str, stream: bool
) -> None:
    gateway.service.answer = fixed(Status(status, content))
    with pytest.raises(kind, match=match):
        both.stream() if stream else both.generate()
    # Once by each client.
    assert len(gateway.service.requests) == 2


@pytest.mark.parametrize("status", [429, 502, 503])
def test_unavailable_is_asked_again_three_times_at_most(gateway: Gateway, both: Both, status: int) -> None:
    gateway.service.answer = fixed(Status(status, refusal("rate_limit_error", "later")))
    with pytest.raises(UnavailableError, match="later"):
        both.generate()
    assert len(gateway.service.requests) == 6


@pytest.mark.parametrize(
    ("event", "kind"),
    [
        (refusal("timeout_error", "too long", "timeout"), DeadlineExceededError),
        (refusal("server_error", "oh"), StreamBrokenError),
        (refusal("server_error", "gone", "unavailable"), StreamBrokenError),
        (Cut(), StreamBrokenError),
        (DONE, StreamBrokenError),
        ("{", StreamBrokenError),
    ],
    ids=["timeout", "server", "unavailable", "cut", "no reason", "no JSON"],
)
def test_what_ends_a_stream_after_a_200(gateway: Gateway, both: Both, event: Any, kind: type[ClientError]) -> None:
    gateway.service.answer = fixed(piece("x"), piece("y"), event)
    with pytest.raises(kind) as caught:
        both.stream()
    assert caught.value.text == "xy"
    assert len(gateway.service.requests) == 2


def test_an_error_event_before_the_first_token_is_raised_as_it_is(gateway: Gateway, both: Both) -> None:
    gateway.service.answer = fixed(said(""), refusal("invalid_request_error", "no"), DONE)
    with pytest.raises(InvalidRequestError, match=r"^no$"):
        both.stream()


def test_nobody_there(free_port: int) -> None:
    both = Both(f"http://127.0.0.1:{free_port}", model="m")
    assert not both.health().live
    with pytest.raises(UnavailableError, match=r"unavailable.*check that the gateway runs"):
        both.generate()


# Deadlines and leaving


def silent(body: Any) -> Iterator[Any]:
    time.sleep(1)
    yield piece("late")


@pytest.mark.parametrize("answer", [trickle, silent])
def test_deadlines(gateway: Gateway, both: Both, answer: Any) -> None:
    gateway.service.answer = answer
    began = time.monotonic()
    with pytest.raises(DeadlineExceededError, match="within the timeout"), Client(gateway.url, model="m") as client:
        list(client.generate("hi", stream=True, timeout=0.3))
    assert time.monotonic() - began < 0.9
    if answer is trickle:
        assert gateway.service.gone.wait(WAIT)


def test_cancel_wakes_a_reader_even_before_the_first_byte(gateway: Gateway) -> None:
    gateway.service.answer = silent
    with Client(gateway.url, model="m") as client:
        stream = client.generate("hi", stream=True)
        threading.Timer(0.1, stream.cancel).start()
        began = time.monotonic()
        with pytest.raises(CancelledError):
            next(stream)
    assert time.monotonic() - began < 0.8


@pytest.mark.parametrize("way", ["leave", "close", "cancel", "forget", "close the client"])
def test_who_leaves_is_gone_for_the_server(gateway: Gateway, way: str) -> None:
    gateway.service.answer = trickle
    with Client(gateway.url, model="m") as client:
        stream = client.generate("hi", stream=True)
        for _ in stream:
            break
        if way == "leave":
            stream.__exit__(None, None, None)
        elif way == "close":
            stream.close()
            assert list(stream) == []
        elif way == "cancel":
            stream.cancel()
            with pytest.raises(CancelledError, match="cancelled") as caught:
                list(stream)
            assert caught.value.text == "x"
        elif way == "forget":
            del stream
            gc.collect()
        else:
            client.close()
            with pytest.raises(CancelledError):
                list(stream)
            with pytest.raises(InvalidRequestError, match="this client is closed"):
                client.generate("hi")
        assert gateway.service.gone.wait(WAIT)


def test_ctrl_c_is_heard_while_a_reader_waits(gateway: Gateway) -> None:
    gateway.service.answer = trickle
    threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGINT)).start()
    with Client(gateway.url, model="m", timeout=60) as client, pytest.raises(KeyboardInterrupt):
        for _ in client.generate("hi", stream=True):
            pass
    assert gateway.service.gone.wait(WAIT)


@pytest.mark.parametrize("way", ["leave", "cancel", "cancel the task", "close the client"])
def test_who_leaves_a_loop_is_gone_for_the_server(gateway: Gateway, way: str) -> None:
    gateway.service.answer = trickle

    async def read(client: AsyncClient) -> None:
        async with client.generate("hi", stream=True) as stream:
            async for _ in stream:
                if way == "leave":
                    break
                if way == "cancel":
                    asyncio.get_running_loop().call_later(0.05, stream.cancel)
                if way == "close the client":
                    await client.close()

    async def main() -> None:
        async with AsyncClient(gateway.url, model="m") as client:
            if way == "cancel the task":
                task = asyncio.ensure_future(read(client))
                await asyncio.sleep(0.2)
                task.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await task
            elif way == "leave":
                await read(client)
            else:
                with pytest.raises(CancelledError):
                    await read(client)
            assert await asyncio.to_thread(gateway.service.gone.wait, WAIT)

    asyncio.run(main())


# The connection


def test_a_connection_is_used_again(gateway: Gateway, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: set[Any] = set()
    original = gateway.server.process_request

    def process(request: Any, address: Any) -> None:
        seen.add(address)
        original(request, address)

    monkeypatch.setattr(gateway.server, "process_request", process)
    with Client(gateway.url) as client:
        for _ in range(3):
            client.generate("hi")
            client.generate("hi", stream=True).completion()
    assert len(seen) == 1


def test_the_key_the_id_and_the_trace_are_headers(gateway: Gateway) -> None:
    with Client(f"{gateway.url}/v1/", api_key="sk-1") as client:
        client.generate("hi", request_id="r-1", trace={"traceparent": "00-a-b-01"})
    _, headers, _ = gateway.service.requests[0]
    assert headers["authorization"] == "Bearer sk-1"
    assert headers["x-request-id"] == "r-1"
    assert headers["traceparent"] == "00-a-b-01"


def test_a_half_open_connection_is_found_within_28_seconds() -> None:
    """The kernel's own probes do it, so what can be shown here is what they are told."""
    with socket.socket() as probe:
        for option in socket_options(20):
            probe.setsockopt(*option)
        told = {
            name: probe.getsockopt(socket.IPPROTO_TCP, getattr(socket, name)) for name in dir(socket) if name in NAMES
        }
        assert probe.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
    assert told["TCP_KEEPIDLE"] + told["TCP_KEEPINTVL"] * told["TCP_KEEPCNT"] == 28
    assert told["TCP_USER_TIMEOUT"] == 28000


NAMES = ("TCP_KEEPIDLE", "TCP_KEEPINTVL", "TCP_KEEPCNT", "TCP_USER_TIMEOUT")


def test_a_client_that_was_never_used_has_no_thread(gateway: Gateway) -> None:
    before = threading.active_count()
    Client(gateway.url).close()
    assert threading.active_count() == before


def test_the_thread_ends_with_the_client(gateway: Gateway) -> None:
    client = Client(gateway.url)
    client.generate("hi")
    names = [thread for thread in threading.enumerate() if thread.name == "deploykit-http"]
    del client
    gc.collect()
    for thread in names:
        thread.join(WAIT)
        assert not thread.is_alive()


@pytest.mark.parametrize("url", ["http://", "https:///v1", "http://[::1"])
def test_a_url_without_a_host(url: str) -> None:
    with pytest.raises(InvalidRequestError, match="no host in it"):
        Client(url)


def test_a_request_that_is_no_json_is_refused(gateway: Gateway) -> None:
    with Client(gateway.url) as client, pytest.raises(InvalidRequestError, match="can't be written as JSON"):
        client.chat([{"role": "user", "content": object()}])
    assert json.dumps(gateway.service.requests) == "[]"


def test_comes_again_when_the_server_wants_it(gateway: Gateway) -> None:
    busy = refusal("rate_limit_error", "later", "rate_limit_exceeded")

    def answer(body: dict[str, Any]) -> Iterator[Any]:
        first = len(gateway.service.requests) == 1
        return iter([Status(429, busy, {"retry-after": "1"})]) if first else plain(body)

    gateway.service.answer = answer
    with Client(gateway.url, model="writer", timeout=WAIT) as client:
        began = time.monotonic()
        assert client.generate("hi").text == "ab"
        assert 1 <= time.monotonic() - began < 5


@pytest.mark.parametrize("wanted", ["3600", "Wed, 21 Oct 2099 07:28:00 GMT"])
def test_a_server_that_wants_to_be_left_alone_for_longer_is_not_waited_for(gateway: Gateway, wanted: str) -> None:
    busy = refusal("rate_limit_error", "later", "rate_limit_exceeded")
    gateway.service.answer = fixed(Status(429, busy, {"retry-after": wanted}))
    with Client(gateway.url, model="writer", timeout=WAIT) as client:
        began = time.monotonic()
        with pytest.raises(UnavailableError, match="later"):
            client.generate("hi")
        assert time.monotonic() - began < 2
    # A date isn't read: the tries are those without it.
    assert len(gateway.service.requests) == (1 if wanted.isdecimal() else 3)


def test_a_model_that_is_not_there_is_told_with_those_that_are(gateway: Gateway, both: Both) -> None:
    gateway.service.answer = fixed(Status(404, refusal("invalid_request_error", "nope", "model_not_found")))
    with pytest.raises(NotFoundError) as caught:
        both.generate("hi", model="nope")
    assert str(caught.value) == f"{gateway.url}: no model 'nope' there; there is writer"


def test_grpc_to_a_gateway_says_how_it_is_spoken_to(gateway: Gateway) -> None:
    address = gateway.url.removeprefix("http://")
    with Client(address, model="writer", timeout=WAIT, tries=1) as client:
        with pytest.raises(UnavailableError, match=f"no gRPC is spoken there; the gateway is {gateway.url}"):
            client.generate("hi")
        assert not client.health().live
