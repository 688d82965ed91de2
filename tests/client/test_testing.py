"""A server made up by a test, with both clients."""

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from deploykit.client import (
    AsyncClient,
    CancelledError,
    Choice,
    Chunk,
    Client,
    ClientError,
    Completion,
    Health,
    InvalidRequestError,
    NotFoundError,
    StreamBrokenError,
    TokenLogprob,
    UnavailableError,
)
from deploykit.client.testing import MockRequest, MockTransport

CHAT = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "hi"}]


def with_threads(transport: MockTransport, name: str, *arguments: Any, **options: Any) -> Any:
    with Client(transport=transport) as client:
        answer = getattr(client, name)(*arguments, **options)
        return list(answer) if options.get("stream") else answer


def with_a_loop(transport: MockTransport, name: str, *arguments: Any, **options: Any) -> Any:
    async def main() -> Any:
        async with AsyncClient(transport=transport) as client:
            answer = getattr(client, name)(*arguments, **options)
            return [chunk async for chunk in answer] if options.get("stream") else await answer

    return asyncio.run(main())


both = pytest.mark.parametrize("ask", [with_threads, with_a_loop])
Asking = Callable[..., Any]


@both
def test_a_fixed_text(ask: Asking) -> None:
    assert ask(MockTransport("a b"), "generate", "x y z").text == "a b"
    chunks = ask(MockTransport("a b"), "generate", "x y z", stream=True)
    assert [chunk.text for chunk in chunks] == ["a ", "b", ""]
    assert (chunks[-1].finish_reason, chunks[-1].num_input_tokens, chunks[-1].num_output_tokens) == ("stop", 3, 2)


@both
def test_texts_by_the_prompt_or_the_last_message(ask: Asking) -> None:
    transport = MockTransport({"hi": "hello", (1, 2): "ids"})
    assert ask(transport, "generate", "hi").text == "hello"
    assert ask(transport, "generate", [1, 2]).text == "ids"
    assert ask(transport, "chat", CHAT).text == "hello"
    assert ask(transport, "batch", ["hi", "hi"])[1].text == "hello"
    with pytest.raises(InvalidRequestError, match="no answer to 'ho'"):
        ask(transport, "generate", "ho")


@both
def test_a_function_sees_the_request(ask: Asking) -> None:
    def answer(request: MockRequest) -> str:
        return f"{request.model} {request.last} {request.sampling['max_tokens']} {request.stream}"

    transport = MockTransport(answer, models=["one"])
    answered = ask(transport, "chat", CHAT, max_tokens=3, timeout=5, request_id="r", trace={"traceparent": "t"})
    assert answered.text == "one hi 3 False"
    (request,) = transport.requests
    assert (request.prompt, request.messages, request.request_id) == (None, tuple(CHAT), "r")
    assert request.headers == {"traceparent": "t"}
    assert 4 < request.timeout <= 5


@both
def test_choices_and_log_probabilities(ask: Asking) -> None:
    tokens = (TokenLogprob(token="a", logprob=-1.0, token_id=7),)
    told = Completion(
        text="a",
        finish_reason="length",
        num_input_tokens=9,
        num_output_tokens=3,
        logprobs=tokens,
        choices=(
            Choice(index=0, text="a", finish_reason="length", num_output_tokens=1, logprobs=tokens),
            Choice(index=1, text="bc", finish_reason="stop", num_output_tokens=2),
        ),
    )
    assert ask(MockTransport(told), "generate", "x", n=2) == told
    assert [choice.text for choice in ask(MockTransport("same"), "generate", "x", n=3).choices] == ["same"] * 3


@both
def test_a_cut_stream(ask: Asking) -> None:
    piece = Chunk(text="b", finish_reason=None, num_input_tokens=4, num_output_tokens=3)
    transport = MockTransport(["a", piece, UnavailableError("gone"), "never"])
    with pytest.raises(StreamBrokenError, match="broke after 3 tokens: gone") as caught:
        ask(transport, "generate", "x", stream=True)
    assert caught.value.text == "ab"
    assert len(transport.requests) == 1


@both
@pytest.mark.parametrize("raised", [False, True])
def test_an_unavailable_server_is_asked_again(ask: Asking, raised: bool) -> None:
    def answer(request: MockRequest) -> str | ClientError:
        if len(transport.requests) < 3:
            error = UnavailableError("busy")
            if raised:
                raise error
            return error
        return "now"

    transport = MockTransport(answer)
    assert ask(transport, "generate", "x").text == "now"


@both
def test_models_and_health(ask: Asking) -> None:
    transport = MockTransport("x", models=["b", "a"], health=Health(live=True, ready=False))
    assert [model.name for model in ask(transport, "models")] == ["a", "b"]
    assert ask(transport, "health") == Health(live=True, ready=False)
    assert ask(MockTransport("x", health=UnavailableError("gone")), "health") == Health(live=False, ready=False)
    with pytest.raises(NotFoundError, match=r"several models \(a, b\)"):
        ask(transport, "generate", "x")


def test_cancelling_and_closing() -> None:
    client = Client(transport=MockTransport("a b c"))
    stream = client.generate("x", stream=True)
    next(stream)
    stream.cancel()
    with pytest.raises(CancelledError) as caught:
        next(stream)
    assert caught.value.text == "a "
    client.close()
    with pytest.raises(InvalidRequestError, match="this client is closed"):
        client.generate("x")
