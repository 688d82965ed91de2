"""A tiny artifact with fp32 and int8, and a copy of the committed repository."""

import shutil
from pathlib import Path

import pytest

from deploykit.artifact import Artifact
from deploykit.config import QuantizeConfig
from deploykit.convert import convert
from deploykit.quantize import quantize

REPOSITORY = Path(__file__).parents[2] / "model_repository"


@pytest.fixture(scope="session")
def artifact(tiny_llama: Path, tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    folder = tmp_path_factory.mktemp("doctor")
    return quantize(convert(tiny_llama, folder / "fp32"), folder / "int8", QuantizeConfig(precision="int8"))


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    return Path(shutil.copytree(REPOSITORY, tmp_path / "model_repository"))
