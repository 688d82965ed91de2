"""Rules on who may and can reach whom: the gateway's Triton, and network policies."""

import ipaddress
from collections.abc import Iterator, Mapping
from typing import Any, Final

from deploykit.deploy.check.amounts import whole
from deploykit.deploy.check.endpoints import Endpoint, endpoints, service_named
from deploykit.deploy.check.finding import Finding
from deploykit.deploy.check.manifests import Manifests, Pods, Resource, mapping, sequence
from deploykit.deploy.check.selecting import fits
from deploykit.deploy.check.workloads import (
    behind,
    is_open,
    listeners,
    named_port,
    port_number,
    selected,
    servers,
    stays,
)
from deploykit.deploy.facts import ModelFacts

_KIND: Final = "NetworkPolicy"
_BUILT_IN: Final = ("name", "metadata.name", "namespace")
"""Keys that people take for the label of a namespace that Kubernetes sets."""


def gateway_without_triton(manifests: Manifests, _facts: ModelFacts | None) -> Iterator[Finding]:
    """A gateway that asks a port of its own pod where no Triton answers gRPC."""
    for endpoint in _asked(manifests):
        pods = endpoint.pods
        if not endpoint.is_own or endpoint.port is None:
            continue
        names = [name for _, _, name in listeners(pods, endpoint.port)]
        if names and "grpc" not in names:
            why = f"that is the port {names[0]} of its pod, and Triton's gRPC is another"
        elif not names and not is_open(pods):
            why = "nothing in its pod listens there"
        else:
            continue
        ports = [str(server.ports["grpc"]) for _, server in servers(pods) if "grpc" in server.ports]
        remedy = f"write --triton=localhost:{ports[0]}" if ports else "name the Service of Triton's pods"
        why = f"{why}: every request is answered with 503"
        yield pods.resource.find("gateway-without-triton", endpoint.field, endpoint.text, why, remedy)


def gateway_service_port(manifests: Manifests, _facts: ModelFacts | None) -> Iterator[Finding]:
    """A gateway that asks a Service for a port that it doesn't have, or that isn't Triton's gRPC."""
    for endpoint in _asked(manifests):
        pods = endpoint.pods
        service = service_named(manifests, endpoint.host, pods.resource.namespace)
        if service is None or endpoint.port is None:
            continue
        port = _port(service, endpoint.port)
        headless = service.spec.get("clusterIP") == "None"
        if port is None and not headless:
            numbers = ", ".join(str(mapping(each).get("port")) for each in sequence(service.spec.get("ports")))
            why = f"{service.title} has the ports {numbers}"
            yield pods.resource.find(
                "gateway-service-port", endpoint.field, endpoint.text, why, "write its port for gRPC"
            )
            continue
        target = endpoint.port if headless or port is None else port.get("targetPort", port.get("port"))
        for each in behind(manifests, service):
            names = [name for _, _, name in listeners(each, port_number(each, target) or 0)]
            if names and "grpc" not in names:
                why = (
                    f"behind {service.title} that is the port {names[0]} of {each.resource.title}, which isn't "
                    "Triton's gRPC"
                )
                yield pods.resource.find(
                    "gateway-service-port", endpoint.field, endpoint.text, why, "write its port for gRPC"
                )


def gateway_unknown_host(manifests: Manifests, _facts: ModelFacts | None) -> Iterator[Finding]:
    """A gateway that asks a host which no Service of the set is, though it is named as one."""
    for endpoint in _asked(manifests):
        host, namespace = endpoint.host, endpoint.pods.resource.namespace
        local = "." not in host or ".svc" in host
        if endpoint.is_name and local and service_named(manifests, host, namespace) is None:
            services = ", ".join(each.name for each in manifests.of_kind("Service")) or "none"
            yield endpoint.pods.resource.find(
                "gateway-unknown-host", endpoint.field, endpoint.text,
                f"no Service of that name is among the manifests (there are: {services}); if it isn't in the cluster "
                "either, every request is answered with 503",
                "name the Service of Triton's pods", level="warning",
            )  # fmt: skip


def policy_ports(manifests: Manifests, _facts: ModelFacts | None) -> Iterator[Finding]:
    """A policy's port that can't be one: out of range, or a range without a beginning."""
    for policy, path, port in _ports(manifests):
        number, end = whole(port.get("port")), port.get("endPort")
        if number is not None and not 1 <= number <= 65535:
            why = "ports are 1 to 65535; the API server refuses it"
            yield policy.find("policy-ports", f"{path}.port", number, why, "write a port")
        elif end is not None and (number is None or (whole(end) or 0) < number):
            why = "a range needs a port by number before it, and no higher; the API server refuses it"
            yield policy.find("policy-ports", f"{path}.endPort", end, why, "write port: FIRST, endPort: LAST")


def policy_port_name(manifests: Manifests, _facts: ModelFacts | None) -> Iterator[Finding]:
    """A policy that lets in a port by a name which its pods don't have: it lets in nothing."""
    for policy, path, port in _ports(manifests, "ingress"):
        name = port.get("port")
        pods = selected(manifests, policy.spec.get("podSelector"), policy.namespace)
        if isinstance(name, str) and pods and not any(_has_port(each, name) for each in pods):
            why = f"{pods[0].resource.title} declares no port of that name, so that the policy lets in nothing there"
            yield policy.find(
                "policy-port-name", f"{path}.port", name, why, "name a port of the pods, or write its number"
            )


def policy_types(manifests: Manifests, _facts: ModelFacts | None) -> Iterator[Finding]:
    """Rules of a policy for a direction that its policyTypes leave out: they mean nothing."""
    for policy in manifests.of_kind(_KIND):
        types = policy.spec.get("policyTypes")
        for direction in ("ingress", "egress"):
            if isinstance(types, list) and direction.capitalize() not in types and policy.spec.get(direction):
                yield policy.find(
                    "policy-types", "spec.policyTypes", ", ".join(map(str, types)),
                    f"spec.{direction} has rules, which count only if {direction.capitalize()} stands here: all "
                    f"{direction} is "
                    "free",
                    f"add {direction.capitalize()}", level="warning",
                )  # fmt: skip


def policy_peer(manifests: Manifests, _facts: ModelFacts | None) -> Iterator[Finding]:
    """A peer of a policy that says nothing, or an empty list of them, which means everybody."""
    for policy, path, rule in _rules(manifests):
        for side in ("from", "to"):
            if rule.get(side) == []:
                why = "an empty list counts as none, and no list means everybody, not nobody"
                remedy = "take it out if that is meant; else write whom"
                yield policy.find("policy-peer", f"{path}.{side}", "[]", why, remedy, level="warning")
            for index, peer in enumerate(sequence(rule.get(side))):
                if not peer:
                    why = "a peer needs podSelector, namespaceSelector or ipBlock; the API server refuses it"
                    remedy = "write podSelector: {} for all pods of this namespace"
                    yield policy.find("policy-peer", f"{path}.{side}[{index}]", "{}", why, remedy)


def policy_addresses(manifests: Manifests, _facts: ModelFacts | None) -> Iterator[Finding]:
    """A block of addresses that is none, or exceptions that lie outside of it: the API server refuses them."""
    for policy, path, rule in _rules(manifests):
        for side in ("from", "to"):
            for index, peer in enumerate(map(mapping, sequence(rule.get(side)))):
                block, field = mapping(peer.get("ipBlock")), f"{path}.{side}[{index}].ipBlock"
                network = _network(block.get("cidr"))
                if block and network is None:
                    why = "it is no block of addresses such as 10.0.0.0/8; the API server refuses it"
                    yield policy.find("policy-addresses", f"{field}.cidr", block.get("cidr"), why, "write ADDRESS/BITS")
                for place, value in enumerate(sequence(block.get("except"))):
                    inner = _network(value)
                    if network is None or (inner is not None and _lies_in(inner, network)):
                        continue
                    why = f"it isn't a part of {block.get('cidr')}; the API server refuses it"
                    yield policy.find("policy-addresses", f"{field}.except[{place}]", value, why, "write a part of it")


def policy_namespace_label(manifests: Manifests, _facts: ModelFacts | None) -> Iterator[Finding]:
    """A namespace selected by a label that Kubernetes doesn't set: it may fit none."""
    for policy, path, rule in _rules(manifests):
        for side in ("from", "to"):
            for index, peer in enumerate(map(mapping, sequence(rule.get(side)))):
                selector = mapping(peer.get("namespaceSelector"))
                for key in set(mapping(selector.get("matchLabels"))) & set(_BUILT_IN):
                    spaces = manifests.of_kind("Namespace")
                    if not any(
                        fits(selector, mapping(mapping(each.body.get("metadata")).get("labels"))) for each in spaces
                    ):
                        yield policy.find(
                            "policy-namespace-label", f"{path}.{side}[{index}].namespaceSelector.matchLabels.{key}",
                            mapping(selector.get("matchLabels"))[key],
                            "namespaces have the label kubernetes.io/metadata.name of themselves, and others only if "
                            "somebody has set them",
                            "write kubernetes.io/metadata.name", level="warning",
                        )  # fmt: skip


def policy_shuts_service(manifests: Manifests, _facts: ModelFacts | None) -> Iterator[Finding]:
    """A policy that lets nobody reach a port that a Service of the set sends to."""
    for service in manifests.of_kind("Service"):
        for index, port in enumerate(map(mapping, sequence(service.spec.get("ports")))):
            for pods in behind(manifests, service):
                number = port_number(pods, port.get("targetPort", port.get("port")))
                policies = isolating(manifests, pods, "Ingress")
                if number is None or not policies or pods.spec.get("hostNetwork") is True:
                    continue
                if not any(admits(policy, pods, number, "ingress") for policy in policies):
                    yield policies[0].find(
                        "policy-shuts-service", "spec.ingress", "",
                        f"{service.title} sends its port {port.get('port')} to {number} of {pods.resource.title}, and "
                        f"no policy lets anybody in there (spec.ports[{index}]): connections time out",
                        f"let {number} in, or take it out of the Service",
                    )  # fmt: skip


def policy_shuts_gateway(manifests: Manifests, _facts: ModelFacts | None) -> Iterator[Finding]:
    """A policy that keeps the gateway of the set from its Triton."""
    for endpoint in _asked(manifests):
        mine = endpoint.pods
        service = service_named(manifests, endpoint.host, mine.resource.namespace)
        if service is None or endpoint.port is None:
            continue
        port = _port(service, endpoint.port) or {}
        for pods in behind(manifests, service):
            number = port_number(pods, port.get("targetPort", endpoint.port))
            policies = isolating(manifests, pods, "Ingress")
            if number is None or not policies or any(_lets_in(policy, pods, number, mine) for policy in policies):
                continue
            yield policies[0].find(
                "policy-shuts-gateway", "spec.ingress", "",
                f"the gateway of {mine.resource.title} asks {endpoint.text}, and no policy lets its pods in to "
                f"{number} of "
                f"{pods.resource.title}: every request is answered with 503",
                "add a rule from a podSelector with the gateway's labels",
            )  # fmt: skip


def policy_shuts_names(manifests: Manifests, _facts: ModelFacts | None) -> Iterator[Finding]:
    """Egress without DNS for a pod that connects to names: they can't be resolved."""
    for endpoint in endpoints(manifests):
        policies = isolating(manifests, endpoint.pods, "Egress")
        if not endpoint.is_name or not policies or endpoint.pods.spec.get("hostNetwork") is True:
            continue
        if not any(admits(policy, None, 53, "egress", protocol="UDP") for policy in policies):
            yield policies[0].find(
                "policy-shuts-names", "spec.egress", "",
                f"container {endpoint.container.name!r} of {endpoint.pods.resource.title} connects to "
                f"{endpoint.text}, and no "
                "policy lets it ask DNS (UDP 53)",
                "add a rule to the cluster's DNS: ports: [{protocol: UDP, port: 53}, {protocol: TCP, port: 53}]",
            )  # fmt: skip


def policy_shuts_endpoint(manifests: Manifests, _facts: ModelFacts | None) -> Iterator[Finding]:
    """Egress that leaves out the port which a container connects to."""
    for endpoint in endpoints(manifests):
        policies = isolating(manifests, endpoint.pods, "Egress")
        if endpoint.is_own or endpoint.port is None or not policies:
            continue
        # A policy sees the port of the pod behind a Service, not the Service's.
        service = service_named(manifests, endpoint.host, endpoint.pods.resource.namespace)
        if service is None and not any(admits(policy, None, endpoint.port, "egress") for policy in policies):
            yield policies[0].find(
                "policy-shuts-endpoint", "spec.egress", "",
                f"container {endpoint.container.name!r} of {endpoint.pods.resource.title} connects to "
                f"{endpoint.text}, and no "
                f"policy lets it out to port {endpoint.port}",
                f"add a rule for port {endpoint.port}",
                level="warning" if endpoint.is_name and ".svc" in endpoint.host else "error",
            )  # fmt: skip


def names_on_host_network(manifests: Manifests, _facts: ModelFacts | None) -> Iterator[Finding]:
    """A pod on the node's network that asks for the cluster's names: the node's DNS doesn't know them."""
    for endpoint in endpoints(manifests):
        spec = endpoint.pods.spec
        if spec.get("hostNetwork") is not True or spec.get("dnsPolicy", "ClusterFirst") not in (
            "ClusterFirst",
            "Default",
        ):
            continue
        if service_named(manifests, endpoint.host, endpoint.pods.resource.namespace) is not None:
            yield endpoint.pods.resource.find(
                "names-on-host-network", f"{endpoint.pods.path}.dnsPolicy", spec.get("dnsPolicy"),
                f"with hostNetwork the node's own DNS is asked, which doesn't know {endpoint.host}",
                "write ClusterFirstWithHostNet",
            )  # fmt: skip


def dns_without_servers(manifests: Manifests, _facts: ModelFacts | None) -> Iterator[Finding]:
    """A dnsPolicy of None without a name server: the API server refuses it."""
    for pods in manifests.pods():
        if pods.spec.get("dnsPolicy") == "None" and not mapping(pods.spec.get("dnsConfig")).get("nameservers"):
            why = "dnsConfig.nameservers must name one then; the API server refuses it"
            yield pods.resource.find("dns-without-servers", f"{pods.path}.dnsPolicy", "None", why, "take it out")


def _asked(manifests: Manifests) -> Iterator[Endpoint]:
    """Yield the gRPC endpoints that gateways ask."""
    for endpoint in endpoints(manifests):
        for container, server in servers(endpoint.pods, "gateway"):
            if (
                container.path == endpoint.container.path
                and endpoint.field == f"{container.path}.{server.field('--triton')}"
            ):
                yield endpoint


def _port(service: Resource, number: int) -> Mapping[str, Any] | None:
    """Return the port of a Service by its number."""
    return next((p for p in map(mapping, sequence(service.spec.get("ports"))) if p.get("port") == number), None)


def _has_port(pods: Pods, name: str) -> bool:
    return any(named_port(container, name) is not None for container in pods.containers if stays(container))


def _rules(manifests: Manifests, *directions: str) -> Iterator[tuple[Resource, str, Mapping[str, Any]]]:
    for policy in manifests.of_kind(_KIND):
        for direction in directions or ("ingress", "egress"):
            for index, rule in enumerate(map(mapping, sequence(policy.spec.get(direction)))):
                yield policy, f"spec.{direction}[{index}]", rule


def _ports(manifests: Manifests, *directions: str) -> Iterator[tuple[Resource, str, Mapping[str, Any]]]:
    for policy, path, rule in _rules(manifests, *directions):
        for index, port in enumerate(map(mapping, sequence(rule.get("ports")))):
            yield policy, f"{path}.ports[{index}]", port


def isolating(manifests: Manifests, pods: Pods, direction: str) -> list[Resource]:
    """Return the policies that let pods receive, or send, only what they name."""
    return [
        policy
        for policy in manifests.of_kind(_KIND)
        if policy.namespace == pods.resource.namespace
        and fits(policy.spec.get("podSelector"), pods.labels)
        and direction in (sequence(policy.spec.get("policyTypes")) or _default_types(policy))
    ]


def _default_types(policy: Resource) -> list[str]:
    return ["Ingress", *(["Egress"] if policy.spec.get("egress") else [])]


def admits(policy: Resource, pods: Pods | None, number: int, direction: str, *, protocol: str = "TCP") -> bool:
    """Return whether a policy names a port for anybody at all."""
    rules = map(mapping, sequence(policy.spec.get(direction)))
    return any(_names(rule, pods, number, protocol) for rule in rules)


def _lets_in(policy: Resource, pods: Pods, number: int, caller: Pods) -> bool:
    """Return whether a policy lets the caller's pods in to a port; what can't be told counts as a yes."""
    for rule in map(mapping, sequence(policy.spec.get("ingress"))):
        peers = sequence(rule.get("from"))
        if _names(rule, pods, number, "TCP") and (
            not peers or any(_is_peer(policy, mapping(p), caller) for p in peers)
        ):
            return True
    return False


def _is_peer(policy: Resource, peer: Mapping[str, Any], caller: Pods) -> bool:
    if peer.get("ipBlock") is not None:
        return True
    near = caller.resource.namespace == policy.namespace
    if peer.get("namespaceSelector") is None:
        return near and fits(peer.get("podSelector"), caller.labels)
    return peer.get("podSelector") is None or fits(peer.get("podSelector"), caller.labels)


def _names(rule: Mapping[str, Any], pods: Pods | None, number: int, protocol: str) -> bool:
    """Return whether a rule is for a port; one without ports is for all."""
    ports = [mapping(port) for port in sequence(rule.get("ports"))]
    return not ports or any(_is_port(port, pods, number, protocol) for port in ports)


def _is_port(port: Mapping[str, Any], pods: Pods | None, number: int, protocol: str) -> bool:
    if port.get("protocol", "TCP") != protocol:
        return False
    value = port.get("port")
    if value is None:
        return True
    if isinstance(value, str):
        # The name of a port of pods that aren't known may be any.
        return pods is None or port_number(pods, value) == number
    first = whole(value)
    return first is not None and first <= number <= (whole(port.get("endPort")) or first)


_Network = ipaddress.IPv4Network | ipaddress.IPv6Network


def _network(text: object) -> _Network | None:
    try:
        return ipaddress.ip_network(text, strict=False) if isinstance(text, str) and "/" in text else None
    except ValueError:
        return None


def _lies_in(inner: _Network, outer: _Network) -> bool:
    same = inner.version == outer.version and inner.prefixlen > outer.prefixlen
    return same and inner.network_address in outer


RULES: Final = (
    gateway_without_triton, gateway_service_port, gateway_unknown_host, policy_ports, policy_port_name, policy_types,
    policy_peer, policy_addresses, policy_namespace_label, policy_shuts_service, policy_shuts_gateway,
    policy_shuts_names, policy_shuts_endpoint, names_on_host_network, dns_without_servers,
)  # fmt: skip
