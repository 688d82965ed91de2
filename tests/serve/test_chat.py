"""A real Triton with a chat template: conversations get the answer of the text they stand for, and hold up nobody."""

import json
import re
import shutil
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from hashlib import sha256
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import numpy as np
import pytest
from triton_calls import generate, stream
from tritonclient.utils import InferenceServerException

from deploykit.artifact import Artifact
from deploykit.config import ServeConfig
from deploykit.engine.text import Codec
from deploykit.errors import QueueFullError
from deploykit.serve import LocalServer, serve
from deploykit.serve.chat import MOST_CHARACTERS, THREADS, ChatDesk
from deploykit.serve.prompt import Chat
from deploykit.serve.refusal import Code, Refusal

pytestmark = pytest.mark.triton

TEMPLATE = """\
{%- if messages[0].content == 'slowly' %}{% for a in range(2500) %}{% for b in range(1000) %}{% endfor %}{% endfor %}\
{% endif -%}
{%- if messages[-1].role == 'assistant' %}{{ raise_exception('the user has the last word') }}{% endif -%}
{%- for tool in tools or [] %}<{{ tool.function.name }}>{% endfor -%}
{%- for message in messages %}<s>{{ message.role }}: {{ message.content }}</s>{% endfor -%}
{%- if add_generation_prompt %}<s>assistant:{% endif -%}
"""
MESSAGES = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Grüße, wer bist du?"}]
TEXT = "<s>system: Be brief.</s><s>user: Grüße, wer bist du?</s><s>assistant:"
TOOLS = [{"type": "function", "function": {"name": "weather", "parameters": {"type": "object"}}}]
COMMON: dict[str, Any] = {"max_tokens": 12, "ignore_eos": True}


@pytest.fixture(scope="module")
def chatty(
    packaged: Artifact, anywhere: ServeConfig, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[LocalServer]:
    root = shutil.copytree(packaged.path / "model_repository", tmp_path_factory.mktemp("chatty") / "repository")
    version = root / "tiny/1"
    (version / "chat_template.jinja").write_text(TEMPLATE)
    manifest = json.loads((version / "manifest.json").read_text())
    code = TEMPLATE.encode()
    manifest["files"]["chat_template.jinja"] = {"sha256": sha256(code).hexdigest(), "size": len(code)}
    (version / "manifest.json").write_text(json.dumps(manifest))
    with serve(root, anywhere) as running:
        yield running


@pytest.fixture(scope="module")
def codec(packaged: Artifact) -> Codec:
    assert packaged.tokenizer
    return Codec.open(packaged.tokenizer)


def answer(server: LocalServer, **asked: Any) -> str:
    with stream(server, **{**COMMON, **asked}) as responses:
        return b"".join(part["text_output"][0] for part in responses).decode()


def said(*contents: str) -> str:
    return json.dumps([{"role": "user", "content": content} for content in contents])


def until_idle(server: LocalServer) -> None:
    end = time.monotonic() + 5
    while server.beats()["tiny"].open_requests:
        assert time.monotonic() < end
        time.sleep(0.01)


@pytest.mark.parametrize("streams", [False, True])
def test_a_conversation_a_text_and_ids_that_mean_the_same_get_the_same(
    chatty: LocalServer, codec: Codec, streams: bool
) -> None:
    ids = np.array(codec.encode(TEXT, add_special_tokens=False), np.int64)
    expected = answer(chatty, input_ids=ids)
    assert expected
    assert answer(chatty, messages=json.dumps(MESSAGES), stream=streams) == expected
    # This tokenizer adds nothing by itself.
    assert answer(chatty, text_input=TEXT, stream=streams, exclude_input_in_output=True) == expected


def test_tools_are_shown_to_the_template(chatty: LocalServer, codec: Codec) -> None:
    ids = np.array(codec.encode(f"<weather>{TEXT}", add_special_tokens=False), np.int64)
    assert answer(chatty, messages=json.dumps(MESSAGES), tools=json.dumps(TOOLS)) == answer(chatty, input_ids=ids)


def test_messages_are_text_in_generates_json(chatty: LocalServer) -> None:
    expected = answer(chatty, messages=json.dumps(MESSAGES))
    status, body = generate(chatty, messages=json.dumps(MESSAGES), **COMMON)
    assert (status, json.loads(body)["text_output"]) == (200, expected)
    status, body = generate(chatty, verb="generate_stream", messages=json.dumps(MESSAGES), stream=True, **COMMON)
    events = [json.loads(line.removeprefix("data: ")) for line in body.splitlines() if line]
    assert (status, "".join(event["text_output"] for event in events)) == (200, expected)


BAD: dict[str, tuple[dict[str, Any], str]] = {
    "no JSON": ({"messages": "hello"}, "messages are no valid JSON"),
    "nothing": ({"messages": ""}, "messages are no valid JSON"),
    "not UTF-8": ({"messages": np.array([b"[\xff]"], np.object_)}, "messages is not UTF-8: byte 0xff at 1"),
    "no messages": ({"messages": "[]"}, "messages is empty"),
    "an object": ({"messages": "{}"}, "messages is an object; it must be a list"),
    "nested deep": ({"messages": "[" * 200_000}, "nested too deep"),
    "nested deep in a tool": (
        {"messages": said("x"), "tools": '[{"a":' * 50_000},
        "tools are nested too deep",
    ),
    "tools that are none": ({"messages": said("x"), "tools": '["weather"]'}, r"tools\[0\] is a text"),
    "half a character": (
        {"messages": '[{"role": "user", "content": "\\ud800"}]'},
        r"messages\[0\].content .*surrogate",
    ),
    "two conversations": ({"messages": [said("x"), said("y")]}, "shape"),
    "no strings": ({"messages": np.array([1], np.int64)}, "INT64.*(BYTES|STRING)"),
    "what the template refuses": (
        {"messages": '[{"role": "assistant", "content": "x"}]'},
        "refuses these messages: the user has the last word",
    ),
    "longer than the context": ({"messages": said("x y " * 9000)}, r"the prompt has .* tokens, but the context of"),
    "huge": ({"messages": said("x" * (9 * 2**20))}, "at most 8388608 are taken"),
}


@pytest.mark.parametrize("case", BAD)
def test_what_is_no_conversation_gets_one_clear_line(chatty: LocalServer, case: str) -> None:
    fields, message = BAD[case]
    with (
        pytest.raises(InferenceServerException, match=message) as caught,
        stream(chatty, max_tokens=1, **fields) as responses,
    ):
        list(responses)
    assert "\n" not in str(caught.value.message())
    until_idle(chatty)
    assert chatty.restarts == 0


def test_a_model_without_a_template_names_the_remedy(server: LocalServer) -> None:
    line = "INVALID_ARGUMENT: this model has no chat template; send the whole prompt as text_input or input_ids"
    with (
        pytest.raises(InferenceServerException, match=line),
        stream(server, max_tokens=1, messages=said("x")) as responses,
    ):
        list(responses)


def desk(folder: Path, most: int = 2, **files: str) -> ChatDesk:
    for name, text in files.items():
        (folder / name.replace("_json", ".json")).write_text(text)
    failures: list[Exception] = []
    return ChatDesk(folder, lambda text: [len(text)], most=most, on_failure=failures.append)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ("{", r"can't be used: tokenizer_config\.json: can't be read as JSON"),
        ('{"chat_template": 5}', r"can't be used: tokenizer_config\.json: \"chat_template\" is neither"),
        ('{"chat_template": "{% if %}"}', "chat template can't be compiled: .*; send the whole prompt as text_input"),
        ("{}", "has no chat template; send the whole prompt"),
    ],
)
def test_a_template_that_can_not_be_used_is_said_to_those_who_need_it(
    tmp_path: Path, config: str, message: str
) -> None:
    refused = SimpleQueue[Refusal]()
    opened = desk(tmp_path, tokenizer_config_json=config)
    for _ in range(2):
        opened.take(Chat(messages=said("x")), timeout=None, submit=_never, refuse=refused.put)
        refusal = refused.get(timeout=20)
        assert refusal.code is Code.INVALID_ARGUMENT
        assert re.search(message, refusal.message)
        assert str(tmp_path) not in refusal.message
    opened.close()


def test_as_many_conversations_wait_as_may(tmp_path: Path) -> None:
    outcomes = SimpleQueue[Refusal | list[int]]()
    rendered, release = threading.Semaphore(0), threading.Event()

    def submit(tokens: list[int], _: float | None) -> Nothing:
        rendered.release()
        assert release.wait(20)
        outcomes.put(tokens)
        return Nothing()

    def take(size: int) -> None:
        opened.take(Chat(messages=said("x" * size)), timeout=30, submit=submit, refuse=outcomes.put)

    opened = desk(tmp_path, tokenizer_config_json='{"chat_template": "{{ messages[0].content }}"}')
    for size in range(THREADS):
        take(size)
        assert rendered.acquire(timeout=20)
    for size in range(THREADS, THREADS + 2):
        take(size)
    with pytest.raises(QueueFullError, match="the queue is full: 2 conversations wait; try again later"):
        take(0)
    release.set()
    answers = [outcomes.get(timeout=20) for _ in range(THREADS + 2)]
    assert sorted(map(str, answers)) == [f"[{size}]" for size in range(THREADS + 2)]
    opened.close()


def test_conversations_that_wait_are_no_larger_together_than_memory_allows(tmp_path: Path) -> None:
    outcomes = SimpleQueue[Refusal]()
    opened = desk(tmp_path, most=1000, tokenizer_config_json="{}")
    huge = "[" + " " * (MOST_CHARACTERS // 8) + "]"

    def fill() -> None:
        for _ in range(1000):
            opened.take(Chat(messages=huge), timeout=30, submit=_never, refuse=outcomes.put)

    with pytest.raises(QueueFullError, match="the conversations that wait are too long together"):
        fill()
    # They are read meanwhile, and then there is room again.
    assert outcomes.get(timeout=20).message == "messages is empty; send at least one"
    opened.close()


class Nothing:
    """A request that the engine runs."""

    def cancel(self) -> None:
        pass


def _never(tokens: list[int], timeout: float | None) -> Nothing:
    raise AssertionError((tokens, timeout))


def test_slow_templates_do_not_hold_up_texts(chatty: LocalServer) -> None:
    """Of five conversations four are rendered at once, and one waits for the first of them."""
    outcomes: list[str] = []

    def ask() -> None:
        outcomes.append(answer(chatty, messages=said("slowly")))

    threads = [threading.Thread(target=ask) for _ in range(5)]
    for thread in threads:
        thread.start()
    while chatty.beats()["tiny"].open_requests < 5:
        time.sleep(0.005)
    answered = 0
    while not outcomes:
        assert answer(chatty, text_input="def", max_tokens=2)
        answered += not outcomes
    for thread in threads:
        thread.join()
    assert len(set(outcomes)) == 1
    # Otherwise a text would be answered only when all five have been rendered.
    assert answered


def test_whoever_leaves_or_waits_too_long_is_not_rendered(chatty: LocalServer) -> None:
    slow = [threading.Thread(target=_ignore, args=(chatty, said("slowly"))) for _ in range(4)]
    for thread in slow:
        thread.start()
    while chatty.beats()["tiny"].open_requests < 4:
        time.sleep(0.005)
    with (
        pytest.raises(InferenceServerException, match="DEADLINE_EXCEEDED: the request waited longer than its timeout"),
        stream(chatty, messages=said("x"), timeout=np.array([0.001], np.float32), **COMMON) as responses,
    ):
        list(responses)
    with stream(chatty, messages=said("x"), stream=True, max_tokens=400, ignore_eos=True):
        pass
    for thread in slow:
        thread.join()
    until_idle(chatty)


def _ignore(server: LocalServer, messages: str) -> None:
    with suppress(InferenceServerException):
        answer(server, messages=messages)
