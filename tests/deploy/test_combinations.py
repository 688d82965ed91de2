"""Every pair of options in one deployment or another; with `make prove`, every combination of all of them."""

import functools
import itertools
import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
from deployments import IMAGE, NAME, OVERLAYS, Object, build, containers, find, pod_of, write
from pod_security import violations

from deploykit.deploy.check import check
from deploykit.deploy.config import DeployConfig

FACTORS: dict[str, list[Any]] = {
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
CUSTOM = {"ScaledObject", "PodMonitor", "PrometheusRule", "BackendConfig"}
VERSIONS = [f"1.{minor}" for minor in range(28, 38)]
SIX = {f"app.kubernetes.io/{each}" for each in ("name", "instance", "version", "component", "part-of", "managed-by")}
Choice = tuple[Any, ...]


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


def assert_sound(objects: list[Object], config: DeployConfig, versions: list[str]) -> None:
    """Check what holds for every deployment."""
    for each in objects:
        assert each["metadata"]["labels"].keys() >= SIX
        expected = None if each["kind"] == "Namespace" else config.namespace or NAME
        assert each["metadata"].get("namespace") == expected
        for version in versions if each["kind"] not in CUSTOM else []:
            # Image volumes came with 1.31.
            if config.delivery != "volume" or each["kind"] != "Deployment" or version not in VERSIONS[:3]:
                assert valid(json.dumps(each), version) == version
    pod = pod_of(objects)
    assert violations(pod) == []
    assert len({each["image"] for each in containers(pod)}) == 1
    assert ("replicas" in find(objects, "Deployment")["spec"]) == (config.scaling == "none")
    assert {each["name"] for each in pod["volumes"]} == {m["name"] for c in containers(pod) for m in c["volumeMounts"]}
    for each in containers(pod):
        assert each["resources"]["requests"] == each["resources"]["limits"]
        assert each["securityContext"]["readOnlyRootFilesystem"]


def test_every_pair_of_options(tmp_path: Path) -> None:
    every = list(itertools.product(*FACTORS.values()))
    chosen = list(pairwise(every))
    configs = [config_of(choice) for choice in chosen]
    # Each in another overlay, in turn: `test_overlays` has all of them.
    overlays = [
        write(tmp_path / str(index), config) / "overlays" / OVERLAYS[index % len(OVERLAYS)]
        for index, config in enumerate(configs)
    ]
    with ThreadPoolExecutor(2) as pool:
        built = list(pool.map(build, overlays))
    for objects, config in zip(built, configs, strict=True):
        assert_sound(objects, config, [VERSIONS[0], VERSIONS[-1]])
    assert set().union(*map(pairs, chosen)) == set().union(*map(pairs, every))
    assert len(OVERLAYS) <= len(chosen) <= 20


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_every_combination_on_every_version(tmp_path: Path) -> None:
    # Always with a product of NVIDIA's, which only adds a selector: the pairs above have both.
    choices = list(itertools.product(*(FACTORS | {"gpu_product": ["NVIDIA-L4"]}).values()))
    assert len(choices) == 192
    for index, choice in enumerate(choices):
        config = config_of(choice)
        folder = write(tmp_path / str(index), config)
        with ThreadPoolExecutor(2) as pool:
            for objects in pool.map(build, (folder / "overlays" / overlay for overlay in OVERLAYS)):
                assert_sound(objects, config, VERSIONS)
        assert check([folder]).findings == ()
