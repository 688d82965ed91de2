"""Converted artifacts of tiny random checkpoints."""

from pathlib import Path

import pytest

from deploykit.artifact import Artifact
from deploykit.convert import convert


@pytest.fixture(scope="session")
def fused(tiny_qwen2: Path, tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    return convert(tiny_qwen2, tmp_path_factory.mktemp("optimize") / "fused")
