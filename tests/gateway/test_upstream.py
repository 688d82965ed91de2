"""How Triton is asked, without one."""

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest
from inference_server import Running, Service, error, run

from deploykit.client import AsyncClient, Chunk, InvalidRequestError, UnavailableError
from deploykit.client.testing import MockRequest, MockTransport, Reply
from deploykit.gateway.catalogue import ServedModel
from deploykit.gateway.upstream import Question, Upstream
from deploykit.gateway.vocabulary import Vocabulary

MODEL = ServedModel(
    name="mock",
    created=0,
    context=512,
    vocab_size=300,
    fingerprint="fp",
    tokenizer=None,
    vocabulary=Vocabulary(None),
    template=None,
)
TOO_LONG = "INVALID_ARGUMENT: the prompt has 300 tokens, but the context of 150 leaves room for 149; shorten it"


def question(*prompts: list[int]) -> Question:
    return Question(model=MODEL, prompts=prompts, choices=1, sampling={}, request_id=None, trace={})


@pytest.fixture
def triton() -> Iterator[Running]:
    """A server whose engine has less context than its model was made for."""
    running = run(Service(facts={"context": 200}))
    yield running
    running.server.stop(grace=0).wait()


def test_many_who_come_first_have_the_context_asked_for_once(triton: Running) -> None:
    async def main() -> list[int]:
        async with AsyncClient(triton.url, tries=1) as client:
            upstream = Upstream(client)
            return await asyncio.gather(*[upstream.context(MODEL) for _ in range(20)])

    assert asyncio.run(main()) == [200] * 20
    assert (triton.service.descriptions, len(triton.service.requests)) == (1, 0)


def test_whoever_leaves_does_not_take_the_answer_from_the_others(triton: Running) -> None:
    async def main() -> int:
        async with AsyncClient(triton.url, tries=1) as client:
            upstream = Upstream(client)
            first, second = (asyncio.create_task(upstream.context(MODEL)) for _ in range(2))
            await asyncio.sleep(0)
            first.cancel()
            return await second

    assert asyncio.run(main()) == 200


def test_a_triton_that_was_down_is_asked_again(triton: Running) -> None:
    triton.service.facts = lambda _: error("UNAVAILABLE: the engine starts")

    async def main() -> int:
        async with AsyncClient(triton.url, tries=1) as client:
            upstream = Upstream(client)
            refused = await asyncio.gather(*[upstream.context(MODEL) for _ in range(3)], return_exceptions=True)
            assert [type(error) for error in refused] == [UnavailableError] * 3
            triton.service.facts = {"context": 200}
            return await upstream.context(MODEL)

    assert asyncio.run(main()) == 200


@pytest.mark.parametrize("facts", [None, {}, {"context": "200"}])
def test_of_a_backend_that_does_not_tell_the_models_own_context_is_taken_until_it_refuses(
    triton: Running, facts: dict[str, Any] | None
) -> None:
    triton.service.facts = facts
    triton.service.answer = lambda request, context: iter([error(TOO_LONG)])

    async def main() -> None:
        async with AsyncClient(triton.url, tries=1) as client:
            upstream = Upstream(client)
            assert await upstream.context(MODEL) == 512
            with pytest.raises(InvalidRequestError):
                await upstream.completions(question([0] * 300), timeout=5)
            assert await upstream.context(MODEL) == 150

    asyncio.run(main())
    assert triton.service.descriptions == 1


def test_a_failure_nobody_foresaw_ends_all_prompts_of_a_request() -> None:
    def broken(request: MockRequest) -> Reply:
        def pieces() -> Iterator[Any]:
            yield Chunk(text="x", finish_reason=None, num_input_tokens=1, num_output_tokens=1)
            if request.prompt == (2,):
                raise ValueError("a bug")

        return pieces()

    async def main() -> None:
        async with AsyncClient(transport=MockTransport(broken), tries=1) as client:
            async for _ in Upstream(client).pieces(question([1], [2]), timeout=5):
                pass

    with pytest.raises(ValueError, match="a bug"):
        asyncio.run(asyncio.wait_for(main(), 5))
