"""The client for event loops against a real gRPC server in this process."""

import asyncio
import gc
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import grpc
import pytest
from inference_server import Running, Wire, error, inputs, piece, trickle

from deploykit.client import (
    AsyncClient,
    CancelledError,
    Chunk,
    DeadlineExceededError,
    InvalidRequestError,
    NotFoundError,
    StreamBrokenError,
    UnavailableError,
)

WAIT = 10.0

Work = Callable[[AsyncClient], Awaitable[Any]]


def run(url: str, work: Work, **options: Any) -> Any:
    """What `work` makes of a client."""

    async def main() -> Any:
        async with AsyncClient(url, **{"timeout": WAIT, **options}) as client:
            return await work(client)

    return asyncio.run(main())


async def read(client: AsyncClient, **options: Any) -> list[Chunk]:
    return [chunk async for chunk in client.generate("hi", stream=True, **options)]


def aborting(code: grpc.StatusCode, after: int = 0) -> Any:
    def answer(request: Any, context: Any) -> Iterator[Any]:
        yield from [piece("x")] * after
        context.abort(code, "because")

    return answer


# What arrives


def test_a_stream_has_its_pieces_and_counts(running: Running) -> None:
    chunks = run(running.url, read)
    assert [chunk.text for chunk in chunks] == ["a", "b"]
    assert [chunk.finish_reason for chunk in chunks] == [None, "length"]
    assert [chunk.num_output_tokens for chunk in chunks] == [1, 2]


def test_the_whole_comes_at_once(running: Running) -> None:
    answer = run(running.url, lambda client: client.generate("hi", max_tokens=2))
    assert (answer.text, answer.finish_reason, answer.num_output_tokens) == ("ab", "length", 2)
    assert inputs(running.service.requests[0])["stream"] is False


def test_many_calls_run_side_by_side(running: Running) -> None:
    running.service.answer = lambda request, context: iter([piece(inputs(request)["text_input"], "stop")])

    async def work(client: AsyncClient) -> list[str]:
        answers = await asyncio.gather(*(client.generate(f"p{number}") for number in range(20)))
        return [answer.text for answer in answers]

    assert run(running.url, work) == [f"p{number}" for number in range(20)]


def test_token_ids_and_messages_can_be_streamed(running: Running) -> None:
    async def work(client: AsyncClient) -> None:
        async with client.open_stream([1, 2**40, 3], max_tokens=2) as stream:
            assert (await stream.completion()).text == "ab"
        async with client.open_stream([{"role": "user", "content": "é"}], tools=[{"type": "function"}]) as stream:
            assert [chunk.text async for chunk in stream] == ["a", "b"]

    run(running.url, work)
    ids, chat = (inputs(request) for request in running.service.requests)
    assert ids["input_ids"] == [1, 2**40, 3]
    assert "text_input" not in ids
    assert chat["messages"] == '[{"role": "user", "content": "\\u00e9"}]'
    assert chat["tools"] == '[{"type": "function"}]'


def test_a_client_made_outside_of_a_loop_takes_the_first_one(running: Running) -> None:
    client = AsyncClient(running.url)

    async def main() -> str:
        async with client:
            return (await client.generate("hi")).text

    assert asyncio.run(main()) == "ab"


def test_models_and_health(running: Running) -> None:
    async def work(client: AsyncClient) -> None:
        assert [model.name for model in await client.models()] == ["writer"]
        assert await client.is_ready()

    run(running.url, work)


# Errors


@pytest.mark.parametrize(
    ("answer", "kind"),
    [
        (lambda request, context: iter([error("INVALID_ARGUMENT: top_p is 7")]), InvalidRequestError),
        (aborting(grpc.StatusCode.CANCELLED), CancelledError),
        (aborting(grpc.StatusCode.UNAVAILABLE, after=2), StreamBrokenError),
        (lambda request, context: iter([piece("x"), piece("x")]), StreamBrokenError),
    ],
    ids=["message", "cancelled", "cut", "no finish reason"],
)
def test_what_ends_an_answer_is_raised(running: Running, answer: Any, kind: type[Exception]) -> None:
    running.service.answer = answer
    with pytest.raises(kind):
        run(running.url, read)
    assert len(running.service.requests) == 1


def test_unavailable_is_asked_again_three_times_at_most(running: Running) -> None:
    running.service.answer = aborting(grpc.StatusCode.UNAVAILABLE)
    with pytest.raises(UnavailableError):
        run(running.url, read)
    assert len(running.service.requests) == 3


def test_nobody_there(free_port: int) -> None:
    async def work(client: AsyncClient) -> None:
        assert not await client.is_ready()
        with pytest.raises(UnavailableError):
            await client.generate("hi")

    run(f"127.0.0.1:{free_port}", work, model="m")


def test_several_models_need_a_name(running: Running) -> None:
    running.service.models = [("a", "1", "READY"), ("b", "1", "READY")]
    with pytest.raises(NotFoundError, match="several models"):
        run(running.url, read)
    assert [chunk.text for chunk in run(running.url, lambda client: read(client, model="b"))] == ["a", "b"]


def test_a_slow_answer_meets_its_deadline(running: Running) -> None:
    running.service.answer = trickle
    with pytest.raises(DeadlineExceededError) as caught:
        run(running.url, lambda client: read(client, timeout=0.3))
    assert set(caught.value.text) == {"x"}
    assert running.service.gone.wait(WAIT)


def test_a_connection_that_fell_silent_is_found_by_keepalive(running: Running, wire: Wire) -> None:
    running.service.answer = trickle

    async def work(client: AsyncClient) -> None:
        async with client.generate("hi", stream=True) as stream:
            await anext(stream)
            wire.fall_silent()
            with pytest.raises(StreamBrokenError):
                [chunk async for chunk in stream]

    run(f"127.0.0.1:{wire.port}", work, model="m", keepalive=1)


# Leaving


async def leave_the_block(client: AsyncClient) -> None:
    async with client.generate("hi", stream=True) as stream:
        async for _ in stream:
            break


async def raise_in_the_loop(client: AsyncClient) -> None:
    async def fail() -> None:
        async with client.generate("hi", stream=True) as stream:
            async for _ in stream:
                raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await fail()


async def close(client: AsyncClient) -> None:
    stream = client.generate("hi", stream=True)
    await anext(stream)
    await stream.aclose()
    assert [chunk async for chunk in stream] == []
    assert stream.text == "x"


async def forget(client: AsyncClient) -> None:
    stream = client.generate("hi", stream=True)
    await anext(stream)
    del stream
    gc.collect()


async def cancel_from_another_task(client: AsyncClient) -> None:
    stream = client.generate("hi", stream=True)
    await anext(stream)
    asyncio.get_running_loop().call_later(0.05, stream.cancel)
    with pytest.raises(CancelledError) as caught:
        [chunk async for chunk in stream]
    assert set(caught.value.text) == {"x"}


async def cancel_the_task(client: AsyncClient) -> None:
    task = asyncio.ensure_future(read(client))
    await asyncio.sleep(0.2)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def cancel_a_task_that_waits_for_the_whole(client: AsyncClient) -> None:
    task = asyncio.ensure_future(client.generate("hi"))
    await asyncio.sleep(0.2)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def close_the_client(client: AsyncClient) -> None:
    stream = client.generate("hi", stream=True)
    await anext(stream)
    await client.close()
    with pytest.raises(CancelledError):
        [chunk async for chunk in stream]
    with pytest.raises(InvalidRequestError, match="this client is closed"):
        await client.generate("hi")
    with pytest.raises(InvalidRequestError, match="this client is closed"):
        await client.models()


@pytest.mark.parametrize(
    "leave",
    [
        leave_the_block,
        raise_in_the_loop,
        close,
        forget,
        cancel_from_another_task,
        cancel_the_task,
        cancel_a_task_that_waits_for_the_whole,
        close_the_client,
    ],
)
def test_who_leaves_cancels_on_the_server(running: Running, leave: Work) -> None:
    running.service.answer = trickle

    async def work(client: AsyncClient) -> None:
        await leave(client)
        # With the connection still open: its end alone would cancel, too.
        assert await asyncio.to_thread(running.service.gone.wait, WAIT)

    run(running.url, work, model="m")


def test_a_stream_that_outlives_its_loop_ends_quietly(running: Running) -> None:
    running.service.answer = trickle

    async def main() -> Any:
        client = AsyncClient(running.url, model="m")
        stream = client.generate("hi", stream=True)
        await anext(stream)
        return client, stream

    left = asyncio.run(main())
    assert left[1].text == "x"
    # pytest fails if anything is said of it.
    del left
    gc.collect()
    assert running.service.gone.wait(WAIT)


def test_cancel_ends_the_wait_for_another_try(running: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("deploykit.client.exchange.waits", lambda generator, tries: iter([WAIT / 2]))
    running.service.answer = aborting(grpc.StatusCode.UNAVAILABLE)

    async def work(client: AsyncClient) -> None:
        stream = client.generate("hi", stream=True)
        asyncio.get_running_loop().call_later(0.3, stream.cancel)
        with pytest.raises(CancelledError):
            await anext(stream)

    run(running.url, work)
    assert len(running.service.requests) == 1
