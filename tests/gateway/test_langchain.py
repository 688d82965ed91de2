"""LangChain's OpenAI classes, unchanged, against the gateway in front of a real Triton."""

import asyncio
from collections.abc import Iterator
from typing import Any

import httpx2
import pytest
from gateways import Gateway
from langchain_openai import ChatOpenAI, OpenAI
from openai import BadRequestError, NotFoundError
from pydantic import SecretStr

pytestmark = pytest.mark.triton


@pytest.fixture(autouse=True)
def untraced(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing of a test goes to LangSmith, whatever the environment says."""
    for name in ("LANGSMITH_TRACING", "LANGSMITH_TRACING_V2", "LANGCHAIN_TRACING", "LANGCHAIN_TRACING_V2"):
        monkeypatch.setenv(name, "false")


@pytest.fixture
def settings(gateway: Gateway) -> Iterator[dict[str, Any]]:
    """What both classes are given; their connections would stay open otherwise."""
    with httpx2.Client() as client:
        yield {
            "base_url": f"{gateway.url}/v1",
            "api_key": SecretStr("any"),
            "model": "chatty",
            "temperature": 0,
            "max_retries": 0,
            "http_client": client,
        }


def test_chat_openai(settings: dict[str, Any]) -> None:
    chat = ChatOpenAI(**settings, max_completion_tokens=6)
    messages = [("system", "Be brief."), ("human", "Hello")]
    whole = chat.invoke(messages)
    assert whole.text
    assert whole.usage_metadata
    assert whole.usage_metadata["output_tokens"] == 6
    assert whole.response_metadata["finish_reason"] == "length"
    assert "".join(chunk.text for chunk in chat.stream(messages)) == whole.text
    assert asyncio.run(in_a_loop(settings, messages)) == whole.text
    assert [answer.text for answer in chat.batch([messages, messages])] == [whole.text] * 2
    tools = [{"type": "function", "function": {"name": "t", "parameters": {"type": "object", "properties": {}}}}]
    with_tools = chat.bind_tools(tools).invoke("Hello")
    assert with_tools.text
    named = chat.bind(logprobs=True, top_logprobs=2).invoke(messages).response_metadata["logprobs"]["content"]
    assert [len(token["top_logprobs"]) for token in named] == [2] * 6


async def in_a_loop(settings: dict[str, Any], messages: Any) -> str:
    async with httpx2.AsyncClient() as client:
        chat = ChatOpenAI(**settings, max_completion_tokens=6, http_async_client=client)
        return "".join([chunk.text async for chunk in chat.astream(messages)])


def test_openai(settings: dict[str, Any]) -> None:
    model = OpenAI(**settings, max_tokens=6)
    whole = model.invoke("def greet(")
    assert whole
    assert "".join(model.stream("def greet(")) == whole
    several = model.generate(["def greet(", "for number"])
    assert [len(each) for each in several.generations] == [1, 1]
    assert several.generations[0][0].text == whole


def test_a_stream_tells_its_usage_and_its_end(settings: dict[str, Any]) -> None:
    chat = ChatOpenAI(**settings, max_completion_tokens=6, stream_usage=True)
    whole = chat.invoke("Hello")
    chunks = list(chat.stream("Hello"))
    total = chunks[0]
    for chunk in chunks[1:]:
        total += chunk
    assert total.text == whole.text
    assert total.usage_metadata == whole.usage_metadata
    assert total.response_metadata["finish_reason"] == "length"
    named = list(chat.bind(logprobs=True, top_logprobs=1).stream("Hello"))
    tokens = [token for chunk in named for token in chunk.response_metadata.get("logprobs", {}).get("content", [])]
    assert len(tokens) == 6


def test_stop_ends_an_answer(settings: dict[str, Any]) -> None:
    for model in (ChatOpenAI(**settings, max_completion_tokens=20), OpenAI(**settings, max_tokens=20)):
        answer: Any = model.invoke("Hello")
        whole = answer if isinstance(answer, str) else answer.text
        stop = whole[len(whole) // 2]
        answer = model.invoke("Hello", stop=[stop])
        assert (answer if isinstance(answer, str) else answer.text) == whole[: whole.index(stop)]


def test_an_event_loop_and_its_batches(settings: dict[str, Any]) -> None:
    async def ask() -> tuple[list[str], list[str], str]:
        async with httpx2.AsyncClient() as client:
            chat = ChatOpenAI(**settings, max_completion_tokens=6, http_async_client=client)
            text = OpenAI(**settings, max_tokens=6, http_async_client=client)
            chats = [str(answer.text) for answer in await chat.abatch(["Hello", "Bye"])]
            return chats, await text.abatch(["def ", "for "]), "".join([piece async for piece in text.astream("def ")])

    chats, texts, streamed = asyncio.run(ask())
    chat, text = ChatOpenAI(**settings, max_completion_tokens=6), OpenAI(**settings, max_tokens=6)
    assert chats == [chat.invoke("Hello").text, chat.invoke("Bye").text]
    assert texts == [text.invoke("def "), text.invoke("for ")]
    assert streamed == texts[0]


def test_errors_are_those_of_the_openai_package(settings: dict[str, Any]) -> None:
    with pytest.raises(BadRequestError, match="temperature"):
        ChatOpenAI(**{**settings, "temperature": 7}).invoke("Hello")
    with pytest.raises(NotFoundError, match="nobody"):
        OpenAI(**{**settings, "model": "nobody"}).invoke("Hello")
    with pytest.raises(BadRequestError, match="maximum context length"):
        list(ChatOpenAI(**settings).stream("Hello " * 200))
    # An answer that a schema must hold is refused in so many words, and not answered with any text.
    with pytest.raises(BadRequestError, match="response_format"):
        ChatOpenAI(**settings).with_structured_output({"title": "t", "type": "object"}, method="json_mode").invoke("x")
