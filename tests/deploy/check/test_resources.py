import pytest
from manifest_examples import GONE, Case, correct, findings, named

from deploykit.deploy.check.rules import resources

LIMITS = "triton.resources.limits"
QUOTA = named("ResourceQuota", spec={"hard": {"requests.cpu": "8", "limits.memory": "8Gi", "pods": "4"}})
RANGE = named("LimitRange", spec={"limits": [{"type": "Container", "max": {"cpu": "4"}, "min": {"memory": "64Mi"}}]})

CASES = [
    Case(
        rule=resources.quantity_negative,
        bad={f"{LIMITS}.cpu": "-1"},
        good=[{f"{LIMITS}.cpu": "0.5"}, {f"{LIMITS}.memory": "12e6"}],
    ),
    Case(
        rule=resources.request_over_limit,
        bad={"triton.resources.requests.memory": "1025Mi"},
        good=[{"triton.resources.requests.memory": "1024Mi"}, {"triton.resources.limits.memory": GONE}],
    ),
    Case(rule=resources.request_over_limit, bad={"triton.resources.requests.cpu": "2001m"}),
    Case(rule=resources.memory_in_milli, bad={f"{LIMITS}.memory": "128m"}),
    Case(rule=resources.memory_in_milli, bad={"pod.volumes[0].emptyDir.sizeLimit": "64m"}),
    Case(rule=resources.memory_tiny, bad={f"{LIMITS}.memory": "512"}, good=[{f"{LIMITS}.memory": 536870912}]),
    Case(rule=resources.cpu_in_bytes, bad={"triton.resources.requests.cpu": "2Gi"}),
    Case(rule=resources.cpu_in_bytes, bad={"triton.resources.requests.cpu": 500}, level="warning"),
    Case(rule=resources.resource_unknown, bad={"triton.resources.requests.mem": "1Gi"}),
    Case(
        rule=resources.resource_unknown,
        bad={f"{LIMITS}.gpu": 1},
        good=[{f"{LIMITS}.`example.com/fpga`": 1}, {f"{LIMITS}.`hugepages-2Mi`": "4Mi"}],
    ),
    Case(
        rule=resources.extended_resource,
        bad={"triton.resources.requests.`nvidia.com/gpu`": 1},
        good=[{f"{LIMITS}.`nvidia.com/gpu`": 1}],
    ),
    Case(rule=resources.extended_resource, bad={f"{LIMITS}.`nvidia.com/gpu`": "0.5"}),
    Case(
        rule=resources.extended_resource,
        bad={f"{LIMITS}.`nvidia.com/gpu`": 2, "triton.resources.requests.`nvidia.com/gpu`": 1},
    ),
    Case(
        rule=resources.huge_pages,
        bad={"triton.resources.requests.`hugepages-2Mi`": "4Mi"},
        good=[{f"{LIMITS}.`hugepages-2Mi`": "4Mi"}],
    ),
    Case(
        rule=resources.huge_pages,
        bad={"triton.resources": {"limits": {"hugepages-2Mi": "4Mi"}}},
        field="limits.hugepages-2Mi",
    ),
    Case(rule=resources.limit_zero, bad={f"{LIMITS}.memory": "0"}, level="warning"),
    Case(rule=resources.no_memory_limit, bad={f"{LIMITS}.memory": GONE}, level="warning"),
    Case(
        rule=resources.threads_over_cpu,
        bad={f"{LIMITS}.cpu": "1500m"},
        field="args[6]",
        level="warning",
        good=[{f"{LIMITS}.cpu": "1500m", "triton.args[6]": "--threads=1"}],
    ),
    Case(
        rule=resources.threads_unbound,
        bad={f"{LIMITS}.cpu": GONE, "triton.args[6]": "--max-queue=9"},
        field="limits.cpu",
        level="warning",
        good=[{f"{LIMITS}.cpu": GONE}],
    ),
    Case(
        rule=resources.quota_exceeded,
        bad={"ResourceQuota.spec.hard.`requests.cpu`": "6"},
        objects=[*correct(), QUOTA],
        good=[{"ResourceQuota.spec.hard.`requests.cpu`": "6", "Deployment.spec.replicas": 1}],
    ),
    Case(rule=resources.quota_exceeded, bad={"ResourceQuota.spec.hard.pods": "1"}, objects=[*correct(), QUOTA]),
    Case(
        rule=resources.quota_needs_requests,
        bad={"gateway.resources.limits.memory": GONE},
        objects=[*correct(), QUOTA],
        good=[{"gateway.resources.requests.cpu": GONE}],
    ),
    Case(rule=resources.limit_range, bad={f"{LIMITS}.cpu": "5"}, objects=[*correct(), RANGE]),
    Case(rule=resources.limit_range, bad={"triton.resources.requests.memory": "32Mi"}, objects=[*correct(), RANGE]),
]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_finds_the_mistake_and_leaves_its_repair_alone(case: Case) -> None:
    case.check()


def test_finds_nothing_in_a_correct_set() -> None:
    assert findings(correct(), rules=resources.RULES) == []
