"""How pods, what selects them, what scales them and what runs in them belong together."""

from collections.abc import Iterator, Mapping
from typing import Any, Final

from deploykit.deploy.check.amounts import whole
from deploykit.deploy.check.commands import Server, parse
from deploykit.deploy.check.manifests import Container, Manifests, Pods, Resource, mapping, sequence
from deploykit.deploy.check.selecting import fits

SCALERS: Final = ("HorizontalPodAutoscaler", "ScaledObject")
SERVING: Final = ("serve", "gateway", "tritonserver")
"""Commands that go on until they are ended."""
_PORTS: Final[Mapping[str, frozenset[str]]] = {
    "serve": frozenset({"http", "grpc", "metrics", "health"}), "gateway": frozenset({"openai"}),
}  # fmt: skip


def servers(pods: Pods, *kinds: str) -> Iterator[tuple[Container, Server]]:
    """Yield the containers whose command line says what they serve."""
    for container in pods.containers:
        server = parse(container)
        if server is not None and server.kind in (kinds or SERVING):
            yield container, server


def is_sidecar(container: Container) -> bool:
    """Return whether an init container stays beside the others."""
    return container.kind == "initContainers" and container.body.get("restartPolicy") == "Always"


def stays(container: Container) -> bool:
    """Return whether a container runs for as long as its pod."""
    return container.kind == "containers" or is_sidecar(container)


def is_open(pods: Pods) -> bool:
    """Return whether something in the pod may listen on ports that its manifests don't tell."""
    return any(stays(each) and not says_its_ports(parse(each)) for each in pods.containers)


def says_its_ports(server: Server | None) -> bool:
    """Return whether all ports that a process listens on are known."""
    if server is None or server.kind == "pull":
        return False
    wanted = _PORTS.get(server.kind, frozenset(server.paths))
    return wanted <= server.ports.keys() and 0 not in server.ports.values()


def listeners(pods: Pods, port: int) -> list[tuple[Container, Server, str]]:
    """Return who is known to listen on a port of a pod, with the port's name in its command."""
    return [
        (container, server, name)
        for container, server in servers(pods)
        if stays(container)
        for name, number in server.ports.items()
        if number == port
    ]


def named_port(container: Container, name: str) -> Mapping[str, Any] | None:
    """Return the port of that name that a container declares."""
    return next((port for port in declared(container) if port.get("name") == name), None)


def declared(container: Container) -> list[Mapping[str, Any]]:
    """Return the ports that a container declares."""
    return [mapping(port) for port in sequence(container.body.get("ports"))]


def port_number(pods: Pods, value: object) -> int | None:
    """Return the number of a port of a pod that is given by number or by name."""
    if isinstance(value, str):
        found = (named_port(container, value) for container in pods.containers if stays(container))
        return next((whole(port.get("containerPort")) for port in found if port is not None), None)
    return whole(value)


def selected(manifests: Manifests, selector: object, namespace: str) -> list[Pods]:
    """Return the pods in a namespace that a label selector takes."""
    return [pods for pods in manifests.pods() if pods.resource.namespace == namespace and fits(selector, pods.labels)]


def behind(manifests: Manifests, service: Resource) -> list[Pods]:
    """Return the pods that a Service sends to."""
    selector = mapping(service.spec.get("selector"))
    return selected(manifests, {"matchLabels": selector}, service.namespace) if selector else []


def services_of(manifests: Manifests, pods: Pods) -> list[Resource]:
    """Return the Services that send to some pods."""
    return [
        service
        for service in manifests.of_kind("Service")
        if any(each.resource is pods.resource for each in behind(manifests, service))
    ]


def target(scaler: Resource) -> tuple[str, str]:
    """Return kind and name of what a scaler scales."""
    reference = mapping(scaler.spec.get("scaleTargetRef"))
    return str(reference.get("kind") or "Deployment"), str(reference.get("name") or "")


def scalers_of(manifests: Manifests, resource: Resource) -> list[Resource]:
    """Return what sets an object's number of pods."""
    return [
        scaler
        for scaler in manifests.of_kind(*SCALERS)
        if scaler.namespace == resource.namespace and target(scaler) == (resource.kind, resource.name)
    ]


def floor(scaler: Resource) -> int | None:
    """Return the fewest pods that a scaler leaves."""
    field, default = ("minReplicas", 1) if scaler.kind == "HorizontalPodAutoscaler" else ("minReplicaCount", 0)
    return whole(scaler.spec.get(field, default))


def ceiling(scaler: Resource) -> int | None:
    """Return the most pods that a scaler makes."""
    if scaler.kind == "HorizontalPodAutoscaler":
        return whole(scaler.spec.get("maxReplicas"))
    return whole(scaler.spec.get("maxReplicaCount", 100))


def fewest(manifests: Manifests, resource: Resource) -> int | None:
    """Return the fewest pods that an object is meant to have; None where the manifests don't say."""
    if resource.kind == "Pod":
        return 1
    if resource.kind not in ("Deployment", "StatefulSet", "ReplicaSet"):
        return None
    if scalers := scalers_of(manifests, resource):
        return min((number for each in scalers if (number := floor(each)) is not None), default=None)
    return whole(resource.spec.get("replicas", 1))


def most(manifests: Manifests, resource: Resource) -> int | None:
    """Return the most pods that an object is meant to have; None where the manifests don't say."""
    if scalers := scalers_of(manifests, resource):
        return max((number for each in scalers if (number := ceiling(each)) is not None), default=None)
    return fewest(manifests, resource)


def called(server: Server) -> str:
    """Return what a server is called on a command line."""
    return server.kind if server.kind == "tritonserver" else f"deploykit {server.kind}"
