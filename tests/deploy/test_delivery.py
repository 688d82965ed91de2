"""The model gets to the pod, by each way that it can take."""

from dataclasses import replace
from pathlib import Path

import pytest
from deployments import EVERYTHING, FACTS, NAME, Object, build, container_of, containers, find, pod_of, write

from deploykit.cli.pull import pull
from deploykit.deploy.config import DeployConfig
from deploykit.deploy.sizing import quantity, size_pod
from deploykit.sizes import parse_bytes

CLAIM = DeployConfig(delivery="pvc", source="weights", gateway=True)
IMAGE = DeployConfig(delivery="volume", source="registry.example.com/models/writer:3", gateway=True)


@pytest.fixture(scope="module")
def claim(tmp_path_factory: pytest.TempPathFactory) -> list[Object]:
    return build(write(tmp_path_factory.mktemp("claim"), CLAIM))


@pytest.fixture(scope="module")
def volume(tmp_path_factory: pytest.TempPathFactory) -> list[Object]:
    return build(write(tmp_path_factory.mktemp("volume"), IMAGE))


def volume_of(objects: list[Object], name: str = "models") -> Object:
    (found,) = [each for each in pod_of(objects)["volumes"] if each["name"] == name]
    return {key: value for key, value in found.items() if key != "name"}


def mounts(container: Object) -> dict[str, Object]:
    return {mount["mountPath"]: mount for mount in container["volumeMounts"]}


def amount(text: str) -> int:
    """Return an amount of Kubernetes in bytes."""
    return parse_bytes(f"{text}B" if text.endswith("i") else text)


def test_in_the_image_needs_nothing(plain: list[Object]) -> None:
    assert "initContainers" not in pod_of(plain)
    assert {each["name"] for each in pod_of(plain)["volumes"]} == {"tmp", "shm"}
    assert "/models" not in mounts(container_of(plain))


def test_on_a_claim_is_only_read(claim: list[Object]) -> None:
    assert volume_of(claim) == {"persistentVolumeClaim": {"claimName": "weights", "readOnly": True}}
    assert find(claim, "Deployment")["metadata"]["annotations"]["deploykit/needs"].startswith("pvc/weights, ")


def test_nodes_show_a_private_registry_what_the_secret_holds(tmp_path: Path) -> None:
    config = DeployConfig(delivery="pvc", source="weights", gateway=True, image_pull_secret="registry")
    objects = build(write(tmp_path / "private", config))
    assert pod_of(objects)["imagePullSecrets"] == [{"name": "registry"}]
    needed = find(objects, "Deployment")["metadata"]["annotations"]["deploykit/needs"]
    assert needed == "pvc/weights, secret/registry, secret/writer-v2-api-keys"


def test_in_an_image_of_its_own_is_pulled_once(volume: list[Object]) -> None:
    source = "registry.example.com/models/writer:3"
    assert volume_of(volume) == {"image": {"reference": source, "pullPolicy": "IfNotPresent"}}
    assert "initContainers" not in pod_of(volume)


@pytest.mark.parametrize("name", ["claim", "volume", "everything"])
def test_every_container_that_reads_it_has_it_at_the_same_place(name: str, request: pytest.FixtureRequest) -> None:
    objects = request.getfixturevalue(name)
    expected = {"name": "models", "mountPath": "/models", "readOnly": True}
    assert [mounts(container_of(objects, each))["/models"] for each in ("triton", "gateway")] == [expected] * 2


class TestFetch:
    """The init container that downloads it."""

    def test_runs_a_command_that_is_one(self, everything: list[Object]) -> None:
        fetch = container_of(everything, "fetch")
        verb, *args = fetch["args"]
        assert (fetch["command"], verb) == (["deploykit"], "pull")
        options = pull.make_context("pull", list(args)).params
        assert {name: options[name] for name in ("url", "output", "fingerprint", "overwrite")} == {
            "url": "s3://models/writer",
            "output": Path("/models"),
            "fingerprint": FACTS.fingerprint,
            "overwrite": True,
        }
        assert str(options["credentials"]) in mounts(fetch)

    def test_is_as_restricted_as_those_that_serve(self, everything: list[Object]) -> None:
        fetch, triton = container_of(everything, "fetch"), container_of(everything)
        for field in ("securityContext", "image", "imagePullPolicy", "env"):
            assert fetch[field] == triton[field]

    def test_takes_nothing_beyond_what_the_pod_gets_later(self, everything: list[Object]) -> None:
        fetch, triton = container_of(everything, "fetch")["resources"], container_of(everything)["resources"]
        assert fetch["requests"] == fetch["limits"]
        for what in ("memory", "ephemeral-storage"):
            assert amount(fetch["limits"][what]) <= amount(triton["limits"][what])
        assert int(fetch["limits"]["cpu"]) <= int(triton["limits"]["cpu"])

    def test_writes_to_a_volume_with_room_for_it(self, everything: list[Object]) -> None:
        limit = volume_of(everything)["emptyDir"]["sizeLimit"]
        assert limit == quantity(size_pod(FACTS, EVERYTHING).model)
        assert amount(limit) > FACTS.size
        assert not mounts(container_of(everything, "fetch"))["/models"].get("readOnly")
        disk = container_of(everything)["resources"]["limits"]["ephemeral-storage"]
        assert amount(limit) < amount(disk)

    def test_alone_sees_what_opens_the_store_which_may_be_missing(self, everything: list[Object]) -> None:
        assert volume_of(everything, "store")["secret"]["secretName"] == f"{NAME}-store"
        assert volume_of(everything, "store")["secret"]["optional"] is True
        having = [
            each["name"]
            for each in containers(pod_of(everything))
            if "store" in {mount["name"] for mount in each["volumeMounts"]}
        ]
        assert having == ["fetch"]

    def test_gets_one_core_of_many(self, tmp_path: Path) -> None:
        objects = build(write(tmp_path, replace(EVERYTHING, cpu=8)))
        assert container_of(objects, "fetch")["resources"]["limits"]["cpu"] == "1"
