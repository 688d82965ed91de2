from dataclasses import replace

import pytest
from manifest_examples import FACTS, GONE, Case, correct, findings

from deploykit.deploy.check.rules import health

TRITON = {
    "triton.command": ["tritonserver"],
    "triton.args": ["--model-repository=/models"],
    "triton.startupProbe": GONE,
    "triton.readinessProbe.httpGet.port": 8000,
    "triton.livenessProbe.httpGet.port": 8000,
}

CASES = [
    Case(
        rule=health.unready_pods_served,
        bad={"Service.spec.publishNotReadyAddresses": True},
        level="warning",
        good=[
            {"Service.spec.publishNotReadyAddresses": True, "triton.command": ["db"], "gateway.command": ["exporter"]},
        ],
    ),
    Case(rule=health.liveness_on_readiness, bad={"triton.livenessProbe.httpGet.path": "/v2/health/ready"}),
    Case(rule=health.liveness_on_readiness, bad={"gateway.livenessProbe.httpGet.path": "/health"}),
    Case(
        rule=health.liveness_on_readiness,
        bad={**TRITON, "triton.livenessProbe.httpGet.path": "/v2/models/writer/ready"},
        level="warning",
        good=[TRITON],
    ),
    Case(rule=health.readiness_on_liveness, bad={"triton.readinessProbe.httpGet.path": "/v2/health/live"}),
    Case(rule=health.readiness_on_liveness, bad={"gateway.readinessProbe.httpGet.path": "/health/live"}),
    Case(rule=health.liveness_blind, bad={"triton.livenessProbe.httpGet.port": "http"}, level="warning", good=[TRITON]),
    Case(rule=health.liveness_hasty, bad={"triton.livenessProbe.failureThreshold": 1}, level="warning"),
    Case(
        rule=health.startup_too_short,
        bad={"triton.startupProbe.failureThreshold": 3},
        good=[{"triton.startupProbe.failureThreshold": 12}, {"triton.startupProbe": GONE}],
    ),
    Case(rule=health.startup_too_short, bad={"triton.startupProbe.failureThreshold": 6}, level="warning"),
    Case(
        rule=health.startup_too_short,
        bad={**TRITON, "triton.livenessProbe.failureThreshold": 1},
        good=[
            {**TRITON, "triton.livenessProbe.initialDelaySeconds": 120},
            {
                **TRITON,
                "triton.startupProbe": {"httpGet": {"path": "/v2/health/ready", "port": 8000}, "failureThreshold": 9},
            },
        ],
    ),
    Case(
        rule=health.startup_shorter_than_timeout,
        bad={"triton.args[7]": "--startup-timeout=900"},
        field="startupProbe.failureThreshold",
        level="warning",
    ),
    Case(rule=health.startup_timeout_too_short, bad={"triton.args[7]": "--startup-timeout=10"}),
    Case(rule=health.startup_timeout_too_short, bad={"triton.args[7]": "--startup-timeout=30"}, level="warning"),
    Case(rule=health.heartbeat_too_long, bad={"triton.args[8]": "--heartbeat-timeout=120"}, level="warning"),
    Case(rule=health.no_readiness_probe, bad={"triton.readinessProbe": GONE}, level="warning"),
]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_finds_the_mistake_and_leaves_its_repair_alone(case: Case) -> None:
    case.check()


def test_finds_nothing_in_a_correct_set() -> None:
    assert findings(correct(), rules=health.RULES) == []


def test_asks_for_three_times_the_load_time() -> None:
    slow = replace(FACTS, load_seconds=130.0)

    [found] = findings(correct(), rules=[health.startup_too_short], facts=slow)

    assert "5 s x 60 = 300 s" in found.why
    assert "failureThreshold: 78" in found.remedy


def test_says_nothing_of_a_load_time_that_is_not_known() -> None:
    assert findings(correct(), rules=health.RULES, facts=None) == []
