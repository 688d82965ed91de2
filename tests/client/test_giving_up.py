"""Giving up twice, and numbers of answers that no server takes."""

import asyncio
from typing import Any

import pytest
from openai_server import OpenAIService, run_gateway, trickle

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


@pytest.mark.parametrize("n", [0, -1])
@pytest.mark.parametrize("error", [InvalidRequestError("n must be 1 to 16"), UnavailableError("gone")])
def test_no_answers_at_all_are_no_answer(n: int, error: ClientError) -> None:
    with Client(transport=MockTransport(error), tries=1) as client:
        with pytest.raises(type(error)):
            client.generate("hi", n=n)
        with pytest.raises(type(error)):
            list(client.generate("hi", n=n, stream=True))
