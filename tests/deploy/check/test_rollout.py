import pytest
from manifest_examples import GONE, Case, correct, findings, named, scaled, scaler

from deploykit.deploy.check.rules import rollout

ROLLING = "Deployment.spec.strategy.rollingUpdate"
SET = named("StatefulSet", api="apps/v1", spec={"replicas": 3, "updateStrategy": {"rollingUpdate": {"partition": 0}}})
DAEMONS = named("DaemonSet", api="apps/v1", spec={"updateStrategy": {"rollingUpdate": {"maxUnavailable": 1}}})

CASES = [
    Case(rule=rollout.rollout_numbers, bad={"Deployment.spec.replicas": -1}),
    Case(rule=rollout.rollout_numbers, bad={"Deployment.spec.minReadySeconds": -1}),
    Case(rule=rollout.rollout_share, bad={f"{ROLLING}.maxSurge": "1"}, good=[{f"{ROLLING}.maxSurge": "150%"}]),
    Case(rule=rollout.rollout_share, bad={f"{ROLLING}.maxUnavailable": "150%"}),
    Case(
        rule=rollout.rollout_stuck,
        bad={f"{ROLLING}.maxSurge": 0},
        field="maxUnavailable",
        good=[{f"{ROLLING}.maxSurge": 0, f"{ROLLING}.maxUnavailable": 1}, {f"{ROLLING}.maxSurge": GONE}],
    ),
    Case(
        rule=rollout.rollout_stuck,
        bad={"DaemonSet.spec.updateStrategy.rollingUpdate.maxSurge": 1},
        objects=[DAEMONS],
        good=[
            {
                "DaemonSet.spec.updateStrategy.rollingUpdate.maxSurge": 1,
                "DaemonSet.spec.updateStrategy.rollingUpdate.maxUnavailable": 0,
            }
        ],
    ),
    Case(
        rule=rollout.rollout_rounds_to_nothing,
        bad={f"{ROLLING}.maxSurge": 0, f"{ROLLING}.maxUnavailable": "25%"},
        level="warning",
        good=[{f"{ROLLING}.maxSurge": 0, f"{ROLLING}.maxUnavailable": "50%"}],
    ),
    Case(
        rule=rollout.rollout_type,
        bad={"Deployment.spec.strategy.type": "Recreate"},
        field="rollingUpdate",
        good=[{"Deployment.spec.strategy": {"type": "Recreate"}}],
    ),
    Case(
        rule=rollout.rollout_downtime,
        bad={"Deployment.spec.strategy": {"type": "Recreate"}},
        field="type",
        level="warning",
    ),
    Case(
        rule=rollout.rollout_downtime,
        bad={"Deployment.spec.replicas": 1, f"{ROLLING}.maxUnavailable": 1},
        level="warning",
        good=[
            {f"{ROLLING}.maxUnavailable": 1},
            {"Deployment.spec.replicas": 1},
            {
                "Deployment.spec.replicas": 1,
                "Deployment.spec.strategy.rollingUpdate": {"maxSurge": 0, "maxUnavailable": 1},
                "triton.resources.limits": {"nvidia.com/gpu": "1"},
            },
        ],
    ),
    Case(rule=rollout.rollout_deadline, bad={"Deployment.spec.progressDeadlineSeconds": 240}, level="warning"),
    Case(
        rule=rollout.rollout_deadline,
        bad={"triton.startupProbe.failureThreshold": 200},
        field="progressDeadlineSeconds",
        level="warning",
    ),
    Case(
        rule=rollout.rollout_deadline,
        bad={"Deployment.spec.minReadySeconds": 900},
        field="progressDeadlineSeconds",
        good=[{"Deployment.spec.progressDeadlineSeconds": 300}],
    ),
    Case(rule=rollout.deadline_below_load, bad={"Deployment.spec.progressDeadlineSeconds": 10}),
    Case(rule=rollout.no_way_back, bad={"Deployment.spec.revisionHistoryLimit": 0}, level="warning"),
    Case(rule=rollout.rollout_paused, bad={"Deployment.spec.paused": True}, level="warning"),
    Case(rule=rollout.no_pods, bad={"Deployment.spec.replicas": 0}, level="warning"),
    Case(
        rule=rollout.no_pods,
        bad={"Deployment.spec.replicas": 0, "HorizontalPodAutoscaler.spec.scaleTargetRef.name": "a"},
        field="spec.replicas",
        level="warning",
        objects=scaled(scaler()),
    ),
    Case(
        rule=rollout.partition_keeps_all,
        bad={"StatefulSet.spec.updateStrategy.rollingUpdate.partition": 3},
        level="warning",
        objects=[SET],
        good=[{"StatefulSet.spec.updateStrategy.rollingUpdate.partition": 2}],
    ),
]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_finds_the_mistake_and_leaves_its_repair_alone(case: Case) -> None:
    case.check()


def test_finds_nothing_in_a_correct_set() -> None:
    assert findings(correct(), rules=rollout.RULES) == []
