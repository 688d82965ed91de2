"""What each kind of place changes, and that it changes nothing else."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from deployments import EVERYTHING, NAME, Object, build, compose, container_of, find, pod_of, write

from deploykit.deploy.config import DeployConfig

GPU = "nvidia.com/gpu"
PRODUCT = "nvidia.com/gpu.product"
GOOGLE_PRODUCT = "cloud.google.com/gke-accelerator"


@pytest.fixture(scope="module")
def plain_overlays(plain_folder: Path, plain: list[Object]) -> dict[str, list[Object]]:
    """The overlays of clouds of a deployment without options."""
    return {"cpu": plain} | {name: build(plain_folder / "overlays" / name) for name in ("eks", "aks", "gke")}


def changed(before: list[Object], after: list[Object]) -> set[str]:
    """Return the kinds of the objects that differ."""
    return {each["kind"] for each in after if each not in before} | {
        each["kind"] for each in before if each not in after
    }


@pytest.mark.parametrize(
    ("overlay", "kinds"),
    [
        ("gpu", {"Deployment"}),
        ("mig", {"Deployment"}),
        ("openshift", {"Deployment", "NetworkPolicy"}),
        ("eks", {"Service", "NetworkPolicy", "Namespace"}),
        ("aks", {"Service", "NetworkPolicy"}),
        ("gke", {"Service", "NetworkPolicy", "BackendConfig"}),
    ],
)
def test_what_an_overlay_touches(overlays: dict[str, list[Object]], overlay: str, kinds: set[str]) -> None:
    assert changed(overlays["cpu"], overlays[overlay]) == kinds


@pytest.mark.parametrize(("overlay", "resource"), [("gpu", GPU), ("mig", "nvidia.com/mig-1g.10gb")])
def test_a_gpu(overlays: dict[str, list[Object]], overlay: str, resource: str) -> None:
    objects = overlays[overlay]
    given = container_of(objects)["resources"]
    assert given["limits"] == given["requests"]
    assert given["limits"][resource] == "1"
    assert given["limits"].keys() == {"cpu", "memory", "ephemeral-storage", resource}
    assert resource not in container_of(objects, "gateway")["resources"]["limits"]
    pod = pod_of(objects)
    assert pod["tolerations"] == [{"key": GPU, "operator": "Exists", "effect": "NoSchedule"}]
    assert pod["nodeSelector"] == {PRODUCT: "NVIDIA-L4"}
    assert pod["runtimeClassName"] == "nvidia"
    assert find(objects, "Deployment")["spec"]["strategy"] == {
        "type": "RollingUpdate", "rollingUpdate": {"maxSurge": 0, "maxUnavailable": 1},
    }  # fmt: skip


def test_any_gpu_and_the_clusters_own_runtime(plain_folder: Path) -> None:
    pod = pod_of(build(plain_folder / "overlays" / "gpu"))
    assert not {"nodeSelector", "runtimeClassName"} & pod.keys()


def test_another_slice(tmp_path: Path) -> None:
    objects = build(write(tmp_path, DeployConfig(mig_profile="2g.20gb")) / "overlays" / "mig")
    assert container_of(objects)["resources"]["limits"]["nvidia.com/mig-2g.20gb"] == "1"


def test_openshift_gives_the_ids(overlays: dict[str, list[Object]]) -> None:
    context = pod_of(overlays["openshift"])["securityContext"]
    assert context == {
        "runAsNonRoot": True, "fsGroupChangePolicy": "OnRootMismatch", "seccompProfile": {"type": "RuntimeDefault"},
    }  # fmt: skip
    assert "runAs" not in str(pod_of(overlays["openshift"])).replace("runAsNonRoot", "")
    egress = find(overlays["openshift"], "NetworkPolicy")["spec"]["egress"]
    assert {port["port"] for rule in egress for port in rule["ports"]} == {53, 443, 5353}
    assert "openshift-user-workload-monitoring" in {*readers(overlays["openshift"])}


def readers(objects: list[Object]) -> list[str]:
    """Return the namespaces that may read metrics."""
    rules = find(objects, "NetworkPolicy")["spec"]["ingress"]
    peers = [peer for rule in rules if rule["ports"][0]["port"] == 8002 for peer in rule["from"]]
    return [peer["namespaceSelector"]["matchLabels"]["kubernetes.io/metadata.name"] for peer in peers]


@pytest.mark.parametrize(
    ("overlay", "annotation", "value"),
    [
        ("eks", "service.beta.kubernetes.io/aws-load-balancer-scheme", "internal"),
        ("eks", "service.beta.kubernetes.io/aws-load-balancer-internal", "true"),
        ("aks", "service.beta.kubernetes.io/azure-load-balancer-internal", "true"),
        ("gke", "networking.gke.io/load-balancer-type", "Internal"),
    ],
)
def test_a_load_balancer_would_be_an_internal_one(
    plain_overlays: dict[str, list[Object]], overlay: str, annotation: str, value: str
) -> None:
    objects = plain_overlays[overlay]
    assert changed(plain_overlays["cpu"], objects) == {"Service"}
    assert find(objects, "Service")["metadata"]["annotations"][annotation] == value
    assert find(objects, "Service")["spec"]["type"] == "ClusterIP"
    # Nothing about a gateway that isn't there.
    assert "health" not in str(find(objects, "Service"))


@pytest.mark.parametrize(
    ("overlay", "probed"),
    [
        ("eks", ("Service", "service.beta.kubernetes.io/aws-load-balancer-healthcheck-path': '/health'")),
        ("aks", ("Service", "service.beta.kubernetes.io/port_9000_health-probe_request-path': '/health'")),
        ("gke", ("BackendConfig", "'requestPath': '/health'")),
    ],
)
def test_load_balancers_reach_the_gateway_alone(
    overlays: dict[str, list[Object]], overlay: str, probed: tuple[str, str]
) -> None:
    rules = find(overlays[overlay], "NetworkPolicy")["spec"]["ingress"]
    (opened,) = [rule for rule in rules if any("ipBlock" in peer for peer in rule["from"])]
    assert [port["port"] for port in opened["ports"]] == [9000]
    addresses = {peer["ipBlock"]["cidr"] for peer in opened["from"]}
    # An internal load balancer's callers come from the cloud's own networks.
    assert addresses >= {"10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "100.64.0.0/10"}
    assert addresses.issuperset({"35.191.0.0/16", "130.211.0.0/22"}) == (overlay == "gke")
    kind, part = probed
    assert part in str(find(overlays[overlay], kind))


def test_google_waits_as_long_as_the_gateway(overlays: dict[str, list[Object]]) -> None:
    backend = find(overlays["gke"], "BackendConfig")
    assert backend["spec"]["timeoutSec"] == 600
    assert backend["spec"]["healthCheck"]["requestPath"] == "/health"
    assert backend["metadata"]["namespace"] == NAME
    annotations = find(overlays["gke"], "Service")["metadata"]["annotations"]
    assert annotations["cloud.google.com/backend-config"] == f'{{"default": "{NAME}"}}'


def test_amazons_role_for_a_bucket(overlays: dict[str, list[Object]], tmp_path: Path) -> None:
    blocks = [
        (peer["ipBlock"]["cidr"], rule["ports"][0]["port"])
        for rule in find(overlays["eks"], "NetworkPolicy")["spec"]["egress"]
        for peer in rule.get("to", [])
        if "ipBlock" in peer
    ]
    assert ("169.254.170.23/32", 80) in blocks
    without = replace(EVERYTHING, delivery="image", source=None, namespace="there")
    objects = build(write(tmp_path, without) / "overlays" / "eks")
    assert "169.254.170.23" not in str(objects)
    # A namespace that isn't ours is its owner's to label.
    assert not [each for each in objects if each["kind"] == "Namespace"]


def sku(objects: list[Object]) -> list[dict[str, Any]]:
    tolerations = pod_of(objects).get("tolerations", [])
    return [each for each in tolerations if each["key"] == "sku"]


@pytest.mark.parametrize("accelerator", ["gpu", "mig"])
def test_azures_gpu_nodes(full_folder: Path, overlays: dict[str, list[Object]], accelerator: str) -> None:
    assert sku(overlays["aks"]) == []
    objects = compose(full_folder, accelerator, "aks")
    assert sku(objects) == [{"key": "sku", "operator": "Equal", "value": "gpu", "effect": "NoSchedule"}]
    assert len(pod_of(objects)["tolerations"]) == 2


def test_googles_gpu_nodes(full_folder: Path, overlays: dict[str, list[Object]]) -> None:
    assert "nodeSelector" not in pod_of(overlays["gke"])
    pod = pod_of(compose(full_folder, "gpu", "gke"))
    assert pod["nodeSelector"] == {GOOGLE_PRODUCT: "NVIDIA-L4"}


def test_googles_slices(full_folder: Path, plain_folder: Path) -> None:
    objects = compose(full_folder, "mig", "gke")
    limits = container_of(objects)["resources"]["limits"]
    assert limits[GPU] == "1"
    assert not [name for name in limits if "mig" in name]
    size = {"cloud.google.com/gke-gpu-partition-size": "1g.10gb"}
    assert pod_of(objects)["nodeSelector"] == {GOOGLE_PRODUCT: "NVIDIA-L4", **size}
    assert pod_of(compose(plain_folder, "mig", "gke"))["nodeSelector"] == size
