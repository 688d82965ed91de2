"""Many prompts at once, with both clients, against a real gRPC server in this process."""

import asyncio
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import grpc
import pytest
from inference_server import Running, inputs, piece, trickle

from deploykit.client import AsyncClient, Client, Completion, InvalidRequestError, ServerError

WAIT = 10.0


def with_threads(url: str, prompts: Any, **options: Any) -> Any:
    with Client(url, model="m", timeout=WAIT) as client:
        return client.batch(prompts, **options)


def with_a_loop(url: str, prompts: Any, **options: Any) -> Any:
    async def main() -> Any:
        async with AsyncClient(url, model="m", timeout=WAIT) as client:
            return await client.batch(prompts, **options)

    return asyncio.run(main())


both = pytest.mark.parametrize("batch", [with_threads, with_a_loop])


def texts(answers: list[Completion]) -> list[str]:
    return [answer.text for answer in answers]


class Echo:
    """Answers with the prompt, the later ones sooner, and counts how many run at a time."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._running = 0
        self.most = 0

    def __call__(self, request: Any, context: Any) -> Iterator[Any]:
        with self._lock:
            self._running += 1
            self.most = max(self.most, self._running)
        prompt = inputs(request)["text_input"]
        time.sleep(0.02 * (10 - int(prompt)))
        with self._lock:
            self._running -= 1
        yield piece(prompt, "stop")


@both
def test_answers_come_in_the_prompts_order(running: Running, batch: Callable[..., Any]) -> None:
    echo = running.service.answer = Echo()
    prompts = [str(number) for number in range(10)]
    assert texts(batch(running.url, prompts, concurrency=3, request_id="job")) == prompts
    assert 2 <= echo.most <= 3
    assert sorted(request.id for request in running.service.requests) == [f"job-{at}" for at in range(10)]


@both
def test_texts_ids_and_chats_go_together(running: Running, batch: Callable[..., Any]) -> None:
    assert texts(batch(running.url, iter(["a", [1, 2], [{"role": "user", "content": "b"}]]))) == ["ab"] * 3
    kinds = {"text_input", "input_ids", "messages"}
    assert {kind for request in running.service.requests for kind in kinds & inputs(request).keys()} == kinds


@both
def test_no_prompts_have_no_answers(running: Running, batch: Callable[..., Any]) -> None:
    assert batch(running.url, []) == []


def failing(request: Any, context: Any) -> Iterator[Any]:
    if inputs(request)["text_input"] == "2":
        context.abort(grpc.StatusCode.INTERNAL, "because")
    yield from trickle(request, context)


@both
def test_the_first_failure_ends_it_and_is_named_by_its_place(running: Running, batch: Callable[..., Any]) -> None:
    running.service.answer = failing
    began = time.monotonic()
    with pytest.raises(ServerError, match=r"^prompts\[2\]: .*because"):
        batch(running.url, [str(number) for number in range(9)], concurrency=3)
    # The others would go on until their deadlines.
    assert time.monotonic() - began < WAIT / 2
    assert running.service.gone.wait(WAIT)
    assert len(running.service.requests) <= 3


@both
def test_failures_stand_in_their_places_where_wanted(running: Running, batch: Callable[..., Any]) -> None:
    def answer(request: Any, context: Any) -> Iterator[Any]:
        if inputs(request)["text_input"] == "1":
            context.abort(grpc.StatusCode.INTERNAL, "because")
        yield piece("ok", "stop")

    running.service.answer = answer
    answers = batch(running.url, ["0", "1", b"2", "3"], return_errors=True)
    assert [type(each).__name__ for each in answers] == [
        "Completion",
        "ServerError",
        "InvalidRequestError",
        "Completion",
    ]


@both
@pytest.mark.parametrize(
    ("prompts", "options", "match"),
    [
        ("text", {}, "prompts must be a list"),
        (7, {}, "prompts must be a list"),
        (["a"], {"concurrency": 0}, "concurrency must be at least 1, got 0"),
        (["a"], {"concurrency": True}, "concurrency must be at least 1"),
        (["a", 7], {}, r"prompts\[1\]: prompt must be a str"),
    ],
)
def test_what_is_no_batch(
    running: Running, batch: Callable[..., Any], prompts: Any, options: dict[str, Any], match: str
) -> None:
    with pytest.raises(InvalidRequestError, match=match):
        batch(running.url, prompts, **options)


def test_ctrl_c_cancels_all_of_it(running: Running) -> None:
    running.service.answer = trickle
    threading.Timer(0.4, os.kill, (os.getpid(), signal.SIGINT)).start()
    with Client(running.url, model="m", timeout=60) as client, pytest.raises(KeyboardInterrupt):
        client.batch(["a", "b", "c"])
    assert running.service.gone.wait(WAIT)


def test_cancelling_the_task_cancels_all_of_it(running: Running) -> None:
    running.service.answer = trickle

    async def main() -> None:
        async with AsyncClient(running.url, model="m", timeout=60) as client:
            task = asyncio.ensure_future(client.batch(["a", "b", "c"]))
            await asyncio.sleep(0.3)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert await asyncio.to_thread(running.service.gone.wait, WAIT)

    asyncio.run(main())
