"""One small training that several tests look at."""

import sys
from pathlib import Path

import pytest
from tiny_training import TINY, write_data

from deploykit.train import TrainResult, train

sys.path.insert(0, str(Path(__file__).parents[2] / "examples"))


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data folder."""
    return write_data(tmp_path_factory.mktemp("text") / "data")


@pytest.fixture(scope="session")
def trained(data: Path) -> TrainResult:
    """A finished training; its checkpoint is not to be changed."""
    return train(data, data.parent / "trained", TINY)
