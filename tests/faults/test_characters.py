"""Characters of several bytes, whose tokens are single bytes here: none is split between two events, on any way."""

import json
from collections.abc import Iterator
from typing import Any, Final

import pytest
from stacks import PROMPT, Stack
from tokenizers import Tokenizer

pytestmark = pytest.mark.triton

SIGNS: Final = "ü你👋"
TOKENS: Final = 600


@pytest.fixture(scope="module")
def biases(stack: Stack) -> dict[str, int]:
    """Have the model write nothing but the bytes of a few signs, in any order, so that many come together by chance."""
    tokenizer = Tokenizer.from_file(str(next(stack.models[0].rglob("tokenizer.json"))))
    return {str(tokenizer.token_to_id(spelt(byte))): 100 for byte in "ü你".encode()}


def spelt(byte: int) -> str:
    """Return a byte as byte-level vocabularies write it."""
    plain = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [each for each in range(256) if each not in plain]
    return chr(byte) if byte in plain else chr(0x100 + others.index(byte))


def events(stack: Stack, path: str, body: dict[str, Any]) -> Iterator[dict[str, Any]]:
    reply = stack.ask(path, {**body, "stream": True})
    assert reply.status == 200
    lines = [line for line in reply.body.split(b"\n") if line]
    assert lines[-1] == b"data: [DONE]"
    for line in lines[:-1]:
        yield json.loads(line.removeprefix(b"data: "))


def text_of(event: dict[str, Any]) -> str:
    return "".join(choice.get("text", "") + choice.get("delta", {}).get("content", "") for choice in event["choices"])


@pytest.mark.parametrize("path", ["/v1/completions", "/v1/chat/completions"])
def test_an_event_holds_whole_characters(stack: Stack, biases: dict[str, int], path: str) -> None:
    prompt = {"prompt": PROMPT} if path == "/v1/completions" else {"messages": [{"role": "user", "content": SIGNS}]}
    body = {"model": "fast", **prompt, "max_tokens": TOKENS, "logit_bias": biases, "seed": 3, "ignore_eos": True}
    (choice,) = stack.ask(path, body).json["choices"]
    whole = choice["text"] if "text" in choice else choice["message"]["content"]
    pieces = [text_of(event) for event in events(stack, path, body)]
    assert "".join(pieces) == whole
    # Bytes that belong to no character are shown as such, whole and in pieces alike.
    assert sum(sign > "\x7f" and sign != "\ufffd" for sign in whole) > 20
    assert "\ufffd" in whole
    assert len(pieces) > TOKENS / 8
    for piece in pieces:
        piece.encode()


def test_log_probabilities_hold_the_bytes_of_parts(stack: Stack, biases: dict[str, int]) -> None:
    body = {"model": "fast", "messages": [{"role": "user", "content": SIGNS}], "logit_bias": biases, "seed": 4}
    body |= {"max_tokens": 200, "logprobs": True, "ignore_eos": True}
    (choice,) = stack.ask("/v1/chat/completions", body).json["choices"]
    spoken = b"".join(bytes(token["bytes"]) for token in choice["logprobs"]["content"])
    assert spoken.decode(errors="replace") == choice["message"]["content"]
    streamed = [
        token
        for event in events(stack, "/v1/chat/completions", body)
        for each in event["choices"]
        for token in (each["logprobs"] or {"content": []})["content"]
    ]
    assert [token["bytes"] for token in streamed] == [token["bytes"] for token in choice["logprobs"]["content"]]


def test_the_client_gets_the_same_over_both_ways(stack: Stack, biases: dict[str, int]) -> None:
    asked: dict[str, Any] = {"max_tokens": 200, "logit_bias": {int(token): 100 for token in biases}, "seed": 5}
    texts = []
    for make in (stack.grpc, stack.http):
        with make() as client:
            whole = client.generate(SIGNS, ignore_eos=True, temperature=1.0, **asked).text
            pieces = [c.text for c in client.generate(SIGNS, stream=True, ignore_eos=True, temperature=1.0, **asked)]
            assert "".join(pieces) == whole
            texts.append(whole)
    assert texts[0] == texts[1]


@pytest.mark.parametrize(
    "text", [SIGNS * 50, "e\u0301 ﬁ \u200d \u2028 \U0010ffff", "\x01\x7f\x00 tab\t", "👨‍👩‍👧‍👦🏳️‍🌈", "אبج"]
)
def test_any_text_comes_back_as_it_went(stack: Stack, text: str) -> None:
    tokens = stack.ask("/tokenize", {"model": "fast", "prompt": text}).json["tokens"]
    assert stack.ask("/detokenize", {"model": "fast", "tokens": tokens}).json["prompt"] == text
    echoed = stack.complete(prompt=text, echo=True, max_tokens=1).json["choices"][0]["text"]
    assert echoed.startswith(text)


def test_half_a_character_at_the_end_is_shown_as_such(stack: Stack) -> None:
    """An answer that ends in the middle of a character ends with one replacement character, streamed or not."""
    tokenizer = Tokenizer.from_file(str(next(stack.models[0].rglob("tokenizer.json"))))
    first = tokenizer.token_to_id(spelt("👋".encode()[0]))
    body = {"model": "fast", "prompt": PROMPT, "max_tokens": 1, "logit_bias": {str(first): 100}}
    assert stack.ask("/v1/completions", body).json["choices"][0]["text"] == "\ufffd"
    assert "".join(map(text_of, events(stack, "/v1/completions", body))) == "\ufffd"
