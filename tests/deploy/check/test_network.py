import copy
from typing import Any

import pytest
from manifest_examples import GONE, Case, correct, deployment, edited, findings

from deploykit.deploy.check.rules import network

POLICY = "NetworkPolicy.spec"
OUT = {f"{POLICY}.policyTypes": ["Ingress", "Egress"]}
DNS = {"ports": [{"protocol": "UDP", "port": 53}, {"protocol": "TCP", "port": 53}]}
BUCKET = {"to": [{"ipBlock": {"cidr": "0.0.0.0/0"}}], "ports": [{"port": 443}]}
FETCH = {
    "pod.initContainers": [{"name": "fetch", "command": ["deploykit", "pull", "s3://models/writer", "-o", "/models"]}]
}
TRACED = {"triton.env[1]": {"name": "OTEL_EXPORTER_OTLP_ENDPOINT", "value": "http://collector.example.com:4318"}}


def apart(**triton: object) -> list[dict[str, Any]]:
    """Return a set whose gateway runs in pods of its own."""
    objects = edited({"pod.containers[1]": GONE, "Service.spec.ports[3]": GONE}, correct())
    other = copy.deepcopy(deployment())
    other["metadata"]["name"] = "front"
    other["spec"]["selector"] = {"matchLabels": {"app": "front"}}
    other["spec"]["template"]["metadata"] = {"labels": {"app": "front"}}
    del other["spec"]["template"]["spec"]["containers"][0]
    other["kind"] = "StatefulSet"
    return edited({"StatefulSet.spec.template.spec.containers[0].args[2]": "--triton=writer:8001"}, [*objects, other])


FRONT = "StatefulSet.spec.template.spec.containers[0].args[2]"

CASES = [
    Case(
        rule=network.dns_without_servers,
        bad={"pod.dnsPolicy": "None"},
        good=[{"pod.dnsPolicy": "None", "pod.dnsConfig": {"nameservers": ["10.0.0.10"]}}],
    ),
    Case(rule=network.gateway_without_triton, bad={"gateway.args[2]": "--triton=localhost:8000"}),
    Case(
        rule=network.gateway_without_triton, bad={"triton.args[10]": "--grpc-port=8101"}, field="containers[1].args[2]"
    ),
    Case(
        rule=network.gateway_without_triton,
        bad={"gateway.args[2]": "--triton=127.0.0.1:8011"},
        good=[{"gateway.args[2]": "--triton=127.0.0.1:8011", "triton.command": ["own-server"]}],
    ),
    Case(
        rule=network.gateway_service_port,
        bad={FRONT: "--triton=writer:8011"},
        objects=apart(),
        good=[{FRONT: "--triton=dns:///writer.writer.svc.cluster.local:8001"}, {FRONT: "--triton=elsewhere:9"}],
    ),
    Case(rule=network.gateway_service_port, bad={FRONT: "--triton=writer.writer.svc:8000"}, objects=apart()),
    Case(
        rule=network.gateway_unknown_host,
        bad={FRONT: "--triton=writr:8001"},
        level="warning",
        objects=apart(),
        good=[{FRONT: "--triton=triton.example.com:8001"}, {FRONT: "--triton=10.0.0.7:8001"}],
    ),
    Case(rule=network.policy_ports, bad={f"{POLICY}.ingress[0].ports[2].port": 70000}),
    Case(
        rule=network.policy_ports,
        bad={f"{POLICY}.ingress[0].ports[2].endPort": 8000},
        good=[{f"{POLICY}.ingress[0].ports[2].endPort": 9001}],
    ),
    Case(rule=network.policy_ports, bad={f"{POLICY}.ingress[0].ports[0].endPort": 9001}),
    Case(rule=network.policy_port_name, bad={f"{POLICY}.ingress[0].ports[0].port": "htttp"}),
    Case(
        rule=network.policy_types,
        bad={f"{POLICY}.egress": [DNS]},
        field="policyTypes",
        level="warning",
        good=[{**OUT, f"{POLICY}.egress": [DNS]}, {f"{POLICY}.policyTypes": GONE, f"{POLICY}.egress": [DNS]}],
    ),
    Case(rule=network.policy_peer, bad={f"{POLICY}.ingress[0].from": []}, level="warning"),
    Case(
        rule=network.policy_peer,
        bad={f"{POLICY}.ingress[0].from": [{}]},
        field="from[0]",
        good=[{f"{POLICY}.ingress[0].from": [{"podSelector": {}}]}],
    ),
    Case(
        rule=network.policy_addresses,
        bad={f"{POLICY}.ingress[0].from": [{"ipBlock": {"cidr": "10.0.0.1"}}]},
        field="cidr",
    ),
    Case(
        rule=network.policy_addresses,
        bad={f"{POLICY}.ingress[0].from": [{"ipBlock": {"cidr": "10.0.0.0/8", "except": ["192.168.0.0/16"]}}]},
        field="except[0]",
        good=[{f"{POLICY}.ingress[0].from": [{"ipBlock": {"cidr": "10.0.0.0/8", "except": ["10.1.0.0/16"]}}]}],
    ),
    Case(
        rule=network.policy_namespace_label,
        bad={f"{POLICY}.ingress[1].from": [{"namespaceSelector": {"matchLabels": {"name": "monitoring"}}}]},
        field="matchLabels.name",
        level="warning",
    ),
    Case(
        rule=network.policy_shuts_service,
        bad={f"{POLICY}.ingress[0].ports[1]": {"port": 8101}},
        field="spec.ingress",
        good=[{f"{POLICY}.ingress[0].ports": GONE}, {f"{POLICY}.ingress[0].ports[1]": {"port": 8000, "endPort": 8005}}],
    ),
    Case(
        rule=network.policy_shuts_service, bad={f"{POLICY}.ingress[1].ports[0].protocol": "UDP"}, field="spec.ingress"
    ),
    Case(
        rule=network.policy_shuts_gateway,
        bad={f"{POLICY}.ingress[0].from": [{"podSelector": {"matchLabels": {"app": "frontend"}}}]},
        field="spec.ingress",
        objects=apart(),
        good=[
            {f"{POLICY}.ingress[0].from": [{"podSelector": {"matchLabels": {"app": "front"}}}]},
            {f"{POLICY}.ingress[0].from": [{"namespaceSelector": {}}]},
        ],
    ),
    Case(
        rule=network.policy_shuts_names,
        bad={**OUT, **FETCH, f"{POLICY}.egress": [BUCKET]},
        field="spec.egress",
        good=[{**OUT, **FETCH, f"{POLICY}.egress": [DNS, BUCKET]}, {**OUT, **FETCH, f"{POLICY}.egress": [{}]}, OUT],
    ),
    Case(rule=network.policy_shuts_names, bad={**OUT, **TRACED}, field="spec.egress"),
    Case(
        rule=network.policy_shuts_endpoint,
        bad={**OUT, **TRACED, f"{POLICY}.egress": [DNS, BUCKET]},
        field="spec.egress",
        good=[{**OUT, **TRACED, f"{POLICY}.egress": [DNS, {"ports": [{"port": 4318}]}]}],
    ),
    Case(
        rule=network.names_on_host_network,
        bad={"StatefulSet.spec.template.spec.hostNetwork": True},
        field="dnsPolicy",
        objects=apart(),
        good=[
            {
                "StatefulSet.spec.template.spec.hostNetwork": True,
                "StatefulSet.spec.template.spec.dnsPolicy": "ClusterFirstWithHostNet",
            }
        ],
    ),
]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_finds_the_mistake_and_leaves_its_repair_alone(case: Case) -> None:
    case.check()


def test_finds_nothing_in_a_correct_set() -> None:
    assert findings(correct(), rules=network.RULES) == []
