"""A converted artifact of a tiny random checkpoint, tied and untied."""

from pathlib import Path

import pytest

from deploykit.artifact import Artifact
from deploykit.convert import convert


@pytest.fixture(scope="session")
def tied(tiny_qwen2: Path, tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    return convert(tiny_qwen2, tmp_path_factory.mktemp("quantize") / "tied")


@pytest.fixture(scope="session")
def untied(tiny_llama: Path, tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    return convert(tiny_llama, tmp_path_factory.mktemp("quantize") / "untied")


@pytest.fixture(autouse=True)
def _little_calibration(monkeypatch: pytest.MonkeyPatch) -> None:
    """Calibrate on few tokens: the layers are narrow."""
    monkeypatch.setattr("deploykit.quantize.calibrate.TOKENS", 1024)
