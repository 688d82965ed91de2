"""The models behind an address, with servers that answer as a test says."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from inference_server import Running, Service, error, inputs, piece, run
from openai_server import DONE, Gateway, OpenAIService, Status, plain, refusal, run_gateway, said, usage

from deploykit.chat import Conversation, open_remote
from deploykit.chat.models import TooLongError
from deploykit.errors import ConfigError, RequestError

HELLO = [{"role": "user", "content": "hello"}]


@pytest.fixture
def triton() -> Iterator[Running]:
    running = run(Service())
    yield running
    running.server.stop(grace=0).wait()


@pytest.fixture
def gateway() -> Iterator[Gateway]:
    gateway = run_gateway(OpenAIService())
    yield gateway
    gateway.stop()


def words(model: Any, messages: Any = HELLO, *, tight: bool = False, **sampling: Any) -> list[Any]:
    return list(model.answer(messages, sampling, tight=tight))


def of_context(context: int, prompt: Callable[[], int], answer: Callable[[], int]) -> Any:
    """An engine: it refuses what doesn't fit, and ends an answer where its context is full."""

    def respond(request: Any, _context: Any) -> Iterator[Any]:
        if prompt() >= context:
            yield error(
                f"INVALID_ARGUMENT: the prompt has {prompt()} tokens, but the context of {context} leaves room for "
                f"{context - 1}; shorten it"
            )
            return
        said = min(answer(), context - prompt())
        yield piece("a", prompt=prompt())
        yield piece("b", "length", tokens=said - 1, prompt=prompt())

    return respond


def test_a_model_without_chat_template_is_refused_at_once(triton: Running, gateway: Gateway) -> None:
    triton.service.answer = lambda request, context: iter(
        [error("INVALID_ARGUMENT: this model has no chat template; send the whole prompt as text_input or input_ids")]
    )
    told = "this model has no chat template, so it can't chat; use /v1/completions, or add a chat template"
    gateway.service.answer = lambda body: iter([Status(400, refusal("invalid_request_error", told))])
    for url in (triton.url, gateway.url):
        with pytest.raises(ConfigError) as caught:
            open_remote(url)
        assert str(caught.value) == (
            f"{url}: the model writer can't chat: this model has no chat template; "
            "try --raw, which has it continue what you write"
        )
        # Continued texts take none, and nothing is asked before there is one.
        asked = len(triton.service.requests) + len(gateway.service.requests)
        open_remote(url, raw=True).close()
        assert len(triton.service.requests) + len(gateway.service.requests) == asked


def test_a_server_that_is_busy_at_the_start_is_talked_to_all_the_same(gateway: Gateway) -> None:
    busy = refusal("rate_limit_error", "later", "rate_limit_exceeded")
    gateway.service.answer = lambda body: iter([Status(429, busy, {"retry-after": "900"})])
    model = open_remote(gateway.url)
    gateway.service.answer = plain
    assert "".join(piece.text for piece in words(model)) == "ab"
    model.close()


def test_a_triton_is_asked_for_a_token_and_a_gateway_for_none(triton: Running, gateway: Gateway) -> None:
    for url in (triton.url, gateway.url):
        open_remote(url).close()
    assert triton.service.sampling()["max_tokens"] == 1
    # More than any context holds: it is refused, and nothing runs.
    assert gateway.service.requests[0][2]["max_tokens"] == 2**31 - 1


def test_a_triton_leaves_room_for_an_answer_once_its_context_is_known(triton: Running) -> None:
    prompt, answer = [100], [480]
    model = open_remote(triton.url)
    triton.service.answer = of_context(512, lambda: prompt[0], lambda: answer[0])
    assert words(model, max_tokens=480)[-1].full
    prompt[0] = 384
    assert words(model, max_tokens=480)[-1].tokens == 128
    prompt[0] = 385
    with pytest.raises(TooLongError, match="the conversation has 385 of 512 tokens"):
        words(model, max_tokens=480)
    # Whoever wants less has room for it, and so has a message that nothing can be left out before.
    answer[0] = 100
    assert not words(model, max_tokens=100)[-1].full
    assert words(model, max_tokens=480, tight=True)[-1].tokens == 100
    model.close()


def test_a_message_that_is_too_long_is_told_by_itself(triton: Running, gateway: Gateway) -> None:
    triton.service.answer = of_context(512, lambda: 6012, lambda: 1)
    told = (
        "this model's maximum context length is 512 tokens, but the request has at least 6012 in the prompt and 1024 "
        "for the answer; shorten the prompt or lower max_tokens"
    )
    full = Status(400, refusal("invalid_request_error", told, "context_length_exceeded"))
    gateway.service.answer = lambda body: iter([full])
    for url, sure in ((triton.url, ""), (gateway.url, "at least ")):
        model = open_remote(url)
        with pytest.raises(TooLongError):
            words(model)
        with pytest.raises(RequestError) as caught:
            words(model, tight=True)
        assert str(caught.value) == (
            f"the conversation has {sure}6012 tokens, but the context of 512 leaves room for 511; shorten the message"
        )
        model.close()


def test_an_answer_over_http_is_cut_by_the_context_where_that_leaves_less_than_was_wanted(gateway: Gateway) -> None:
    def answer(body: dict[str, Any]) -> Iterator[Any]:
        if body["max_tokens"] > 400:
            told = (
                "this model's maximum context length is 512 tokens, but the request has 112 in the prompt and "
                f"{body['max_tokens']} for the answer; shorten the prompt or lower max_tokens"
            )
            yield Status(400, refusal("invalid_request_error", told, "context_length_exceeded"))
        yield from (said("a"), said("", "length"), usage(112, body["max_tokens"]), DONE)

    gateway.service.answer = answer
    model = open_remote(gateway.url)
    last = words(model)[-1]
    assert (last.tokens, last.full) == (400, True)
    last = words(model, max_tokens=10)[-1]
    assert (last.tokens, last.full) == (10, False)
    model.close()


def test_two_versions_of_a_model_are_one(triton: Running) -> None:
    triton.service.models = [("writer", "1", "READY"), ("writer", "2", "READY")]
    model = open_remote(triton.url)
    assert model.name == "writer"
    model.close()
    triton.service.models = [("b", "1", "READY"), ("a", "1", "READY"), ("a", "2", "READY")]
    with pytest.raises(ConfigError, match="serves a, b; choose one: --model NAME"):
        open_remote(triton.url)


def test_what_was_said_goes_along(triton: Running) -> None:
    talked = Conversation(system="Be brief.")
    talked.ask("hi")
    model = open_remote(triton.url)
    words(model, talked.sent())
    model.close()
    assert '"Be brief."' in inputs(triton.service.requests[-1])["messages"]
