"""What the `openai` package's users see of trouble: each error by its class, further tries, and time limits."""

import asyncio
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any, Final

import grpc
import openai
import pytest
from gateways import Gateway, open_gateway
from inference_server import Service, piece, run
from stacks import KEY, PROMPT, Stack

pytestmark = pytest.mark.triton

CHAT: Final[dict[str, Any]] = {"model": "fast", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 2}
TEXT: Final[dict[str, Any]] = {"model": "fast", "prompt": PROMPT, "max_tokens": 2}

TROUBLE: Final[list[tuple[type[openai.APIStatusError], int, str | None, dict[str, Any], dict[str, Any]]]] = [
    (openai.BadRequestError, 400, "invalid_value", {"temperature": 3}, {}),
    (openai.BadRequestError, 400, "unknown_parameter", {"extra_body": {"beam_width": 4}}, {}),
    (openai.BadRequestError, 400, "context_length_exceeded", {"max_tokens": 5000}, {}),
    (openai.NotFoundError, 404, "model_not_found", {"model": "nobody"}, {}),
    (openai.AuthenticationError, 401, "invalid_api_key", {}, {"api_key": "wrong-key-0123456789"}),
    (openai.AuthenticationError, 401, "invalid_api_key", {}, {"api_key": KEY.upper()}),
]
"""The error, its status and code, and what brings it about: fields of the request, settings of the client."""


def complete(client: openai.OpenAI, chat: bool, **fields: Any) -> Any:
    if chat:
        return client.chat.completions.create(**{**CHAT, **fields})
    return client.completions.create(**{**TEXT, **fields})


async def complete_async(client: openai.AsyncOpenAI, chat: bool, **fields: Any) -> Any:
    if chat:
        return await client.chat.completions.create(**{**CHAT, **fields})
    return await client.completions.create(**{**TEXT, **fields})


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("chat", [False, True])
@pytest.mark.parametrize(("kind", "status", "code", "fields", "settings"), TROUBLE)
def test_an_error_has_its_class(
    stack: Stack,
    kind: type[openai.APIStatusError],
    status: int,
    code: str,
    fields: dict[str, Any],
    settings: dict[str, Any],
    chat: bool,
    stream: bool,
) -> None:
    asked = {**fields, "stream": stream}

    async def by_loop() -> None:
        async with stack.async_openai(**settings) as client:
            await complete_async(client, chat, **asked)

    def by_thread() -> None:
        with stack.openai(**settings) as client:
            complete(client, chat, **asked)

    for call in (by_thread, lambda: asyncio.run(by_loop())):
        with pytest.raises(kind) as caught:
            call()
        assert type(caught.value) is kind
        assert (caught.value.status_code, caught.value.code) == (status, code)
        assert caught.value.request_id
        assert isinstance(caught.value.body, dict)
        assert caught.value.body["message"] in str(caught.value)


def test_raw_responses_have_what_operators_ask_for(stack: Stack) -> None:
    with stack.openai() as client:
        raw = client.chat.completions.with_raw_response.create(**CHAT, extra_headers={"x-request-id": "mine-1"})
        assert raw.headers["x-request-id"] == "mine-1"
        assert raw.headers["content-type"] == "application/json"
        assert raw.parse().choices[0].message.role == "assistant"
        assert raw.parse()._request_id == "mine-1"  # its public name for it
        with client.completions.with_streaming_response.create(**TEXT, stream=True) as streamed:
            assert streamed.headers["content-type"].startswith("text/event-stream")
            lines = [line for line in streamed.iter_lines() if line]
        assert lines[-1] == "data: [DONE]"
        assert all(line.startswith("data: {") for line in lines[:-1])


def test_a_time_limit_of_the_caller_ends_the_call_on_both_sides(stack: Stack) -> None:
    stack.calm()
    with stack.openai(timeout=0.5) as client, pytest.raises(openai.APITimeoutError):
        client.completions.create(**{**TEXT, "model": "slow", "max_tokens": 900}, extra_body={"ignore_eos": True})
    stack.calm()


@pytest.fixture
def flaky(stack: Stack) -> Iterator[Callable[[grpc.StatusCode, str, int], tuple[Gateway, Service]]]:
    """A gateway whose Triton fails so many times with a status, and then answers."""
    with ExitStack() as stops:

        def start(status: grpc.StatusCode, said: str, failures: int) -> tuple[Gateway, Service]:
            left = [failures]

            def answer(request: Any, context: Any) -> Iterator[Any]:
                if left[0]:
                    left[0] -= 1
                    context.abort(status, said)
                yield piece("a", "stop")

            service = Service(answer=answer, models=[("fast", "1", "READY")])
            running = run(service)
            stops.callback(running.server.stop, None)
            return stops.enter_context(open_gateway([stack.models[0]], running.url)), service

        yield start


@pytest.mark.parametrize(
    ("said", "kind", "stream"),
    [
        ("the queue is full", openai.RateLimitError, False),
        ("the engine starts", openai.InternalServerError, True),
    ],
)
def test_further_tries_come_when_they_were_asked_to(
    flaky: Callable[..., tuple[Gateway, Service]], said: str, kind: type[openai.APIStatusError], stream: bool
) -> None:
    gateway, _ = flaky(grpc.StatusCode.UNAVAILABLE, said, 2)
    with gateway.openai() as client:
        with pytest.raises(kind):
            client.completions.create(**TEXT, stream=stream)
        begin = time.monotonic()
        answer: Any = client.with_options(max_retries=1).completions.create(**TEXT, stream=stream)
        texts = [event.choices[0].text for event in answer] if stream else [answer.choices[0].text]
    assert "".join(texts) == "a"
    # One second, as Retry-After says, and not the half that the package waits by itself.
    assert time.monotonic() - begin >= 0.95


def test_what_was_refused_for_good_is_not_tried_again(flaky: Callable[..., tuple[Gateway, Service]]) -> None:
    gateway, service = flaky(grpc.StatusCode.INVALID_ARGUMENT, "no", 9)
    with gateway.openai().with_options(max_retries=3) as client, pytest.raises(openai.BadRequestError):
        client.completions.create(**TEXT)
    assert len(service.requests) <= 2
