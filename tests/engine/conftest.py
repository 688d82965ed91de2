"""Artifacts of random checkpoints, and engines on them."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from engines import SMALL

from deploykit.artifact import Artifact
from deploykit.convert import convert
from deploykit.engine import Engine


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> Iterator[None]:
    """Keep PyTorch to one thread: on models this small its threads wait for each other more than they work."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def llama(tiny_llama: Path) -> Artifact:
    """A fused Llama: its cache is shared."""
    return convert(tiny_llama, tiny_llama.with_name("llama-fused"))


@pytest.fixture(scope="session")
def gpt2(tiny_gpt2: Path) -> Artifact:
    """A fused GPT-2: learned positions."""
    return convert(tiny_gpt2, tiny_gpt2.with_name("gpt2-fused"))


@pytest.fixture
def engine(llama: Artifact) -> Iterator[Engine]:
    """An engine on the fused Llama."""
    with Engine.open(llama.path, SMALL) as running:
        yield running
