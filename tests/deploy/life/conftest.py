"""Pods on this machine: what `deploykit deploy` writes for tiny models, run as a kubelet runs it."""

import itertools
import json
import os
import shutil
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import pytest
from checkpoints import make_checkpoint
from deploy.life.calling import KEY, LONG_LOAD, NAME, PROMPT, TOKENS
from deploy.life.container import Sandbox, is_strict
from deploy.life.kubelet import Pod
from deployments import build
from gateways import TEMPLATE
from stacks import replace_code

from deploykit.artifact import Artifact
from deploykit.config import EngineConfig, PackageConfig
from deploykit.convert import convert
from deploykit.deploy import deploy
from deploykit.deploy.config import DeployConfig
from deploykit.engine import Engine, SamplingParams
from deploykit.package import package

CONTEXT: Final = 256
SLOW: Final = '''"""The packaged model at twenty steps a second."""

import time

from deploykit.serve import backend


class TritonPythonModel(backend.TritonPythonModel):
    def _beat(self) -> None:
        super()._beat()
        time.sleep(0.05)
'''
SLOW_TO_LOAD: Final = f'''"""The packaged model, which takes its time to load."""

import time

from deploykit.serve import backend


class Engine(backend.Engine):
    @classmethod
    def open(cls, *args, **kwargs):
        time.sleep({LONG_LOAD})
        return super().open(*args, **kwargs)


backend.Engine = Engine
TritonPythonModel = backend.TritonPythonModel
'''

Manifest = dict[str, Any]
"""A Deployment, as `kubectl kustomize` prints it."""
MakePod = Callable[..., Pod]


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Two versions of a model at twenty steps a second, which answer differently, and one that loads slowly."""
    if shutil.which("kubectl") is None:
        pytest.skip("builds manifests with kubectl, which isn't installed")
    root = tmp_path_factory.mktemp("life")
    first, second = (_packaged(root / name, seed, seed + 1) for name, seed in (("first", 0), ("second", 1)))
    slow = shutil.copytree(first, root / "slow to load")
    for repository, code in ((first, SLOW), (second, SLOW), (slow, SLOW_TO_LOAD)):
        replace_code(next((repository / NAME).glob("[0-9]*")), code)
    return {"first": first, "second": second, "slow to load": slow}


def _packaged(root: Path, seed: int, version: int) -> Path:
    checkpoint = make_checkpoint(root / "checkpoint", "llama", seed=seed, max_position_embeddings=CONTEXT)
    config = json.loads((checkpoint / "tokenizer_config.json").read_text())
    (checkpoint / "tokenizer_config.json").write_text(json.dumps({**config, "chat_template": TEMPLATE}))
    converted: Artifact = convert(checkpoint, root / "converted")
    return package(converted, root / "packaged", PackageConfig(name=NAME, version=version)).path / "model_repository"


@pytest.fixture(scope="session")
def answers(models: dict[str, Path]) -> dict[str, str]:
    """What the two versions say where nobody else asks."""
    said = {}
    for name in ("first", "second"):
        with Engine.open(next((models[name] / NAME).glob("[0-9]*"))) as engine:
            said[name] = engine.generate(PROMPT, SamplingParams(max_tokens=TOKENS, ignore_eos=True)).text
    assert said["first"][:2] != said["second"][:2]
    return said


@pytest.fixture(scope="session")
def manifest(models: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Manifest]:
    """Return the Deployment that `deploykit deploy` writes for one of the models; the arguments are of its config."""

    def manifest(model: str = "first", **config: Any) -> Manifest:
        folder = tmp_path_factory.mktemp("manifests") / "k8s"
        options = {"cpu": 1, "engine": EngineConfig(max_context=CONTEXT), **config}
        deploy(models[model], folder, DeployConfig(**options))
        (found,) = (each for each in build(folder) if each["kind"] == "Deployment")
        return found

    return manifest


_numbers = itertools.count(1)


@pytest.fixture(scope="session")
def make_pod(models: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> MakePod:
    """Return a pod that hasn't begun, of a Deployment and one of the models."""
    strict = is_strict()

    def make_pod(manifest: Manifest, model: str = "first") -> Pod:
        number = next(_numbers)
        # Two runs of the tests at once have other addresses.
        address = f"127.{64 + os.getpid() % 128}.{number // 250}.{number % 250 + 1}"
        _check_free(address, manifest)
        sandbox = Sandbox(
            address=address,
            models=models[model],
            folder=tmp_path_factory.mktemp("pod"),
            secrets={f"{NAME}-api-keys": {"keys": f"tester:{KEY}\n"}},
            strict=strict,
        )
        return Pod(f"{model}-{number}", manifest["spec"]["template"], sandbox)

    return make_pod


def _check_free(address: str, manifest: Manifest) -> None:
    for container in manifest["spec"]["template"]["spec"]["containers"]:
        for port in container["ports"]:
            try:
                socket.create_server((address, port["containerPort"])).close()
            except OSError as error:
                pytest.skip(f"runs pods on the manifest's own ports, and {port['containerPort']} is taken: {error}")
