from typing import Any

import pytest
from manifest_examples import Case, correct, edited, findings, named

from deploykit.deploy.check.rules import probes

CASES = [
    Case(rule=probes.probe_numbers, bad={"triton.livenessProbe.initialDelaySeconds": -1}),
    Case(rule=probes.probe_numbers, bad={"triton.livenessProbe.periodSeconds": 0}, level="warning"),
    Case(
        rule=probes.probe_success_threshold,
        bad={"triton.livenessProbe.successThreshold": 2},
        good=[{"triton.livenessProbe.successThreshold": 1}, {"triton.readinessProbe.successThreshold": 3}],
    ),
    Case(rule=probes.probe_timeout, bad={"triton.readinessProbe.timeoutSeconds": 6}, level="warning"),
    Case(
        rule=probes.probe_grace,
        bad={"triton.readinessProbe.terminationGracePeriodSeconds": 10},
        good=[{"triton.livenessProbe.terminationGracePeriodSeconds": 10}],
    ),
    Case(rule=probes.probe_grace, bad={"triton.livenessProbe.terminationGracePeriodSeconds": 0}),
    Case(
        rule=probes.probe_on_init_container,
        bad={"pod.initContainers": [{"name": "wait", "readinessProbe": {"exec": {"command": ["true"]}}}]},
        field="initContainers[0].readinessProbe",
        good=[
            {"pod.initContainers": [{"name": "wait"}]},
            {
                "pod.initContainers": [
                    {"name": "proxy", "restartPolicy": "Always", "readinessProbe": {"exec": {"command": ["true"]}}}
                ]
            },
        ],
    ),
    Case(rule=probes.probe_port_name, bad={"triton.livenessProbe.httpGet.port": "helth"}),
    Case(rule=probes.probe_port_name, bad={"triton.livenessProbe.httpGet.port": "openai"}),
    Case(rule=probes.probe_port_name, bad={"triton.livenessProbe.httpGet.port": "8003"}),
    Case(rule=probes.probe_port_range, bad={"triton.livenessProbe.httpGet.port": 80030}),
    Case(
        rule=probes.probe_port_closed,
        bad={"triton.readinessProbe.httpGet.port": 8080},
        good=[
            {"triton.readinessProbe.httpGet.port": 8003},
            {"triton.readinessProbe.httpGet.port": 9000},
            {"triton.readinessProbe.httpGet.port": 8080, "triton.command": ["my-server"]},
        ],
    ),
    Case(
        rule=probes.probe_port_closed, bad={"triton.args[10]": "--health-port=8010"}, field="livenessProbe.httpGet.port"
    ),
    Case(
        rule=probes.probe_port_closed,
        bad={"triton.readinessProbe.httpGet.port": 8080, "pod.containers[2]": {"name": "logs", "image": "logs:1"}},
        field="readinessProbe.httpGet.port",
        level="warning",
        good=[
            {
                "triton.readinessProbe.httpGet.port": 8080,
                "pod.containers[2]": {"name": "proxy", "image": "proxy:1", "ports": [{"containerPort": 8080}]},
            }
        ],
    ),
    Case(
        rule=probes.probe_path,
        bad={"triton.readinessProbe.httpGet.path": "/health"},
        good=[{"triton.readinessProbe.httpGet.path": "v2/health/ready"}],
    ),
    Case(rule=probes.probe_path, bad={"triton.readinessProbe.httpGet.path": "/v2/models/writer/ready"}),
    Case(
        rule=probes.probe_path,
        bad={"gateway.livenessProbe.httpGet.path": "/v2/health/live"},
        good=[{"gateway.livenessProbe.httpGet.path": "/health/live?from=kubelet"}],
    ),
    Case(
        rule=probes.probe_path,
        bad={"gateway.readinessProbe.httpGet.path": "/v1/models"},
        good=[
            {
                "gateway.readinessProbe.httpGet": {
                    "path": "/v1/models",
                    "port": 9000,
                    "httpHeaders": [{"name": "Authorization", "value": "Bearer x"}],
                }
            }
        ],
    ),
    Case(
        rule=probes.probe_path,
        bad={"triton.readinessProbe": {"exec": {"command": ["curl", "-f", "http://localhost:8003/ready"]}}},
        field="readinessProbe.exec.command",
        good=[
            {"triton.readinessProbe": {"exec": {"command": ["curl", "-f", "http://localhost:8003/v2/health/ready"]}}}
        ],
    ),
    Case(rule=probes.probe_protocol, bad={"triton.readinessProbe.httpGet.scheme": "HTTPS"}),
    Case(rule=probes.probe_protocol, bad={"triton.readinessProbe.httpGet.port": 8001}),
    Case(
        rule=probes.probe_protocol,
        bad={"triton.readinessProbe": {"grpc": {"port": 8003}}},
        field="readinessProbe.grpc.port",
        good=[
            {"triton.readinessProbe": {"grpc": {"port": 8001}}},
            {"triton.readinessProbe": {"tcpSocket": {"port": 8001}}},
        ],
    ),
    Case(
        rule=probes.probe_host,
        bad={"triton.readinessProbe.httpGet.host": "127.0.0.1"},
        good=[{"triton.readinessProbe.httpGet.host": "127.0.0.1", "pod.hostNetwork": True}],
    ),
    Case(
        rule=probes.probe_reaches_loopback,
        bad={"triton.args[2]": "--host=127.0.0.1"},
        field="containers[0].readinessProbe.httpGet.port",
        good=[
            {
                "triton.args[2]": "--host=127.0.0.1",
                **{
                    f"triton.{kind}": {"exec": {"command": ["curl", "-f", "http://localhost:8003/v2/health/live"]}}
                    for kind in ("startupProbe", "readinessProbe", "livenessProbe")
                },
            }
        ],
    ),
    Case(rule=probes.probe_reaches_loopback, bad={"gateway.args[3]": "--max-requests=64"}, field="httpGet.port"),
    Case(
        rule=probes.probe_command,
        bad={"triton.readinessProbe": {"exec": {"command": ["curl -f localhost"]}}},
        field="exec.command",
        good=[{"triton.readinessProbe": {"exec": {"command": ["sh", "-c", "curl -f localhost"]}}}],
    ),
    Case(rule=probes.probe_command, bad={"triton.readinessProbe": {"exec": {"command": []}}}, field="exec.command"),
]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_finds_the_mistake_and_leaves_its_repair_alone(case: Case) -> None:
    case.check()


def test_finds_nothing_in_a_correct_set() -> None:
    assert findings(correct(), rules=probes.RULES) == []


def test_says_what_listens_and_where() -> None:
    [found] = findings(
        edited({"triton.readinessProbe.httpGet.port": 8080}, correct()), rules=[probes.probe_port_closed]
    )

    assert "nothing listens on 8080" in found.why
    assert "health 8003" in found.why
    assert found.object == "Deployment/writer"


def test_lets_a_server_that_it_does_not_know_have_any_port_and_path() -> None:
    container: dict[str, Any] = {
        "name": "web", "image": "nginx:1.29", "readinessProbe": {"httpGet": {"path": "/healthz", "port": 8080}},
    }  # fmt: skip
    pod = named("Pod", spec={"containers": [container]})

    assert findings([pod], rules=probes.RULES) == []
