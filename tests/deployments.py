"""Deployments to look at: a small model's, with any options, as `kubectl kustomize` builds them."""

import subprocess
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from deploykit.deploy.config import DeployConfig
from deploykit.deploy.facts import ModelFacts
from deploykit.deploy.layout import files
from deploykit.deploy.sizing import MIB, size_pod

FACTS = ModelFacts(
    name="Writer_v2",
    version=3,
    fingerprint="ab" * 32,
    precision="int8",
    size=2 * MIB,
    rows=16,
    context=512,
    threads=2,
    memory={
        "process": 80 * MIB, "weights": 2 * MIB, "tables": MIB, "cache": 8 * MIB, "cache_full": 8 * MIB,
        "cache_limit": 8 * MIB, "activations": 4 * MIB, "loading": MIB, "tokenizer": 5 * MIB, "peak": 120 * MIB,
    },
    load_seconds=1.5,
    load_measured=True,
    has_chat_template=False,
)  # fmt: skip
NAME = "writer-v2"
DIGEST = f"sha256:{'1' * 64}"
IMAGE = f"registry.example.com/team/writer@{DIGEST}"
OVERLAYS = ("cpu", "gpu", "mig", "openshift", "eks", "aks", "gke")
EVERYTHING = DeployConfig(
    image=IMAGE, delivery="s3", source="s3://models/writer", scaling="keda", monitoring=True, gateway=True,
    gpu_product="NVIDIA-L4", runtime_class="nvidia",
)  # fmt: skip

Object = dict[str, Any]


def write(folder: Path, config: DeployConfig = DeployConfig(), facts: ModelFacts = FACTS) -> Path:  # noqa: B008 -- frozen
    """Write a deployment's files, and return their folder."""
    for name, text in files(facts, size_pod(facts, config), config).items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    return folder


def build(folder: Path) -> list[Object]:
    """Return the objects of a kustomization."""
    done = subprocess.run(["kubectl", "kustomize", folder], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert not done.stderr
    return list(yaml.load_all(done.stdout, Loader=yaml.CSafeLoader))


def compose(folder: Path, *components: str) -> list[Object]:
    """Return the objects of an overlay of one's own, with some of a deployment's components."""
    own = folder / "overlays" / "-".join(components)
    own.mkdir(exist_ok=True)
    named = [f"../../components/{component}" for component in components]
    (own / "kustomization.yaml").write_text(yaml.safe_dump({"resources": ["../../base"], "components": named}))
    return build(own)


def find(objects: Iterable[Object], kind: str, name: str = NAME) -> Object:
    """Return the one object of that kind and name."""
    (found,) = [each for each in objects if each["kind"] == kind and each["metadata"]["name"] == name]
    return found


def pod_of(objects: Iterable[Object]) -> Object:
    """Return the spec of the Deployment's pods."""
    spec: Object = find(objects, "Deployment")["spec"]["template"]["spec"]
    return spec


def container_of(objects: Iterable[Object], name: str = "triton") -> Object:
    """Return one container of the Deployment's pods."""
    (found,) = [each for each in containers(pod_of(objects)) if each["name"] == name]
    return found


def containers(pod: Mapping[str, Any]) -> Iterator[Object]:
    """Yield every container of a pod."""
    for kind in ("initContainers", "containers"):
        given: Sequence[Object] = pod.get(kind, [])
        yield from given
