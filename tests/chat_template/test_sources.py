"""Where checkpoints keep templates and special tokens: all that transformers finds, and nothing else."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer

from deploykit.chat_template import ChatTemplate
from deploykit.chat_template.sources import read_sources
from deploykit.errors import ArtifactError

ECHO = "{{ bos_token }}{% for m in messages %}{{ m.content }}{% endfor %}"
HELLO = [{"role": "user", "content": "Hello"}]
TOOLS = [{"type": "function", "function": {"name": "add"}}]


@pytest.fixture
def folder(saved: Callable[[str], tuple[Path, Any]], tmp_path: Path) -> Path:
    """A tokenizer without any template."""
    tokenizer = saved("chatml")[1]
    tokenizer.backend_tokenizer.save(str(tmp_path / "tokenizer.json"))
    write(tmp_path, bos_token="<s>", eos_token="</s>")
    return tmp_path


def write(folder: Path, **fields: Any) -> None:
    file = folder / "tokenizer_config.json"
    before = json.loads(file.read_text()) if file.exists() else {"tokenizer_class": "PreTrainedTokenizerFast"}
    file.write_text(json.dumps({**before, **fields}))


def rendered(folder: Path, **options: Any) -> str:
    with_template = ChatTemplate.open(folder)
    assert with_template
    with with_template as template:
        return template.render(HELLO, **options)


def expected(folder: Path, **options: Any) -> str:
    tokenizer = AutoTokenizer.from_pretrained(folder)
    return str(tokenizer.apply_chat_template(HELLO, tokenize=False, add_generation_prompt=True, **options))


def test_without_a_template_there_is_none(folder: Path) -> None:
    assert ChatTemplate.open(folder) is None
    assert ChatTemplate.open(folder / "nowhere") is None


def test_a_text_in_the_configuration(folder: Path) -> None:
    write(folder, chat_template=ECHO)
    assert rendered(folder) == expected(folder) == "<s>Hello"


def test_a_list_of_named_ones_in_the_configuration(folder: Path) -> None:
    named = [{"name": "default", "template": ECHO}, {"name": "tool_use", "template": "{{ tools | tojson }}"}]
    write(folder, chat_template=named)
    assert rendered(folder) == expected(folder) == "<s>Hello"
    assert rendered(folder, tools=TOOLS) == expected(folder, tools=TOOLS) == json.dumps(TOOLS)
    assert rendered(folder, tools=[]) == "<s>Hello"


def test_files_count_more_than_the_configuration(folder: Path) -> None:
    write(folder, chat_template="old")
    (folder / "chat_template.jinja").write_text(ECHO)
    assert rendered(folder) == expected(folder) == "<s>Hello"
    (folder / "additional_chat_templates").mkdir()
    (folder / "additional_chat_templates" / "tool_use.jinja").write_text("tools!")
    assert rendered(folder, tools=TOOLS) == expected(folder, tools=TOOLS) == "tools!"
    assert rendered(folder) == expected(folder) == "<s>Hello"


def test_documents_choose_their_own_template(folder: Path) -> None:
    (folder / "chat_template.jinja").write_text(ECHO)
    (folder / "additional_chat_templates").mkdir()
    (folder / "additional_chat_templates" / "rag.jinja").write_text("{{ documents[0].text }}")
    assert rendered(folder, documents=[{"text": "paper"}]) == "paper"


def test_a_processors_older_file_where_there_is_nothing_else(folder: Path) -> None:
    (folder / "chat_template.json").write_text(json.dumps({"chat_template": ECHO}))
    assert rendered(folder) == "<s>Hello"
    write(folder, chat_template="newer")
    assert rendered(folder) == "newer"


def test_a_template_for_tools_alone_is_said_where_there_are_none(folder: Path) -> None:
    write(folder, chat_template=[{"name": "tool_use", "template": ECHO}])
    assert rendered(folder, tools=TOOLS) == "<s>Hello"
    with pytest.raises(Exception, match="chat templates for tool_use alone, and none for other messages"):
        rendered(folder)


SHOW = "{{ bos_token }},{{ eos_token }},{{ pad_token }},{{ unk_token }},{{ image_token }},{{ boi_token }}"


@pytest.mark.parametrize(
    ("fields", "older"),
    [
        ({}, None),
        ({"pad_token": {"__type": "AddedToken", "content": "<pad>"}, "unk_token": None}, None),
        ({"add_bos_token": True, "image_token": "<pad>", "extra_special_tokens": {"boi_token": "</s>"}}, None),
        ({}, {"bos_token": {"content": "</s>", "lstrip": False}, "unk_token": "<pad>"}),
        (
            {"added_tokens_decoder": {"0": {"content": "<s>", "special": True}}},
            {"bos_token": "</s>", "unk_token": "<pad>"},
        ),
        ({"extra_special_tokens": ["<pad>"]}, None),
    ],
)
def test_templates_get_the_special_tokens_that_transformers_gives(
    folder: Path, fields: dict[str, Any], older: dict[str, Any] | None
) -> None:
    write(folder, chat_template=SHOW, **fields)
    if older:
        (folder / "special_tokens_map.json").write_text(json.dumps(older))
    assert rendered(folder) == expected(folder)


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("tokenizer_config.json", b"{", "can't be read as JSON"),
        ("tokenizer_config.json", b"[]", "holds no JSON object"),
        ("tokenizer_config.json", b"[" * 200_000, "can't be read as JSON"),
        ("tokenizer_config.json", b'{"chat_template": 1}', "neither a text nor a list"),
        ("tokenizer_config.json", b'{"chat_template": [{"name": "default"}]}', "neither a text nor a list"),
        ("chat_template.jinja", b"\xff\xfe", "can't be read as UTF-8"),
        ("chat_template.jinja", b"{% if", r"can't be compiled: TemplateSyntaxError: .* \(line 1\); correct it"),
        ("chat_template.jinja", b"\n\n{% endfoo %}", r"endfoo.* \(line 3\)"),
        ("chat_template.jinja", b"{{ x | upside_down }}", "No filter named 'upside_down'"),
        ("chat_template.json", b"{]", "can't be read as JSON"),
    ],
)
def test_what_can_not_be_read_is_said_in_a_line(folder: Path, name: str, content: bytes, said: str) -> None:
    (folder / name).write_bytes(content)
    with pytest.raises(ArtifactError, match=said) as caught:
        ChatTemplate.open(folder)
    assert "\n" not in str(caught.value)
    assert str(folder) in str(caught.value)


def test_a_pipe_is_not_waited_for(folder: Path) -> None:
    os.mkfifo(folder / "chat_template.jinja")
    with pytest.raises(ArtifactError, match="not a regular file"):
        read_sources(folder)


def test_a_file_without_end_is_not_read(folder: Path) -> None:
    with (folder / "chat_template.jinja").open("wb") as file:
        file.truncate(2**40)
    with pytest.raises(ArtifactError, match="1099511627776 bytes, of at most"):
        read_sources(folder)
