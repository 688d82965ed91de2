"""A tiny model that has a chat template, and commands on a terminal of their own."""

import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pexpect
import pytest
from checkpoints import make_checkpoint

from deploykit.artifact import Artifact
from deploykit.convert import convert
from deploykit.package import package

TEMPLATE = """{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}
{%- if add_generation_prompt %}<assistant>{% endif %}"""


@pytest.fixture(scope="session")
def chatty(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    """A random model with a chat template, and a context so long that an answer takes seconds."""
    root = tmp_path_factory.mktemp("chatty")
    checkpoint = make_checkpoint(root / "checkpoint", "llama", max_position_embeddings=4096)
    (checkpoint / "chat_template.jinja").write_text(TEMPLATE)
    return package(convert(checkpoint, root / "converted"), root / "chatty")


@pytest.fixture
def chat() -> Iterator[Callable[..., Any]]:
    """Start `deploykit chat` on a pseudo-terminal."""
    started: list[Any] = []

    def chat(*arguments: object) -> Any:
        environment = {**os.environ, "OMP_WAIT_POLICY": "passive", "NO_COLOR": "1", "TERM": "dumb"}
        command = ["-m", "deploykit", "chat", *map(str, arguments)]
        child = pexpect.spawn(
            sys.executable, command, env=environment, encoding="utf-8", codec_errors="replace", timeout=20
        )
        # Without it, pexpect waits 50 ms before each line that it sends.
        child.delaybeforesend = None
        started.append(child)
        return child

    yield chat
    for child in started:
        child.close(force=True)


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working folder, empty."""
    monkeypatch.chdir(tmp_path)
    return tmp_path
