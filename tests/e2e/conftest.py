"""One small model, really trained, exported and served: shared by every whole-way test."""

import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import deploykit
from deploykit.artifact import Artifact
from deploykit.config import ServeConfig, ValidateConfig
from deploykit.serve import LocalServer, serve
from deploykit.train import DataConfig, ModelConfig, OptimConfig, TrainConfig, train

sys.path.insert(0, str(Path(__file__).parents[2] / "examples"))

PORTS = ServeConfig(http_port=0, grpc_port=0, metrics_port=0, health_port=0, heartbeat_timeout=10)

TRAINING = TrainConfig(
    model=ModelConfig(
        hidden_size=128, num_layers=3, num_heads=4, num_key_value_heads=2, intermediate_size=320, max_context=256
    ),
    data=DataConfig(vocab_size=1024, sequence_length=128),
    optim=OptimConfig(batch_size=4, learning_rate=2e-3, max_steps=700),
)
"""Steps, not seconds: the same model on every machine. Enough of them that greedy text is neither noise nor a loop."""


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint trained on the standard library's text."""
    from demo_data import write_stdlib_text

    folder = tmp_path_factory.mktemp("trained")
    write_stdlib_text(folder / "data", max_bytes=2_000_000)
    train(folder / "data", folder / "checkpoint", TRAINING)
    return folder / "checkpoint"


@pytest.fixture(scope="session")
def exact(checkpoint: Path) -> Artifact:
    """The checkpoint exported without quantization."""
    return deploykit.export(checkpoint, checkpoint.parent / "exact", quantize="none", name="exact")


@pytest.fixture(scope="session")
def small(checkpoint: Path) -> Artifact:
    """The checkpoint exported as most users do: int8."""
    return deploykit.export(checkpoint, checkpoint.parent / "small", name="small", validate=limits(checkpoint))


def limits(checkpoint: Path) -> ValidateConfig:
    """Judge quality on text that the model was not trained on, of the kind that it was trained on."""
    return ValidateConfig(text=checkpoint.parent / "data" / "val.txt")


@pytest.fixture(scope="session")
def repository(exact: Artifact, small: Artifact) -> Path:
    """A model repository with both."""
    folder = exact.path.parent / "repository"
    for artifact in (exact, small):
        shutil.copytree(artifact.path / "model_repository", folder, dirs_exist_ok=True)
    return folder


@pytest.fixture(scope="session")
def ports() -> ServeConfig:
    """Free ports, so that tests and whatever else listens here don't meet."""
    return PORTS


@pytest.fixture(scope="session")
def server(repository: Path) -> Iterator[LocalServer]:
    """A real Triton that serves both models."""
    with serve(repository, PORTS) as running:
        yield running
