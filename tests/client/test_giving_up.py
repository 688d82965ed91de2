"""Giving up: twice, in an unlucky moment, for another try; and numbers of answers that no server takes."""

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest
from openai_server import OpenAIService, plain, refusal, run_gateway, trickle

from deploykit.client import AsyncClient, CancelledError, Client, ClientError, InvalidRequestError, UnavailableError
from deploykit.client.testing import MockTransport


@pytest.mark.parametrize("turns", range(6))
def test_cancelling_again_does_nothing(turns: int) -> None:
    gateway = run_gateway(OpenAIService())
    gateway.service.answer = trickle

    async def read(stream: Any) -> None:
        async for _ in stream:
            pass

    async def main() -> None:
        async with AsyncClient(gateway.url, model="m") as client:
            stream = client.generate("hi", stream=True)
            reading = asyncio.create_task(read(stream))
            await asyncio.sleep(0.05)
            stream.cancel()
            for _ in range(turns):
                # Whoever reads is woken in one of these.
                await asyncio.sleep(0)
            stream.cancel()
            await stream.aclose()
            with pytest.raises(CancelledError):
                await reading

    try:
        asyncio.run(main())
    finally:
        gateway.stop()


@pytest.mark.parametrize("turns", range(5))
def test_a_client_is_closed_in_the_moment_in_which_a_piece_comes(turns: int) -> None:
    async def main() -> None:
        asked, written = asyncio.Event(), asyncio.Event()

        async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.readuntil(b"}")
            writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\r\n")
            asked.set()
            await written.wait()
            writer.write(b'data: {"choices": [{"index": 0, "text": "x"}]}\n\n')
            # Until the client has gone.
            await reader.read()
            writer.close()

        async def hold(client: AsyncClient) -> None:
            async for _ in client.generate("hi", stream=True):
                await asyncio.Event().wait()

        server = await asyncio.start_server(answer, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        client = AsyncClient(f"http://127.0.0.1:{port}", model="m")
        holding = asyncio.create_task(hold(client))
        await asyncio.wait_for(asked.wait(), 5)
        await asyncio.sleep(0.05)
        written.set()
        for _ in range(turns):
            await asyncio.sleep(0)
        await asyncio.wait_for(client.close(), 5)
        holding.cancel()
        await asyncio.gather(holding, return_exceptions=True)
        server.close()

    asyncio.run(main())


@pytest.mark.parametrize("asynchronous", [False, True], ids=["threads", "event loop"])
def test_another_try_ends_the_one_before(asynchronous: bool) -> None:
    gateway = run_gateway(OpenAIService())

    def answer(body: Any) -> Iterator[Any]:
        if len(gateway.service.requests) > 1:
            assert gateway.service.gone.wait(5)
            yield from plain(body)
            return
        yield refusal("server_error", "not now", code="unavailable")
        # A server that doesn't end what it has refused.
        yield from trickle(body)

    async def main() -> str:
        async with AsyncClient(gateway.url, model="m") as client:
            return (await client.open_stream("hi").completion()).text

    gateway.service.answer = answer
    try:
        if asynchronous:
            assert asyncio.run(main()) == "ab"
        else:
            with Client(gateway.url, model="m") as client:
                assert client.generate("hi", stream=True).completion().text == "ab"
    finally:
        gateway.stop()
    assert len(gateway.service.requests) == 2


@pytest.mark.parametrize("n", [0, -1])
@pytest.mark.parametrize("error", [InvalidRequestError("n must be 1 to 16"), UnavailableError("gone")])
def test_no_answers_at_all_are_no_answer(n: int, error: ClientError) -> None:
    with Client(transport=MockTransport(error), tries=1) as client:
        with pytest.raises(type(error)):
            client.generate("hi", n=n)
        with pytest.raises(type(error)):
            list(client.generate("hi", n=n, stream=True))
