"""The `openai` package, unchanged, against the gateway in front of a real Triton."""

import asyncio
from typing import Any

import pytest
from gateways import Gateway
from openai import BadRequestError, NotFoundError, OpenAI
from openai.types import Completion
from openai.types.chat import ChatCompletion, ChatCompletionChunk
from pydantic import BaseModel

pytestmark = pytest.mark.triton

PROMPT = "def greet(name):"
HELLO: Any = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hello"}]


def complete(openai: OpenAI, prompt: Any = PROMPT, **more: Any) -> Completion:
    asked: Any = {"model": "chatty", "prompt": prompt, "max_tokens": 6, "temperature": 0, **more}
    answer: Completion = openai.completions.create(**asked)
    assert_official(answer)
    return answer


def chat(openai: OpenAI, messages: Any = HELLO, **more: Any) -> ChatCompletion:
    asked: Any = {"model": "chatty", "messages": messages, "max_tokens": 6, "temperature": 0, **more}
    answer: ChatCompletion = openai.chat.completions.create(**asked)
    assert_official(answer)
    return answer


def assert_official(value: BaseModel) -> None:
    """Every value is of the type that OpenAI's own package gives it, and nothing else is there."""
    given = value.model_dump()
    for choice in given["choices"]:
        if "text" in choice and choice["finish_reason"] is None:
            # The package has one type for completions and their chunks, and no room for what chunks have here.
            choice["finish_reason"] = "stop"
    type(value).model_validate(given, strict=True)
    assert_nothing_else(value)


def assert_nothing_else(value: Any) -> None:
    if isinstance(value, BaseModel):
        assert not value.model_extra
        value = list(dict(value).values())
    if isinstance(value, list):
        for each in value:
            assert_nothing_else(each)


def test_a_completion_streamed_or_not_is_the_same(openai: OpenAI) -> None:
    whole = complete(openai)
    chunks = list(
        openai.completions.create(
            model="chatty",
            prompt=PROMPT,
            max_tokens=6,
            temperature=0,
            stream=True,
            stream_options={"include_usage": True},
        )
    )
    for chunk in chunks:
        assert_official(chunk)
    assert whole.object == "text_completion"
    assert whole.id.startswith("cmpl-")
    assert whole.usage
    assert whole.usage.completion_tokens == 6
    assert whole.usage.total_tokens == whole.usage.prompt_tokens + 6
    assert "".join(chunk.choices[0].text for chunk in chunks[:-1]) == whole.choices[0].text
    assert [chunk.choices[0].finish_reason for chunk in chunks[:-1]][-1] == whole.choices[0].finish_reason == "length"
    assert chunks[-1].choices == []
    assert chunks[-1].usage == whole.usage
    assert {chunk.usage for chunk in chunks[:-1]} == {None}
    assert len({chunk.id for chunk in chunks}) == 1
    assert {chunk.system_fingerprint for chunk in chunks} == {whole.system_fingerprint}


def test_a_chat_streamed_or_not_is_the_same(openai: OpenAI) -> None:
    whole = chat(openai, logprobs=True, top_logprobs=2)
    chunks: list[ChatCompletionChunk] = list(
        openai.chat.completions.create(
            model="chatty", messages=HELLO, max_tokens=6, temperature=0, stream=True, logprobs=True, top_logprobs=2
        )
    )
    for chunk in chunks:
        assert_official(chunk)
    deltas = [chunk.choices[0].delta for chunk in chunks]
    assert whole.choices[0].message.role == "assistant"
    assert (deltas[0].role, deltas[0].content) == ("assistant", "")
    assert {delta.role for delta in deltas[1:]} == {None}
    assert "".join(delta.content or "" for delta in deltas) == whole.choices[0].message.content
    assert chunks[-1].choices[0].finish_reason == whole.choices[0].finish_reason == "length"
    assert deltas[-1].content is None
    tokens = [token for chunk in chunks if (said := chunk.choices[0].logprobs) for token in said.content or ()]
    assert whole.choices[0].logprobs
    assert tokens == whole.choices[0].logprobs.content
    assert [len(token.top_logprobs) for token in tokens] == [2] * 6
    assert all(token.token == token.top_logprobs[0].token for token in tokens)


def test_bytes_of_tokens_join_to_the_text(openai: OpenAI) -> None:
    choice = chat(openai, max_tokens=40, logprobs=True, extra_body={"ignore_eos": True}).choices[0]
    assert choice.logprobs
    assert choice.logprobs.content
    spelt = b"".join(bytes(token.bytes or ()) for token in choice.logprobs.content)
    assert "�" in "".join(token.token for token in choice.logprobs.content)
    assert spelt.decode(errors="replace") == choice.message.content


def test_log_probabilities_of_a_completion(openai: OpenAI) -> None:
    choice = complete(openai, logprobs=3).choices[0]
    said = choice.logprobs
    assert said
    assert said.tokens
    assert said.text_offset
    assert said.token_logprobs
    assert said.top_logprobs
    assert len(said.tokens) == len(said.text_offset) == len(said.token_logprobs) == len(said.top_logprobs) == 6
    assert said.text_offset[0] == 0
    for token, logprob, top in zip(said.tokens, said.token_logprobs, said.top_logprobs, strict=True):
        assert top[token] == logprob == max(top.values())
        assert len(top) == 3


def test_several_answers_to_several_prompts_keep_their_numbers(openai: OpenAI) -> None:
    prompts = ["def ", [5, 6, 7], "for number"]
    alone = [[c.text for c in complete(openai, prompt, n=2, seed=7, temperature=1).choices] for prompt in prompts]
    together = complete(openai, ["def ", "for number"], n=2, seed=7, temperature=1)
    assert [choice.index for choice in together.choices] == [0, 1, 2, 3]
    assert [choice.text for choice in together.choices] == [*alone[0], *alone[2]]
    assert alone[0][0] != alone[0][1]
    texts = [""] * 4
    for chunk in openai.completions.create(
        model="chatty", prompt=["def ", "for number"], n=2, seed=7, temperature=1, max_tokens=6, stream=True
    ):
        texts[chunk.choices[0].index] += chunk.choices[0].text
    assert texts == [choice.text for choice in together.choices]


def test_token_ids_are_taken_as_they_are(openai: OpenAI, gateway: Gateway) -> None:
    tokens = gateway.post("/tokenize", {"model": "chatty", "prompt": PROMPT}).json()["tokens"]
    assert complete(openai, tokens).choices == complete(openai).choices
    assert complete(openai, [tokens, tokens[:2]]).choices[0] == complete(openai).choices[0]


def test_echo_begins_with_the_prompt(openai: OpenAI) -> None:
    plain = complete(openai).choices[0].text
    assert complete(openai, echo=True).choices[0].text == PROMPT + plain
    chunks = openai.completions.create(
        model="chatty", prompt=[PROMPT, "a"], echo=True, max_tokens=6, temperature=0, stream=True
    )
    first = "".join(chunk.choices[0].text for chunk in chunks if chunk.choices[0].index == 0)
    assert first == PROMPT + plain


def test_sampling_reaches_the_engine(openai: OpenAI) -> None:
    greedy = complete(openai).choices[0].text
    drawn = [complete(openai, temperature=1.5, seed=seed, max_tokens=12).choices[0].text for seed in (3, 3, -4)]
    assert drawn[0] == drawn[1] != drawn[2]
    assert complete(openai, temperature=1.5, top_p=0).choices[0].text == greedy
    assert complete(openai, temperature=1.5, extra_body={"top_k": 1}).choices[0].text == greedy
    forced = complete(openai, logit_bias={"40": 100}, max_tokens=3)
    assert len(set(forced.choices[0].text)) == 1
    stopped = complete(openai, stop=[greedy[1:3]])
    assert stopped.choices[0].text == greedy[:1]
    assert stopped.choices[0].finish_reason == "stop"


def test_without_max_tokens_a_completion_has_16_and_a_chat_the_rest_of_the_context(openai: OpenAI) -> None:
    completion = openai.completions.create(model="chatty", prompt=PROMPT, extra_body={"ignore_eos": True})
    assert completion.usage
    assert completion.usage.completion_tokens == 16
    answer = openai.chat.completions.create(model="chatty", messages=HELLO, extra_body={"ignore_eos": True})
    assert answer.usage
    # The engine was started with a context of 192; the model was made for 512.
    assert answer.usage.total_tokens == 192
    assert answer.choices[0].finish_reason == "length"


@pytest.mark.parametrize(
    ("prompt", "max_tokens", "figures"),
    [([5] * 192, 1, ("192 tokens", "192 in the prompt")), ([5] * 186, 7, ("192 tokens", "186 in the prompt and 7"))],
)
def test_more_than_the_context_is_refused_with_both_figures(
    openai: OpenAI, prompt: list[int], max_tokens: int, figures: tuple[str, str]
) -> None:
    with pytest.raises(BadRequestError) as caught:
        complete(openai, prompt, max_tokens=max_tokens)
    assert caught.value.code == "context_length_exceeded"
    assert all(figure in str(caught.value) for figure in figures)
    assert complete(openai, [5] * 186, max_tokens=6).usage


def test_tools_are_shown_to_the_model(openai: OpenAI) -> None:
    tools: Any = [{"type": "function", "function": {"name": "time", "parameters": {"type": "object"}}}]
    plain, with_tools, told_not_to = (
        chat(openai, max_tokens=1, **more).usage
        for more in ({}, {"tools": tools}, {"tools": tools, "tool_choice": "none"})
    )
    assert plain
    assert with_tools
    assert with_tools.prompt_tokens > plain.prompt_tokens
    assert told_not_to == plain


def test_a_final_message_is_continued(openai: OpenAI, gateway: Gateway) -> None:
    messages = [*HELLO, {"role": "assistant", "content": "Good"}]
    more = {"continue_final_message": True}
    asked = {"model": "chatty", "messages": messages, **more}
    tokens = gateway.post("/tokenize", asked).json()["tokens"]
    text = gateway.post("/detokenize", {"model": "chatty", "tokens": tokens}).json()["prompt"]
    assert text.endswith("<s>assistant\nGood")
    answer = chat(openai, messages, extra_body=more)
    assert answer.usage
    assert answer.usage.prompt_tokens == len(tokens)


def test_tokens_and_text_are_each_other_s_reverse(gateway: Gateway) -> None:
    asked = {"model": "chatty", "prompt": "def größe 你好", "return_token_strs": True}
    reply = gateway.post("/tokenize", asked).json()
    assert reply["count"] == len(reply["tokens"]) == len(reply["token_strs"])
    back = gateway.post("/detokenize", {"model": "chatty", "tokens": reply["tokens"]}).json()
    assert back == {"prompt": "def größe 你好"}


def test_models_are_listed(openai: OpenAI, gateway: Gateway) -> None:
    complete(openai, max_tokens=1)
    (model,) = openai.models.list()
    assert (model.id, model.object, model.owned_by) == ("chatty", "model", "deploykit")
    assert model.model_extra == {"max_model_len": 192}
    assert openai.models.retrieve("chatty") == model
    with pytest.raises(NotFoundError) as caught:
        openai.models.retrieve("another/one")
    assert caught.value.code == "model_not_found"
    assert gateway.get("/health").json() == {"status": "ok"}


def test_the_async_client_streams_several_answers_at_once(gateway: Gateway, openai: OpenAI) -> None:
    async def ask(count: int) -> list[str]:
        async with gateway.async_openai() as client:

            async def one() -> str:
                chunks = await client.chat.completions.create(
                    model="chatty", messages=HELLO, max_tokens=6, temperature=0, stream=True
                )
                return "".join([chunk.choices[0].delta.content or "" async for chunk in chunks])

            return await asyncio.gather(*(one() for _ in range(count)))

    assert set(asyncio.run(ask(4))) == {chat(openai).choices[0].message.content}


def test_health_is_told_to_who_asks_for_the_head_alone(gateway: Gateway) -> None:
    reply = gateway.http.head("/health")
    assert (reply.status_code, reply.content) == (200, b"")
