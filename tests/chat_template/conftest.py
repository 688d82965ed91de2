"""Templates as checkpoints keep them, and such as a test writes."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from chat_families import template_of
from checkpoints import make_tokenizer

from deploykit.chat_template import ChatTemplate, Limits
from deploykit.chat_template.sources import Sources

USUAL = Limits()


@pytest.fixture(scope="session")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], tuple[Path, Any]]:
    """Save a tokenizer with a family's templates; returns the folder and the tokenizer."""
    done: dict[str, tuple[Path, Any]] = {}

    def saved(family: str) -> tuple[Path, Any]:
        if family not in done:
            tokenizer = make_tokenizer()
            tokenizer.chat_template = template_of(family)
            folder = tmp_path_factory.mktemp(family)
            tokenizer.save_pretrained(folder)
            done[family] = (folder, tokenizer)
        return done[family]

    return saved


@pytest.fixture(scope="session")
def opened(saved: Callable[[str], tuple[Path, Any]]) -> Iterator[Callable[[str], ChatTemplate]]:
    """Open a family's templates."""
    done: dict[str, ChatTemplate] = {}

    def opened(family: str) -> ChatTemplate:
        if family not in done:
            template = ChatTemplate.open(saved(family)[0])
            assert template
            done[family] = template
        return done[family]

    yield opened
    for template in done.values():
        template.close()


@pytest.fixture
def compiled() -> Iterator[Callable[..., ChatTemplate]]:
    """Make a template of a text, and of others by name."""
    made: list[ChatTemplate] = []

    def compiled(text: str, limits: Limits = USUAL, **named: str) -> ChatTemplate:
        sources = Sources(templates={"default": text, **named}, specials={"bos_token": "<s>", "eos_token": "</s>"})
        made.append(ChatTemplate(sources, limits))
        return made[-1]

    yield compiled
    for template in made:
        template.close()
