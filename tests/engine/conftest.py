"""Artifacts of random checkpoints, and engines on them."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from deploykit.artifact import Artifact
from deploykit.config import ConvertConfig, EngineConfig
from deploykit.convert import convert
from deploykit.engine import Engine

SMALL = EngineConfig(max_rows=8, prefill_chunk=5)
"""Chunks shorter than the prompts, so that every test fills rows in pieces."""


@pytest.fixture(scope="session")
def llama(tiny_llama: Path) -> Artifact:
    """A fused Llama: its cache is shared."""
    return convert(tiny_llama, tiny_llama.with_name("llama-fused"))


@pytest.fixture(scope="session")
def gpt2(tiny_gpt2: Path) -> Artifact:
    """A fused GPT-2: learned positions."""
    return convert(tiny_gpt2, tiny_gpt2.with_name("gpt2-fused"))


@pytest.fixture(scope="session")
def traced(tiny_llama: Path) -> Artifact:
    """The same Llama traced through PyTorch: its cache is concatenated."""
    return convert(tiny_llama, tiny_llama.with_name("llama-traced"), ConvertConfig(method="traced"))


@pytest.fixture
def engine(llama: Artifact) -> Iterator[Engine]:
    """An engine on the fused Llama."""
    with Engine.open(llama.path, SMALL) as running:
        yield running
