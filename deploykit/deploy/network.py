"""Who may talk to the pods, and to whom they may talk; and the namespace that they live in."""

from collections.abc import Sequence
from typing import Any, Final

from lightkube.models.meta_v1 import LabelSelector, ObjectMeta
from lightkube.models.networking_v1 import (
    IPBlock,
    NetworkPolicyEgressRule,
    NetworkPolicyIngressRule,
    NetworkPolicyPeer,
    NetworkPolicyPort,
    NetworkPolicySpec,
)
from lightkube.resources.core_v1 import Namespace
from lightkube.resources.networking_v1 import NetworkPolicy

from deploykit.deploy.config import GATEWAY_PORT, GRPC_PORT, METRICS_PORT, DeployConfig
from deploykit.deploy.facts import ModelFacts
from deploykit.deploy.kustomize import Patch
from deploykit.deploy.names import kind_of, kubernetes_name, labels, metadata, pod_selector

_NAMESPACE: Final = "kubernetes.io/metadata.name"
"""The label that Kubernetes itself gives every namespace: its name."""
LINK_LOCAL: Final = "169.254.0.0/16"
"""Where a node's own DNS cache answers (169.254.20.10: NodeLocal DNSCache), and Cloud DNS of GKE (169.254.169.254)."""
PRIVATE: Final = ("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "100.64.0.0/10")
"""Networks that no address of the internet lies in (RFC 1918 and 6598): nodes, Services, a cloud's load balancers."""


def network_policy(facts: ModelFacts, config: DeployConfig) -> NetworkPolicy:
    """Return what is let in and out; kubelet's probes come from the node and always are.

    In: gRPC from the same namespace, since it asks nobody for a key; metrics for Prometheus. Triton's HTTP isn't let
    in at all (see `services.service`); `kubectl port-forward` reaches it. Out: names, and with S3 a bucket.
    """
    return NetworkPolicy(
        **kind_of(NetworkPolicy),
        metadata=metadata(facts),
        spec=NetworkPolicySpec(
            podSelector=pod_selector(facts),
            policyTypes=["Ingress", "Egress"],
            ingress=[
                let_in(GRPC_PORT, [NetworkPolicyPeer(podSelector=LabelSelector())]),
                let_in(METRICS_PORT, [from_namespace(config.monitoring_namespace)]),
            ],
            egress=[names(53), *([store()] if config.delivery == "s3" else [])],
        ),
    )


def names(port: int) -> NetworkPolicyEgressRule:
    """Return the way to DNS, never to a server in the internet.

    To pods of whatever namespace it runs in, or to what answers without a pod: a cache of the node, or CoreDNS as a
    service of the node (EKS Auto Mode).
    """
    return NetworkPolicyEgressRule(
        to=[NetworkPolicyPeer(namespaceSelector=LabelSelector()), *map(block, (LINK_LOCAL, *PRIVATE))],
        ports=[NetworkPolicyPort(port=port, protocol=protocol) for protocol in ("UDP", "TCP")],
    )


def store() -> NetworkPolicyEgressRule:
    """Return the way to a bucket, whose addresses nobody knows beforehand."""
    return NetworkPolicyEgressRule(ports=[NetworkPolicyPort(port=443, protocol="TCP")])


def let_in(port: int, peers: Sequence[NetworkPolicyPeer]) -> NetworkPolicyIngressRule:
    """Return a rule that lets peers reach a port, by its number: not every network plugin knows ports by name."""
    return NetworkPolicyIngressRule(from_=list(peers), ports=[NetworkPolicyPort(port=port, protocol="TCP")])


def from_namespace(name: str) -> NetworkPolicyPeer:
    """Return every pod of a namespace."""
    return NetworkPolicyPeer(namespaceSelector=LabelSelector(matchLabels={_NAMESPACE: name}))


def block(addresses: str) -> NetworkPolicyPeer:
    """Return a range of addresses."""
    return NetworkPolicyPeer(ipBlock=IPBlock(cidr=addresses))


def openai(facts: ModelFacts) -> Patch:
    """Return the change that lets pods of every namespace reach OpenAI's API, which asks for a key."""
    rule = let_in(GATEWAY_PORT, [NetworkPolicyPeer(namespaceSelector=LabelSelector())])
    return more_rules(facts, "network-policy.yaml", ingress=[rule])


def more_rules(
    facts: ModelFacts,
    file: str,
    *,
    ingress: Sequence[NetworkPolicyIngressRule] = (),
    egress: Sequence[NetworkPolicyEgressRule] = (),
) -> Patch:
    """Return a change that adds rules; a JSON patch, since a merge would replace the lists."""
    added: list[dict[str, Any]] = [
        {"op": "add", "path": f"/spec/{way}/-", "value": rule}
        for way, rules in (("ingress", ingress), ("egress", egress))
        for rule in rules
    ]
    return Patch(file=file, body=added, kind="NetworkPolicy", name=kubernetes_name(facts.name))


def namespace(facts: ModelFacts) -> Namespace:
    """Return the model's own namespace, which takes no pod that isn't "restricted"."""
    restricted = {f"pod-security.kubernetes.io/{mode}": "restricted" for mode in ("enforce", "audit", "warn")}
    return Namespace(
        **kind_of(Namespace),
        metadata=ObjectMeta(
            name=kubernetes_name(facts.name), labels={**labels(facts, component="namespace"), **restricted}
        ),
    )
