import pytest
from manifest_examples import GONE, Case, correct, findings, named

from deploykit.deploy.check.rules import ports

HEADLESS = {"Service.spec.clusterIP": "None"}
OUTSIDE = {"Service.spec.type": "NodePort"}

CASES = [
    Case(rule=ports.port_range, bad={"triton.ports[0].containerPort": 0}),
    Case(rule=ports.port_range, bad={"triton.ports[0].hostPort": 70000}, good=[{"triton.ports[0].hostPort": 0}]),
    Case(rule=ports.port_range, bad={"Service.spec.ports[0].port": 70000}),
    Case(rule=ports.port_range, bad={"Service.spec.ports[0].targetPort": -1}),
    Case(rule=ports.container_port_name, bad={"triton.ports[0].name": "a-name-of-sixteen"}),
    Case(rule=ports.container_port_name, bad={"triton.ports[0].name": "HTTP"}),
    Case(rule=ports.container_port_name, bad={"triton.ports[0].name": "8000"}),
    Case(rule=ports.container_port_name, bad={"triton.ports[1].name": "http"}, good=[{"triton.ports[1].name": GONE}]),
    Case(rule=ports.port_name_ambiguous, bad={"gateway.ports[0].name": "http"}, level="warning"),
    Case(rule=ports.service_ports, bad={"Service.spec.ports[1].name": GONE}),
    Case(rule=ports.service_ports, bad={"Service.spec.ports[1].name": "http"}),
    Case(rule=ports.service_ports, bad={"Service.spec.ports[1].name": "gRPC"}),
    Case(
        rule=ports.service_without_ports, bad={"Service.spec.ports": []}, good=[{**HEADLESS, "Service.spec.ports": []}]
    ),
    Case(rule=ports.service_type, bad={**HEADLESS, **OUTSIDE}),
    Case(rule=ports.service_type, bad={"Service.spec.type": "ExternalName"}, field="spec.externalName"),
    Case(rule=ports.service_type, bad={"Service.spec.externalTrafficPolicy": "Local"}),
    Case(rule=ports.service_type, bad={"Service.spec.sessionAffinityConfig": {"clientIP": {"timeoutSeconds": 9}}}),
    Case(rule=ports.node_port, bad={"Service.spec.ports[0].nodePort": 30080}),
    Case(
        rule=ports.node_port,
        bad={**OUTSIDE, "Service.spec.ports[0].nodePort": 8080},
        good=[{**OUTSIDE, "Service.spec.ports[0].nodePort": 30080}],
    ),
    Case(
        rule=ports.node_port,
        bad={**OUTSIDE, "Service.spec.ports[0].nodePort": 30080, "Service.spec.ports[1].nodePort": 30080},
    ),
    Case(
        rule=ports.headless_port, bad={**HEADLESS, "Service.spec.ports[0].port": 80}, level="warning", good=[HEADLESS]
    ),
    Case(
        rule=ports.service_target_closed,
        bad={"Service.spec.ports[0].targetPort": 8080},
        good=[
            {"Service.spec.ports[0].targetPort": 8000},
            {"Service.spec.ports[0].targetPort": 8080, "gateway.command": ["something-else"]},
        ],
    ),
    Case(rule=ports.service_target_closed, bad={"triton.args[10]": "--http-port=8080"}, field="ports[0].targetPort"),
    Case(rule=ports.service_protocol, bad={"Service.spec.ports[1].protocol": "UDP"}),
    Case(rule=ports.service_reaches_loopback, bad={"triton.args[2]": "--max-queue=9"}, field="ports[0].targetPort"),
    Case(rule=ports.declared_port_closed, bad={"triton.ports[0].containerPort": 8080}, level="warning"),
    Case(rule=ports.port_taken, bad={"triton.args[10]": "--health-port=8002"}),
    Case(rule=ports.port_taken, bad={"gateway.args[4]": "--port=8000"}),
    Case(rule=ports.port_declared_twice, bad={"gateway.ports[0].containerPort": 8000}, level="warning"),
    Case(
        rule=ports.host_port,
        bad={"pod.hostNetwork": True, "triton.ports[0].hostPort": 80},
        good=[{"triton.ports[0].hostPort": 80}, {"pod.hostNetwork": True, "triton.ports[0].hostPort": 8000}],
    ),
    Case(rule=ports.host_port, bad={"triton.ports[0].hostPort": 80, "triton.ports[1].hostPort": 80}),
    Case(rule=ports.port_unknowable, bad={"gateway.args[4]": "--port=0"}, level="warning"),
    Case(
        rule=ports.port_privileged,
        bad={"triton.args[10]": "--http-port=80"},
        level="warning",
        good=[{"triton.args[10]": "--http-port=80", "pod.securityContext": {}}],
    ),
]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_finds_the_mistake_and_leaves_its_repair_alone(case: Case) -> None:
    case.check()


def test_finds_nothing_in_a_correct_set() -> None:
    assert findings(correct(), rules=ports.RULES) == []


def test_lets_a_service_send_to_a_port_that_an_unknown_server_does_not_declare() -> None:
    labels = {"app": "web"}
    pod = named("Pod", spec={"containers": [{"name": "web", "image": "nginx:1.29"}]})
    pod["metadata"]["labels"] = labels
    service = named("Service", spec={"selector": labels, "ports": [{"port": 80, "targetPort": 8080}]})

    assert findings([pod, service], rules=ports.RULES) == []
