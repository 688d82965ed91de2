"""Every combination of the options that shape a deployment, and what holds for each of them."""

import functools
import itertools
import json
from collections.abc import Iterator, Sequence
from typing import Any, Final

import kubernetes_validate
from deployments import IMAGE, NAME, Object, containers, find, pod_of
from pod_security import violations

from deploykit.deploy.config import DeployConfig

FACTORS: Final[dict[str, list[Any]]] = {
    "image": [None, IMAGE],
    "namespace": [None, "writers"],
    "delivery": [
        ("image", None), ("pvc", "models"), ("s3", "s3://models/writer"), ("volume", "registry.example.com/writer:3"),
    ],
    "scaling": ["none", "hpa", "keda"],
    "monitoring": [False, True],
    "gateway": [False, True],
    "gpu_product": [None, "NVIDIA-L4"],
}  # fmt: skip
CUSTOM: Final = {"ScaledObject", "PodMonitor", "PrometheusRule", "BackendConfig"}
VERSIONS: Final = [f"1.{minor}" for minor in range(28, 38)]
SIX: Final = {
    f"app.kubernetes.io/{each}" for each in ("name", "instance", "version", "component", "part-of", "managed-by")
}
Choice = tuple[Any, ...]


def every_choice(**fixed: list[Any]) -> list[Choice]:
    """Return all combinations of options, some of them fixed."""
    return list(itertools.product(*(FACTORS | fixed).values()))


def pairs(choice: Choice) -> set[tuple[int, Any, int, Any]]:
    """Return the pairs of values that a choice has, with the places of their factors."""
    return {(a, choice[a], b, choice[b]) for a, b in itertools.combinations(range(len(choice)), 2)}


def pairwise(everything: list[Choice]) -> Iterator[Choice]:
    """Yield choices, each the one with the most pairs that none before has, until none is missing."""
    of = {choice: pairs(choice) for choice in everything}
    missing = set().union(*of.values())
    while missing:
        best = max(everything, key=lambda choice: len(of[choice] & missing))
        missing -= of[best]
        yield best


def config_of(choice: Choice) -> DeployConfig:
    """Return the options of a choice."""
    chosen = dict(zip(FACTORS, choice, strict=True))
    delivery, source = chosen.pop("delivery")
    return DeployConfig(delivery=delivery, source=source, **chosen)


@functools.cache
def valid(text: str, version: str) -> str:
    """Return the version by whose schema an object was found valid; an unknown kind or field raises."""
    return str(kubernetes_validate.validate(json.loads(text), version, strict=True))


def assert_sound(objects: Sequence[Object], config: DeployConfig, versions: Sequence[str]) -> None:
    """Check what holds for every deployment."""
    for each in objects:
        assert each["metadata"]["labels"].keys() >= SIX
        expected = None if each["kind"] == "Namespace" else config.namespace or NAME
        assert each["metadata"].get("namespace") == expected
        text = json.dumps(each)
        for version in versions if each["kind"] not in CUSTOM else []:
            # Image volumes came with 1.31.
            if config.delivery != "volume" or each["kind"] != "Deployment" or version not in VERSIONS[:3]:
                assert valid(text, version) == version
    pod = pod_of(objects)
    assert violations(pod) == []
    assert len({each["image"] for each in containers(pod)}) == 1
    assert ("replicas" in find(objects, "Deployment")["spec"]) == (config.scaling == "none")
    assert {each["name"] for each in pod["volumes"]} == {m["name"] for c in containers(pod) for m in c["volumeMounts"]}
    for each in containers(pod):
        assert each["resources"]["requests"] == each["resources"]["limits"]
        assert each["securityContext"]["readOnlyRootFilesystem"]
