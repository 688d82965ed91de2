"""Rules on ports: of containers, of Services, and of what listens behind them."""

import re
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any, Final

from deploykit.deploy.check.amounts import whole
from deploykit.deploy.check.finding import Finding
from deploykit.deploy.check.manifests import Container, Manifests, Pods, Resource, mapping, sequence
from deploykit.deploy.check.workloads import (
    behind,
    declared,
    is_open,
    listeners,
    port_number,
    says_its_ports,
    servers,
    stays,
)
from deploykit.deploy.facts import ModelFacts
from deploykit.deploy.grammar import LABEL
from deploykit.listening import is_loopback

_NAME: Final = re.compile(r"(?=.*[a-z])(?!.*--)[a-z0-9]([a-z0-9-]{0,13}[a-z0-9])?")
"""IANA_SVC_NAME of the API: 1 to 15 of a-z, 0-9 and '-', a letter among them."""
_NODE_PORTS: Final = range(30000, 32768)
"""`--service-node-port-range` of the API server by default."""
_OUTSIDE: Final = ("NodePort", "LoadBalancer")


def port_range(manifests: Manifests, _facts: ModelFacts | None) -> Iterator[Finding]:
    """A port outside 1 to 65535: the API server refuses it."""
    for resource, field, value in (*_container_numbers(manifests), *_service_numbers(manifests)):
        if not 1 <= value <= 65535:
            why = "ports are 1 to 65535; the API server refuses it"
            yield resource.find("port-range", field, value, why, "write the port that the server listens on")


def container_port_name(manifests: Manifests, _facts: ModelFacts | None) -> Iterator[Finding]:
    """A container port's name that is too long, has signs that names may not have, or is there twice."""
    for pods, container, path, port in _container_ports(manifests):
        name = port.get("name")
        if name is None:
            continue
        field = f"{path}.name"
        if not isinstance(name, str) or not _NAME.fullmatch(name):
            why = "a port's name is 1 to 15 of a-z, 0-9 and '-', with a letter; the API server refuses it"
            yield pods.resource.find("container-port-name", field, name, why, "write a shorter or plainer name")
        elif [each.get("name") for each in declared(container)].index(name) != _index(path):
            why = f"container {container.name!r} has a port of that name already; the API server refuses it"
            yield pods.resource.find("container-port-name", field, name, why, "give each port a name of its own")


def port_name_ambiguous(manifests: Manifests, _facts: ModelFacts | None) -> Iterator[Finding]:
    """A name that two containers of a pod have for different ports: a Service takes the first."""
    for pods in manifests.pods():
        seen: dict[str, tuple[object, str]] = {}
        for path, port in (each for container in pods.containers for each in _numbered(container)):
            name, number = port.get("name"), port.get("containerPort")
            other = seen.setdefault(str(name), (number, path)) if name else None
            if other and other[0] != number:
                yield pods.resource.find(
                    "port-name-ambiguous", f"{path}.name", name,
                    f"{other[1]} has that name, too, for {other[0]}: a Service or monitor that names it takes the "
                    "first",
                    "give each port of a pod a name of its own", level="warning",
                )  # fmt: skip


def service_ports(manifests: Manifests, _facts: ModelFacts | None) -> Iterator[Finding]:
    """A Service's ports without names where there are several, or with one name twice: the API server refuses them."""
    for service in manifests.of_kind("Service"):
        ports = [mapping(port) for port in sequence(service.spec.get("ports"))]
        names = Counter(str(port.get("name")) for port in ports)
        for index, port in enumerate(ports):
            name, field = port.get("name"), f"spec.ports[{index}]"
            if name is None and len(ports) > 1:
                why = "a Service of several ports needs a name for each; the API server refuses it"
                yield service.find("service-ports", f"{field}.name", None, why, "name it")
            elif name is not None and (not isinstance(name, str) or not LABEL.fullmatch(name)):
                why = "the name must be 1 to 63 of a-z, 0-9 and '-'; the API server refuses it"
                yield service.find("service-ports", f"{field}.name", name, why, "write a plainer name")
            elif name is not None and names[str(name)] > 1:
                why = "another port of this Service has that name; the API server refuses it"
                yield service.find("service-ports", f"{field}.name", name, why, "give each port a name of its own")


def service_without_ports(manifests: Manifests, _facts: ModelFacts | None) -> Iterator[Finding]:
    """A Service that has no port, though it is neither headless nor a mere name: the API server refuses it."""
    for service in manifests.of_kind("Service"):
        spec = service.spec
        if not sequence(spec.get("ports")) and spec.get("clusterIP") != "None" and spec.get("type") != "ExternalName":
            why = "the API server wants a port for each Service but headless ones"
            yield service.find("service-without-ports", "spec.ports", None, why, "add the port that callers use")


def service_type(manifests: Manifests, _facts: ModelFacts | None) -> Iterator[Finding]:
    """Fields of a Service that don't go with its type: the API server refuses them."""
    for service in manifests.of_kind("Service"):
        spec = service.spec
        kind = str(spec.get("type") or "ClusterIP")
        if spec.get("clusterIP") == "None" and kind in _OUTSIDE:
            why = f"a headless Service has no address that type {kind} could forward; the API server refuses it"
            yield service.find("service-type", "spec.type", kind, why, "write type: ClusterIP, or take clusterIP out")
        if kind == "ExternalName" and not spec.get("externalName"):
            why = "a Service of type ExternalName is nothing but that name; the API server refuses it"
            yield service.find("service-type", "spec.externalName", None, why, "write the DNS name")
        if kind not in _OUTSIDE and spec.get("externalTrafficPolicy") is not None:
            why = f"it is for traffic from outside, and type {kind} takes none; the API server refuses it"
            field = "spec.externalTrafficPolicy"
            yield service.find("service-type", field, spec["externalTrafficPolicy"], why, "take it out")
        if spec.get("sessionAffinityConfig") and spec.get("sessionAffinity", "None") != "ClientIP":
            why = "it needs sessionAffinity: ClientIP; the API server refuses it"
            yield service.find("service-type", "spec.sessionAffinityConfig", "", why, "take it out")


def node_port(manifests: Manifests, _facts: ModelFacts | None) -> Iterator[Finding]:
    """A nodePort outside 30000 to 32767, taken twice, or of a Service that isn't reached through nodes."""
    seen: dict[tuple[int, str], str] = {}
    for service in manifests.of_kind("Service"):
        kind = service.spec.get("type") or "ClusterIP"
        for index, port in enumerate(map(mapping, sequence(service.spec.get("ports")))):
            number = whole(port.get("nodePort"))
            if not number:
                continue
            other = seen.setdefault((number, str(port.get("protocol", "TCP"))), f"{service.title}, port {index}")
            if kind not in _OUTSIDE:
                why, remedy = f"type {kind} has no port on nodes; the API server refuses it", "write type: NodePort"
            elif number not in _NODE_PORTS:
                why = "nodes forward 30000 to 32767 unless their API server was told otherwise; it refuses others"
                remedy = "write one of those, or none: the API server chooses one"
            elif other != f"{service.title}, port {index}":
                why, remedy = f"{other} has it already; the API server refuses it", "choose another, or none"
            else:
                continue
            yield service.find("node-port", f"spec.ports[{index}].nodePort", number, why, remedy)


def headless_port(manifests: Manifests, _facts: ModelFacts | None) -> Iterator[Finding]:
    """A headless Service whose port differs from its target: nothing translates it."""
    for service in manifests.of_kind("Service"):
        if service.spec.get("clusterIP") != "None":
            continue
        for index, port, number in _targets(manifests, service):
            if number is not None and number != port.get("port"):
                yield service.find(
                    "headless-port", f"spec.ports[{index}].port", port.get("port"),
                    "callers of a headless Service get the pods' addresses, and the pods listen on targetPort "
                    f"{number}",
                    f"write port: {number}", level="warning",
                )  # fmt: skip


def service_port_name(manifests: Manifests, _facts: ModelFacts | None) -> Iterator[Finding]:
    """A Service that sends to a port by a name which no container of its pods has: it sends nowhere."""
    for service in manifests.of_kind("Service"):
        for index, port in enumerate(map(mapping, sequence(service.spec.get("ports")))):
            value = port.get("targetPort")
            pods = behind(manifests, service)
            if not isinstance(value, str) or not pods or any(port_number(each, value) is not None for each in pods):
                continue
            every = (declared(container) for each in pods for container in each.containers)
            names = dict.fromkeys(str(one["name"]) for ports_ in every for one in ports_ if one.get("name"))
            yield service.find(
                "service-port-name", f"spec.ports[{index}].targetPort", value,
                f"no container of {pods[0].resource.title} declares a port of that name (there are: "
                f"{', '.join(names) or 'none'}): connections go nowhere",
                "name one of those, or write the number",
            )  # fmt: skip


def service_target_closed(manifests: Manifests, _facts: ModelFacts | None) -> Iterator[Finding]:
    """A Service that sends to a port on which nothing in its pods listens: connections are refused."""
    for service in manifests.of_kind("Service"):
        for index, port in enumerate(map(mapping, sequence(service.spec.get("ports")))):
            value = port.get("targetPort", port.get("port"))
            for pods in behind(manifests, service):
                number = port_number(pods, value)
                known = [(container, server) for container, server in servers(pods) if stays(container)]
                if number is None or not known or is_open(pods) or listeners(pods, number):
                    continue
                ports = ", ".join(f"{name} {each}" for _, server in known for name, each in server.ports.items())
                yield service.find(
                    "service-target-closed", f"spec.ports[{index}].targetPort", value,
                    f"nothing listens on {number} in {pods.resource.title}, whose commands listen on {ports}: "
                    "connections are refused",
                    "write one of those",
                )  # fmt: skip


def service_protocol(manifests: Manifests, _facts: ModelFacts | None) -> Iterator[Finding]:
    """A Service that sends UDP or SCTP to a server that speaks TCP."""
    for service in manifests.of_kind("Service"):
        for index, port in enumerate(map(mapping, sequence(service.spec.get("ports")))):
            protocol = port.get("protocol", "TCP")
            for pods in behind(manifests, service) if protocol != "TCP" else ():
                if listeners(pods, port_number(pods, port.get("targetPort", port.get("port"))) or 0):
                    why = f"{pods.resource.title} speaks TCP there"
                    yield service.find("service-protocol", f"spec.ports[{index}].protocol", protocol, why, "write TCP")


def service_reaches_loopback(manifests: Manifests, _facts: ModelFacts | None) -> Iterator[Finding]:
    """A Service to a server that listens on its pod's loopback alone: connections are refused."""
    for service in manifests.of_kind("Service"):
        for index, port in enumerate(map(mapping, sequence(service.spec.get("ports")))):
            value = port.get("targetPort", port.get("port"))
            for pods in behind(manifests, service):
                for container, server, name in listeners(pods, port_number(pods, value) or 0):
                    if name in server.hosts and is_loopback(server.hosts[name]):
                        default = "" if "--host" in server.options else ", its default"
                        yield service.find(
                            "service-reaches-loopback", f"spec.ports[{index}].targetPort", value,
                            f"container {container.name!r} of {pods.resource.title} listens on "
                            f"{server.hosts[name]}{default}: "
                            "nobody outside its pod reaches it",
                            "add --host=0.0.0.0 to its command",
                        )  # fmt: skip


def declared_port_closed(manifests: Manifests, _facts: ModelFacts | None) -> Iterator[Finding]:
    """A declared port on which the container's command doesn't listen."""
    for pods in manifests.pods():
        for container, server in servers(pods):
            for path, port in _numbered(container):
                number = port.get("containerPort")
                if (
                    says_its_ports(server)
                    and number not in server.ports.values()
                    and not listeners(pods, whole(number) or 0)
                ):
                    listens = ", ".join(f"{name} {each}" for name, each in server.ports.items())
                    yield pods.resource.find(
                        "declared-port-closed", f"{path}.containerPort", number,
                        f"the container's command doesn't listen there, but on {listens}", "write one of those",
                        level="warning",
                    )  # fmt: skip


def port_taken(manifests: Manifests, _facts: ModelFacts | None) -> Iterator[Finding]:
    """Two servers of a pod on one port, or one server with two uses for it: the second can't listen."""
    for pods in manifests.pods():
        seen: dict[int, str] = {}
        for container, server in servers(pods):
            for name, number in server.ports.items() if stays(container) else ():
                mine = f"{name} of container {container.name!r}"
                other = seen.setdefault(number, mine) if number else mine
                if other != mine:
                    flag = {"gateway": "--port"}.get(server.kind, f"--{name}-port")
                    yield pods.resource.find(
                        "port-taken", f"{container.path}.{server.field(flag)}", number,
                        f"{mine} and {other} are the same port, and a pod's containers share their addresses: the "
                        "second ends with 'address already in use'",
                        f"give {flag} another number",
                    )  # fmt: skip


def port_declared_twice(manifests: Manifests, _facts: ModelFacts | None) -> Iterator[Finding]:
    """A port that two containers of a pod declare: only one of them can listen there."""
    for pods in manifests.pods():
        seen: dict[tuple[int | None, str], str] = {}
        for container in filter(stays, pods.containers):
            for path, port in _numbered(container):
                key = (whole(port.get("containerPort")), str(port.get("protocol", "TCP")))
                other = seen.setdefault(key, path)
                if other != path and key[0] is not None:
                    yield pods.resource.find(
                        "port-declared-twice", f"{path}.containerPort", key[0],
                        f"{other} is the same port, and a pod's containers share their "
                        "addresses", "take one of them out",
                        level="warning",
                    )  # fmt: skip


def host_port(manifests: Manifests, _facts: ModelFacts | None) -> Iterator[Finding]:
    """A hostPort that is taken twice in a pod, or differs from the containerPort on the node's own network: refused."""
    for pods in manifests.pods():
        seen: set[tuple[object, ...]] = set()
        for path, port in (each for container in pods.containers for each in _numbered(container)):
            number, inner = whole(port.get("hostPort")), port.get("containerPort")
            key = (number, str(port.get("protocol", "TCP")), str(port.get("hostIP", "")))
            if not number:
                continue
            if pods.spec.get("hostNetwork") is True and number != inner:
                why = f"with hostNetwork it must be containerPort, {inner}; the API server refuses it"
                yield pods.resource.find("host-port", f"{path}.hostPort", number, why, f"write {inner}")
            if key in seen:
                why = "another port of the pod has it; the API server refuses it"
                yield pods.resource.find("host-port", f"{path}.hostPort", number, why, "take one of them out")
            seen.add(key)


def port_unknowable(manifests: Manifests, _facts: ModelFacts | None) -> Iterator[Finding]:
    """A server in a pod that takes a free port: no Service and no probe can know it."""
    for pods in manifests.pods():
        for container, server in servers(pods):
            for name, number in server.ports.items():
                if number == 0:
                    flag = "--port" if server.kind == "gateway" else f"--{name}-port"
                    why = "it takes any free port, which no Service, probe or policy can name"
                    yield pods.resource.find(
                        "port-unknowable", f"{container.path}.{server.field(flag)}", 0, why, "write a number",
                        level="warning",
                    )  # fmt: skip


def port_privileged(manifests: Manifests, _facts: ModelFacts | None) -> Iterator[Finding]:
    """A port below 1024 for a process that isn't root: not every runtime allows it."""
    for pods in manifests.pods():
        for container, server in servers(pods):
            for name, number in server.ports.items() if _is_not_root(pods, container) else ():
                if 0 < number < 1024:
                    flag = "--port" if server.kind == "gateway" else f"--{name}-port"
                    yield pods.resource.find(
                        "port-privileged", f"{container.path}.{server.field(flag)}", number,
                        "ports below 1024 are root's, unless the node's container runtime opens them, and this "
                        "container isn't",
                        "listen above 1023 and let the Service translate", level="warning",
                    )  # fmt: skip


def _is_not_root(pods: Pods, container: Container) -> bool:
    pod, own = mapping(pods.spec.get("securityContext")), mapping(container.body.get("securityContext"))
    user = own.get("runAsUser", pod.get("runAsUser"))
    return bool(user) or (user is None and own.get("runAsNonRoot", pod.get("runAsNonRoot")) is True)


def _numbered(container: Container) -> Iterator[tuple[str, Mapping[str, Any]]]:
    for index, port in enumerate(declared(container)):
        yield f"{container.path}.ports[{index}]", port


def _index(path: str) -> int:
    return int(path.rpartition("[")[2].rstrip("]"))


def _container_ports(manifests: Manifests) -> Iterator[tuple[Pods, Container, str, Mapping[str, Any]]]:
    for pods in manifests.pods():
        for container in pods.containers:
            for path, port in _numbered(container):
                yield pods, container, path, port


def _container_numbers(manifests: Manifests) -> Iterator[tuple[Resource, str, int]]:
    for pods, _, path, port in _container_ports(manifests):
        for field in ("containerPort", "hostPort"):
            value = whole(port.get(field))
            # A hostPort of 0 is none.
            if value is not None and not (field == "hostPort" and value == 0):
                yield pods.resource, f"{path}.{field}", value


def _service_numbers(manifests: Manifests) -> Iterator[tuple[Resource, str, int]]:
    for service in manifests.of_kind("Service"):
        for index, port in enumerate(map(mapping, sequence(service.spec.get("ports")))):
            for field in ("port", "targetPort"):
                value = whole(port.get(field))
                if value is not None and not (field == "targetPort" and value == 0):
                    yield service, f"spec.ports[{index}].{field}", value


def _targets(manifests: Manifests, service: Resource) -> Iterator[tuple[int, Mapping[str, Any], int | None]]:
    for index, port in enumerate(map(mapping, sequence(service.spec.get("ports")))):
        value = port.get("targetPort", port.get("port"))
        pods = behind(manifests, service)
        yield index, port, port_number(pods[0], value) if pods else whole(value)


RULES: Final = (
    port_range, container_port_name, port_name_ambiguous, service_ports, service_without_ports, service_type,
    node_port, headless_port, service_port_name, service_target_closed, service_protocol, service_reaches_loopback,
    declared_port_closed, port_taken, port_declared_twice, host_port, port_unknowable, port_privileged,
)  # fmt: skip
