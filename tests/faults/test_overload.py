"""More than can be served: what is refused says when to come again, and nobody who behaves pays for those who don't."""

import http.client
import json
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from typing import Any, Final

import grpc
import pytest
from gateways import open_gateway
from inference_server import Service, run
from openai import APIStatusError, RateLimitError
from stacks import CONTEXT, KEY, PROMPT, QUEUE, ROWS, Stack, resident, until

from deploykit.client import Client, ClientError, UnavailableError

pytestmark = pytest.mark.triton

CALLS: Final = 400
"""Requests of the retry storm."""


# Retries


class Counting(grpc.ServerInterceptor):  # type: ignore[misc]  # grpc has no types
    """Counts what reaches a server, whatever comes of it."""

    def __init__(self) -> None:
        self.seen = 0
        self._lock = threading.Lock()

    def intercept_service(self, go_on: Any, details: Any) -> Any:
        with self._lock:
            self.seen += 1
        return go_on(details)


def refuse(request: Any, context: Any) -> Iterator[Any]:
    context.abort(grpc.StatusCode.UNAVAILABLE, "because")
    yield


@pytest.mark.parametrize("threads", [1, 16])
def test_a_server_that_always_fails_gets_a_tenth_more_at_most(threads: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """One object is one budget, however many threads it serves."""
    monkeypatch.setattr("deploykit.client.retry.BASE", 0.002)
    service = Service(answer=refuse)
    running = run(service)

    def call(client: Client, _number: int) -> None:
        with pytest.raises(UnavailableError):
            client.generate("x", timeout=20)

    try:
        with Client(running.url, model="m") as client, ThreadPoolExecutor(threads) as pool:
            list(pool.map(lambda number: call(client, number), range(CALLS)))
    finally:
        running.server.stop(None).wait()
    print(f"\n{threads} threads: {len(service.requests) / CALLS:.3f} of the load sent at 100 % failure")
    assert CALLS < len(service.requests) <= 1.1 * CALLS


def test_one_layer_asks_again(whole: Stack) -> None:
    """The gateway asks Triton once: its callers ask again themselves, and two layers would multiply."""
    service = Service(answer=refuse)
    running = run(service)
    try:
        with open_gateway(whole.models, running.url) as gateway, gateway.openai() as openai:
            with pytest.raises(APIStatusError):
                openai.completions.create(model="fast", prompt="x", max_tokens=1)
            before = len(service.requests)
            with pytest.raises(APIStatusError):
                openai.completions.create(model="fast", prompt="x", max_tokens=1)
            assert len(service.requests) - before == 1
    finally:
        running.server.stop(None).wait()


# The queue


@contextmanager
def busy(stack: Stack, waiting: int) -> Iterator[None]:
    """Fill every row of the slow model, and so many places of its queue, with streams that nobody ends."""
    with ExitStack() as leaving:
        client = leaving.enter_context(stack.grpc("slow"))
        streams = [client.generate(PROMPT, stream=True, max_tokens=800, ignore_eos=True) for _ in range(ROWS + waiting)]
        with ThreadPoolExecutor(ROWS + waiting) as threads:
            futures = [threads.submit(next, stream, None) for stream in streams]
            try:
                until(lambda: stack.load() == (ROWS, waiting), 20)
                yield
            finally:
                for stream in streams:
                    stream.cancel()
                for future in futures:
                    future.exception(20)


def test_a_full_queue_refuses_at_once_and_says_when_to_come_again(whole: Stack) -> None:
    with busy(whole, QUEUE), whole.openai() as openai, whole.grpc("slow", tries=1) as client:
        begin = time.monotonic()
        for stream in (False, True):
            with pytest.raises(RateLimitError) as caught:
                openai.completions.create(model="slow", prompt="x", stream=stream)
            assert caught.value.response.headers["retry-after"] == "1"
            assert caught.value.code == "rate_limit_exceeded"
        with pytest.raises(UnavailableError, match="queue"):
            client.generate("x")
        print(f"\nqueue full: three refusals in {time.monotonic() - begin:.2f} s")
        # Another model has a queue of its own, and the gateway has time for it.
        assert whole.complete(max_tokens=2).status == 200
        assert whole.ask("/health", key=None).status == 200
    until(lambda: whole.load() == (0, 0), 10)
    assert whole.complete(model="slow", max_tokens=2).status == 200


def test_who_waits_past_the_deadline_is_told_and_never_runs(whole: Stack) -> None:
    with busy(whole, 0), open_gateway(whole.models, whole.server.grpc_url, timeout=1.0) as gateway:
        with gateway.openai() as openai:
            assert openai.completions.create(model="fast", prompt="x", max_tokens=1).choices
            for stream in (False, True):
                with pytest.raises(APIStatusError) as caught:
                    openai.completions.create(model="slow", prompt="x", stream=stream)
                assert caught.value.status_code == 504
                assert caught.value.type == "timeout_error"
        until(lambda: whole.load() == (ROWS, 0), 5)


# Callers who don't read


def test_who_reads_nothing_is_cut_off_alone_and_memory_stays(whole: Stack) -> None:
    """30 MB of log probabilities for somebody who takes none of them."""
    whole.complete(max_tokens=64, n=16, logprobs=20)
    parts = {"gateway": whole.gateway(), "triton": whole.triton(), "backend": whole.backend("fast")}
    before = {name: resident(pid) for name, pid in parts.items()}
    asked = {"model": "fast", "prompt": PROMPT, "n": ROWS, "logprobs": 20, "max_tokens": CONTEXT - 20}
    body = json.dumps({**asked, "stream": True, "ignore_eos": True, "seed": 1}).encode()
    with whole.openai() as openai, socket.socket() as deaf:
        deaf.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        deaf.connect(("127.0.0.1", whole.port))
        head = f"POST /v1/completions HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {KEY}\r\n"
        deaf.sendall(f"{head}content-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n".encode() + body)
        until(lambda: whole.server.beats()["fast"].open_requests, 10)
        # Beside it, others are answered as ever.
        answers = 0
        while whole.server.beats()["fast"].open_requests and answers < 200:
            assert openai.completions.create(model="slow", prompt="x", max_tokens=1).choices
            answers += 1
        gone = until(lambda: not whole.server.beats()["fast"].open_requests, 20)
        peak = {name: resident(pid) - before[name] for name, pid in parts.items()}
        with pytest.raises((ConnectionError, http.client.HTTPException)):
            read_to_the_end(deaf)
    print(f"\nslow reader cut off; {answers} others answered meanwhile, {gone:.1f} s more; memory in MB: {peak}")
    assert answers > 2
    assert max(peak.values()) < 60
    assert whole.processes().items() >= parts.items() - {("backend", parts["backend"])}


def read_to_the_end(line: socket.socket) -> None:
    line.settimeout(10)
    response = http.client.HTTPResponse(line)
    response.begin()
    response.read()


def test_many_who_read_nothing_of_little(whole: Stack) -> None:
    """Short answers that nobody reads stay in the kernel's buffers: their rows are free, the gateway forgets them."""
    before = resident(whole.gateway())
    body = json.dumps(
        {"model": "fast", "prompt": PROMPT, "max_tokens": 20, "stream": True, "ignore_eos": True}
    ).encode()
    head = f"POST /v1/completions HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {KEY}\r\n"
    with ExitStack() as stack:
        for _ in range(40):
            line = stack.enter_context(socket.create_connection(("127.0.0.1", whole.port)))
            line.sendall(f"{head}content-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n".encode() + body)
        until(lambda: not whole.server.beats()["fast"].open_requests, 20)
        assert whole.complete(max_tokens=2).status == 200
    assert resident(whole.gateway()) - before < 30


def test_clients_share_no_connection_with_who_does_not_read(whole: Stack) -> None:
    """A stream that its caller leaves unread holds up no other one of the same client."""
    for make in (whole.grpc, whole.http):
        with make("fast", timeout=20) as client:
            unread = client.generate(PROMPT, stream=True, max_tokens=400, logprobs=20, n=4, ignore_eos=True)
            next(unread)
            try:
                assert client.generate(PROMPT, max_tokens=2, ignore_eos=True).num_output_tokens == 2
            except ClientError as error:
                raise AssertionError(make.__name__) from error
            unread.close()
        whole.calm()
