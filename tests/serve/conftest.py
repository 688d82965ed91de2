"""A tiny packaged model, and one that takes its time."""

import json
import shutil
from collections.abc import Callable, Iterator
from hashlib import sha256
from pathlib import Path

import pytest

from deploykit.artifact import Artifact
from deploykit.config import PackageConfig, ServeConfig
from deploykit.convert import convert
from deploykit.package import package
from deploykit.serve import LocalServer, serve

SLOW_MODEL = '''"""The packaged model, a pause after each step."""

import time

from deploykit.serve import backend


class TritonPythonModel(backend.TritonPythonModel):
    def _beat(self) -> None:
        super()._beat()
        time.sleep(0.05)
'''


@pytest.fixture(scope="session")
def anywhere() -> ServeConfig:
    """Free ports, and limits that a busy machine keeps."""
    return ServeConfig(
        http_port=0,
        grpc_port=0,
        metrics_port=0,
        health_port=0,
        heartbeat_timeout=10,
        startup_timeout=60,
        exit_timeout=20,
    )


@pytest.fixture(scope="session")
def converted(tiny_llama: Path, tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    """The tiny model in fp32, not packaged."""
    return convert(tiny_llama, tmp_path_factory.mktemp("serve") / "converted")


@pytest.fixture(scope="session")
def packaged(converted: Artifact) -> Artifact:
    """The tiny model in a repository, named `tiny`."""
    return package(converted, converted.path.parent / "packaged", PackageConfig(name="tiny"))


@pytest.fixture
def copied(packaged: Artifact, tmp_path: Path) -> Path:
    """A copy of the packaged model, to be damaged."""
    return shutil.copytree(packaged.path, tmp_path / "copied")


@pytest.fixture(scope="session")
def replace_code() -> Callable[[Path, str], None]:
    """Put other Python into a packaged model, its manifest in keeping."""

    def replace_code(version: Path, code: str) -> None:
        (version / "model.py").write_text(code)
        manifest = json.loads((version / "manifest.json").read_text())
        manifest["files"]["model.py"] = {"sha256": sha256(code.encode()).hexdigest(), "size": len(code.encode())}
        (version / "manifest.json").write_text(json.dumps(manifest))

    return replace_code


@pytest.fixture(scope="session")
def slow_repository(
    packaged: Artifact, replace_code: Callable[[Path, str], None], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """A repository with the tiny model at twenty steps a second."""
    root = shutil.copytree(packaged.path / "model_repository", tmp_path_factory.mktemp("slow") / "repository")
    replace_code(root / "tiny/1", SLOW_MODEL)
    return root


@pytest.fixture(scope="session")
def server(packaged: Artifact, anywhere: ServeConfig) -> Iterator[LocalServer]:
    """A real Triton with the tiny model."""
    with serve(packaged.path, anywhere) as running:
        yield running


@pytest.fixture(scope="session")
def slow_server(slow_repository: Path, anywhere: ServeConfig) -> Iterator[LocalServer]:
    """A real Triton with the tiny model at twenty steps a second."""
    with serve(slow_repository, anywhere) as running:
        yield running
