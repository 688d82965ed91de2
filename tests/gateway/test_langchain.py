"""LangChain's OpenAI classes, unchanged, against the gateway in front of a real Triton."""

import asyncio
from collections.abc import Iterator
from typing import Any

import httpx2
import pytest
from gateways import Gateway
from langchain_openai import ChatOpenAI, OpenAI
from pydantic import SecretStr

pytestmark = pytest.mark.triton


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
