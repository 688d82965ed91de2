import copy

import pytest
from manifest_examples import GONE, Case, correct, findings, keda, named, scaled, scaler

from deploykit.deploy.check.rules import scaling

HPA, KEDA = "HorizontalPodAutoscaler.spec", "ScaledObject.spec"
METRIC = f"{HPA}.metrics[0]"
CPU = {"type": "Resource", "resource": {"name": "cpu", "target": {"type": "Utilization", "averageUtilization": 70}}}
QUERY = f"{KEDA}.triggers[0].metadata"
SECOND = copy.deepcopy(scaler()) | {"metadata": {"name": "second", "namespace": "writer"}}

CASES = [
    Case(rule=scaling.scaler_bounds, bad={f"{HPA}.minReplicas": 9}, objects=scaled(scaler())),
    Case(rule=scaling.scaler_bounds, bad={f"{HPA}.minReplicas": 0}, objects=scaled(scaler())),
    Case(rule=scaling.scaler_bounds, bad={f"{HPA}.maxReplicas": 0}, objects=scaled(scaler())),
    Case(
        rule=scaling.scaler_bounds,
        bad={f"{KEDA}.minReplicaCount": 9},
        objects=scaled(keda()),
        good=[{f"{KEDA}.minReplicaCount": 0}, {f"{KEDA}.maxReplicaCount": GONE}],
    ),
    Case(
        rule=scaling.idle_bounds,
        bad={f"{KEDA}.idleReplicaCount": 2},
        objects=scaled(keda()),
        good=[{f"{KEDA}.idleReplicaCount": 0}],
    ),
    Case(
        rule=scaling.replicas_beside_scaler,
        bad={"Deployment.spec.replicas": 2},
        level="warning",
        objects=scaled(scaler()),
        good=[{"Deployment.spec.replicas": 2, f"{HPA}.scaleTargetRef.name": "other"}],
    ),
    Case(
        rule=scaling.two_scalers,
        bad={"ScaledObject.spec.scaleTargetRef.name": "writer"},
        objects=[*scaled(scaler()), named("ScaledObject", spec={"scaleTargetRef": {"name": "other"}})],
    ),
    Case(rule=scaling.unscalable_target, bad={f"{HPA}.scaleTargetRef.kind": "DaemonSet"}, objects=scaled(scaler())),
    Case(rule=scaling.metric_source, bad={f"{METRIC}.type": "External"}, objects=scaled(scaler())),
    Case(rule=scaling.metric_target, bad={f"{METRIC}.pods.target.type": "Value"}, objects=scaled(scaler())),
    Case(rule=scaling.metric_target, bad={f"{METRIC}.pods.target.averageValue": "0"}, objects=scaled(scaler())),
    Case(rule=scaling.metric_target, bad={f"{METRIC}.pods.target.averageValue": GONE}, objects=scaled(scaler())),
    Case(
        rule=scaling.utilization_without_request,
        bad={METRIC: CPU, "gateway.resources": {}},
        field="metrics[0].resource.name",
        objects=scaled(scaler()),
        good=[{METRIC: CPU}, {METRIC: CPU, "gateway.resources.requests": GONE}],
    ),
    Case(
        rule=scaling.metric_container,
        bad={METRIC: {"type": "ContainerResource", "containerResource": {**CPU["resource"], "container": "server"}}},  # type: ignore[dict-item]
        field="containerResource.container",
        objects=scaled(scaler()),
        good=[
            {METRIC: {"type": "ContainerResource", "containerResource": {**CPU["resource"], "container": "triton"}}},  # type: ignore[dict-item]
        ],
    ),
    Case(
        rule=scaling.scaling_behavior,
        bad={f"{HPA}.behavior.scaleDown.stabilizationWindowSeconds": 7200},
        objects=scaled(scaler()),
        good=[{f"{HPA}.behavior.scaleDown.stabilizationWindowSeconds": 3600}],
    ),
    Case(
        rule=scaling.scaling_behavior,
        bad={f"{HPA}.behavior.scaleUp.policies": [{"type": "Pods", "value": 1, "periodSeconds": 3600}]},
        field="scaleUp.policies[0].periodSeconds",
        objects=scaled(scaler()),
    ),
    Case(rule=scaling.scaling_behavior, bad={f"{HPA}.behavior.scaleUp.policies": []}, objects=scaled(scaler())),
    Case(
        rule=scaling.scaling_behavior,
        bad={f"{KEDA}.advanced.horizontalPodAutoscalerConfig.behavior.scaleDown.stabilizationWindowSeconds": -1},
        objects=scaled(keda()),
    ),
    Case(rule=scaling.keda_numbers, bad={f"{KEDA}.pollingInterval": 0}, objects=scaled(keda())),
    Case(rule=scaling.keda_numbers, bad={f"{KEDA}.fallback.replicas": -1}, objects=scaled(keda())),
    Case(rule=scaling.trigger_metadata, bad={f"{QUERY}.threshold": 4}, objects=scaled(keda())),
    Case(rule=scaling.trigger_metadata, bad={f"{QUERY}.threshold": "many"}, objects=scaled(keda())),
    Case(rule=scaling.trigger_metadata, bad={f"{QUERY}.serverAddress": GONE}, objects=scaled(keda())),
    Case(rule=scaling.no_triggers, bad={f"{KEDA}.triggers": []}, objects=scaled(keda())),
    Case(
        rule=scaling.sleeps_for_ever,
        bad={f"{KEDA}.triggers[0].type": "cpu", f"{KEDA}.minReplicaCount": 0},
        objects=scaled(keda()),
    ),
    Case(
        rule=scaling.server_scaled_to_nothing,
        bad={f"{KEDA}.minReplicaCount": GONE},
        level="warning",
        objects=scaled(keda()),
        good=[{f"{KEDA}.minReplicaCount": GONE, "triton.command": ["other"], "gateway.command": ["other"]}],
    ),
]


def test_finds_two_autoscalers_of_one_deployment() -> None:
    [found] = findings([*scaled(scaler()), SECOND], rules=[scaling.two_scalers])

    assert found.object == "HorizontalPodAutoscaler/second"


@pytest.mark.parametrize("case", CASES, ids=str)
def test_finds_the_mistake_and_leaves_its_repair_alone(case: Case) -> None:
    case.check()


def test_finds_nothing_in_a_correct_set() -> None:
    assert findings(correct(), rules=scaling.RULES) == []
