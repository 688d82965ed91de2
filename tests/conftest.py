"""Fixtures that several stages share."""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from checkpoints import make_checkpoint

from deploykit.artifact import Artifact
from deploykit.config import ConvertConfig
from deploykit.convert import convert

if TYPE_CHECKING:
    from stacks import Stack


@pytest.fixture(scope="session")
def tiny_llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random Llama checkpoint: 2 layers, 4 heads, 2 key/value heads, context 128."""
    return make_checkpoint(tmp_path_factory.mktemp("checkpoints") / "llama", "llama")


@pytest.fixture(scope="session")
def tiny_gpt2(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random GPT-2 checkpoint: 2 layers, 4 heads, context 128."""
    return make_checkpoint(tmp_path_factory.mktemp("checkpoints") / "gpt2", "gpt2")


@pytest.fixture(scope="session")
def tiny_qwen2(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random Qwen2 checkpoint: 2 layers, 4 heads, 2 key/value heads, tied embeddings."""
    return make_checkpoint(tmp_path_factory.mktemp("checkpoints") / "qwen2", "qwen2")


@pytest.fixture(scope="session")
def tiny_pair(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random encoder-decoder, T5: 2 encoder and 3 decoder layers, 4 heads, 128 tokens on each side."""
    # Here, since most tests need none of what it takes.
    from seq2seq_models import make_pair

    return make_pair(tmp_path_factory.mktemp("checkpoints") / "pair", "t5", scale=0.1)


@pytest.fixture(scope="session")
def pair(tiny_pair: Path) -> Artifact:
    """The tiny encoder-decoder converted. To be read only."""
    return convert(tiny_pair, tiny_pair.with_name("pair-converted"))


@pytest.fixture(scope="session")
def traced(tiny_llama: Path) -> Artifact:
    """The tiny Llama traced through PyTorch, which takes seconds: its cache is concatenated. To be read only."""
    return convert(tiny_llama, tiny_llama.with_name("llama-traced"), ConvertConfig(method="traced"))


@pytest.fixture(scope="session")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator["Stack"]:
    """Triton with two models, and a gateway with a key in front of it; see `stacks`."""
    # Here, since most tests need none of what it takes.
    from stacks import make_models, open_stack

    root = tmp_path_factory.mktemp("stack")
    with open_stack(root, make_models(root)) as running:
        yield running


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add `--regen`, which writes golden files again."""
    parser.addoption("--regen", action="store_true", help="write the golden files again")


@pytest.fixture
def regen(request: pytest.FixtureRequest) -> bool:
    """Whether golden files are to be written again."""
    return bool(request.config.getoption("--regen"))
