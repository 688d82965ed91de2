"""Gateways in front of a real Triton, and of a server that answers as a test says."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from checkpoints import make_checkpoint
from gateways import TEMPLATE, Gateway, open_gateway
from openai import OpenAI

from deploykit.config import PackageConfig, ServeConfig
from deploykit.convert import convert
from deploykit.package import package
from deploykit.serve import LocalServer, serve

CONTEXT = 192
"""Of the engine, in tokens; the model itself was made for more."""
PORTS = ServeConfig(
    http_port=0,
    grpc_port=0,
    metrics_port=0,
    health_port=0,
    startup_timeout=60,
    engine={"threads": 1, "max_context": CONTEXT},
)


@pytest.fixture(scope="session")
def chatty(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A packaged model with a chat template, named `chatty`; made for a context of 512."""
    root = tmp_path_factory.mktemp("gateway")
    checkpoint = make_checkpoint(root / "checkpoint", "llama", max_position_embeddings=512)
    config = json.loads((checkpoint / "tokenizer_config.json").read_text())
    (checkpoint / "tokenizer_config.json").write_text(json.dumps({**config, "chat_template": TEMPLATE}))
    return package(convert(checkpoint, root / "converted"), root / "packaged", PackageConfig(name="chatty")).path


@pytest.fixture(scope="session")
def triton(chatty: Path) -> Iterator[LocalServer]:
    """A real Triton whose engine has less context than the model was made for."""
    with serve(chatty, PORTS) as server:
        yield server


@pytest.fixture(scope="session")
def gateway(chatty: Path, triton: LocalServer) -> Iterator[Gateway]:
    """A gateway in front of the real Triton."""
    with open_gateway([chatty], triton.grpc_url) as running:
        yield running


@pytest.fixture(scope="session")
def openai(gateway: Gateway) -> OpenAI:
    """The `openai` package's client of the real thing."""
    return gateway.openai()
