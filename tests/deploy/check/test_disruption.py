import pytest
from manifest_examples import GONE, Case, correct, findings, keda, scaled

from deploykit.deploy.check.rules import disruption

BUDGET = "PodDisruptionBudget.spec"
SPREAD = "pod.topologySpreadConstraints[0]"
FOREIGN = {"triton.command": ["postgres"], "gateway.command": ["exporter"]}

CASES = [
    Case(rule=disruption.budget_share, bad={f"{BUDGET}.maxUnavailable": "one"}),
    Case(rule=disruption.budget_share, bad={f"{BUDGET}.maxUnavailable": -1}),
    Case(
        rule=disruption.budget_share,
        bad={f"{BUDGET}.maxUnavailable": "150%"},
        good=[{f"{BUDGET}.maxUnavailable": "50%"}],
    ),
    Case(
        rule=disruption.budget_forbids_all,
        bad={f"{BUDGET}.maxUnavailable": "0%"},
        good=[{f"{BUDGET}.maxUnavailable": "1%"}],
    ),
    Case(
        rule=disruption.budget_forbids_all,
        bad={f"{BUDGET}.maxUnavailable": GONE, f"{BUDGET}.minAvailable": 2},
        good=[
            {f"{BUDGET}.maxUnavailable": GONE, f"{BUDGET}.minAvailable": 1},
            {f"{BUDGET}.maxUnavailable": GONE, f"{BUDGET}.minAvailable": "50%"},
        ],
    ),
    Case(
        rule=disruption.budget_forbids_all,
        bad={f"{BUDGET}.maxUnavailable": GONE, "Deployment.spec.replicas": 1, f"{BUDGET}.minAvailable": "50%"},
    ),
    Case(
        rule=disruption.budget_forbids_all,
        bad={f"{BUDGET}.maxUnavailable": GONE, f"{BUDGET}.minAvailable": 2},
        objects=scaled(keda()),
        good=[{f"{BUDGET}.maxUnavailable": GONE, f"{BUDGET}.minAvailable": 2, "ScaledObject.spec.minReplicaCount": 3}],
    ),
    Case(rule=disruption.budget_forbids_all, bad={**FOREIGN, f"{BUDGET}.maxUnavailable": 0}, level="warning"),
    Case(rule=disruption.budget_allows_all, bad={f"{BUDGET}.maxUnavailable": "100%"}, level="warning"),
    Case(rule=disruption.spread_numbers, bad={f"{SPREAD}.maxSkew": 0}),
    Case(
        rule=disruption.spread_numbers,
        bad={f"{SPREAD}.minDomains": 2},
        good=[{f"{SPREAD}.minDomains": 2, f"{SPREAD}.whenUnsatisfiable": "DoNotSchedule"}],
    ),
    Case(
        rule=disruption.affinity_weight,
        bad={
            "pod.affinity.podAntiAffinity.preferredDuringSchedulingIgnoredDuringExecution": [
                {"weight": 0, "podAffinityTerm": {"topologyKey": "kubernetes.io/hostname"}}
            ]
        },
        field="[0].weight",
    ),
    Case(
        rule=disruption.affinity_weight,
        bad={"pod.affinity.podAntiAffinity.requiredDuringSchedulingIgnoredDuringExecution": [{"labelSelector": {}}]},
        field="topologyKey",
    ),
    Case(
        rule=disruption.topology_key,
        bad={f"{SPREAD}.topologyKey": "topology.kubernetes.io/zones"},
        good=[{f"{SPREAD}.topologyKey": "topology.kubernetes.io/rack"}, {f"{SPREAD}.topologyKey": "example.com/rack"}],
    ),
    Case(
        rule=disruption.topology_key,
        bad={
            "pod.affinity.podAntiAffinity.preferredDuringSchedulingIgnoredDuringExecution": [
                {"weight": 100, "podAffinityTerm": {"topologyKey": "kubernetes.oi/hostname"}}
            ]
        },
        level="warning",
        field="[0].podAffinityTerm.topologyKey",
    ),
    Case(
        rule=disruption.toleration_shape,
        bad={"pod.tolerations": [{"key": "nvidia.com/gpu", "operator": "Exists", "value": "true"}]},
        field="tolerations[0].value",
        good=[{"pod.tolerations": [{"key": "nvidia.com/gpu", "operator": "Exists"}, {"operator": "Exists"}]}],
    ),
    Case(rule=disruption.toleration_shape, bad={"pod.tolerations": [{"value": "a"}]}, field="tolerations[0].key"),
    Case(
        rule=disruption.toleration_shape,
        bad={"pod.tolerations": [{"key": "a", "effect": "NoSchedule", "tolerationSeconds": 9}]},
        field="tolerationSeconds",
    ),
    Case(rule=disruption.node_name, bad={"pod.nodeName": "node-1"}, level="warning"),
]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_finds_the_mistake_and_leaves_its_repair_alone(case: Case) -> None:
    case.check()


def test_finds_nothing_in_a_correct_set() -> None:
    assert findings(correct(), rules=disruption.RULES) == []
