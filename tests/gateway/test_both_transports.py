"""`deploykit.client` over gRPC and over HTTP: the same calls, the same results, from real servers."""

import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from gateways import Gateway

from deploykit.client import Client, ClientError, Completion, InvalidRequestError, NotFoundError, TokenLogprob
from deploykit.serve import LocalServer

pytestmark = pytest.mark.triton

CHAT = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "hi"}]


@pytest.fixture(scope="module")
def clients(triton: LocalServer, gateway: Gateway) -> Iterator[tuple[Client, Client]]:
    with Client(triton.grpc_url) as grpc, Client(gateway.url) as http:
        yield grpc, http


def without_ids(tokens: tuple[TokenLogprob, ...]) -> list[Any]:
    """Log probabilities as both transports have them: no ids, and nothing beyond a float's figures."""
    return [
        (
            token.token,
            pytest.approx(token.logprob, abs=1e-4),
            sorted((other.token, round(other.logprob, 3)) for other in token.top),
        )
        for token in tokens
    ]


def alike(first: Completion, second: Completion) -> None:
    assert (first.text, first.finish_reason) == (second.text, second.finish_reason)
    assert (first.num_input_tokens, first.num_output_tokens) == (second.num_input_tokens, second.num_output_tokens)
    for one, other in zip(first.choices, second.choices, strict=True):
        assert dataclasses.replace(one, logprobs=()) == dataclasses.replace(other, logprobs=())
        assert [token.token for token in one.logprobs] == [token.token for token in other.logprobs]
        assert without_ids(one.logprobs) == without_ids(other.logprobs)


@pytest.mark.parametrize(
    "call",
    [
        lambda client, **how: client.generate("def greet(name):", **how),
        lambda client, **how: client.generate([5, 6, 7, 8], **how),
        lambda client, **how: client.chat(CHAT, **how),
    ],
    ids=["text", "ids", "chat"],
)
@pytest.mark.parametrize(
    "options",
    [
        {"max_tokens": 12},
        {"max_tokens": 12, "temperature": 0.9, "seed": 3, "top_k": 20, "logprobs": 2},
        {"max_tokens": 8, "n": 2, "seed": 5, "logprobs": 0},
        {"stop": ["e"], "min_tokens": 2, "repetition_penalty": 1.3, "ignore_eos": True},
    ],
    ids=["greedy", "sampled", "choices", "penalty"],
)
def test_answers_are_the_same(
    clients: tuple[Client, Client], call: Callable[..., Any], options: dict[str, Any]
) -> None:
    grpc, http = clients
    whole = call(grpc, **options)
    alike(whole, call(http, **options))
    streams = [call(client, stream=True, **options) for client in clients]
    for stream in streams:
        assert stream.completion().text == whole.text
        assert stream.text == whole.text


def test_models_health_and_batches_are_the_same(clients: tuple[Client, Client]) -> None:
    grpc, http = clients
    assert [model.name for model in grpc.models()] == [model.name for model in http.models()] == ["chatty"]
    assert grpc.health() == http.health()
    prompts: list[Any] = ["def ", [5, 6], CHAT]
    texts = [[answer.text for answer in client.batch(prompts, max_tokens=6)] for client in clients]
    assert texts[0] == texts[1]


@pytest.mark.parametrize(
    ("options", "kind"),
    [
        ({"max_tokens": 0}, InvalidRequestError),
        ({"temperature": -1.0}, InvalidRequestError),
        ({"temperature": float("nan")}, InvalidRequestError),
        ({"top_k": 2**63}, InvalidRequestError),
        ({"colour": "red"}, InvalidRequestError),
        ({"model": "nobody"}, NotFoundError),
    ],
)
def test_errors_are_the_same(clients: tuple[Client, Client], options: dict[str, Any], kind: type[ClientError]) -> None:
    for client in clients:
        for prompt in ("x", [5]):
            with pytest.raises(kind):
                client.generate(prompt, **options)


@pytest.mark.parametrize("prompt", ["", "word " * 400, [10**6], []])
def test_prompts_that_can_not_be_are_the_same(clients: tuple[Client, Client], prompt: Any) -> None:
    for client in clients:
        with pytest.raises(InvalidRequestError):
            client.generate(prompt)
