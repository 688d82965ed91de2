import pytest
from manifest_examples import Case, correct, findings

from deploykit.deploy.check.rules import gpu

LIMITS = "triton.resources.limits"
NODE = {"pod.nodeSelector": {"nvidia.com/gpu.product": "NVIDIA-L4"}}
TOLERANT = {"pod.tolerations": [{"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}]}

CASES = [
    Case(
        rule=gpu.gpu_name,
        bad={f"{LIMITS}.`nvidia.com/gpus`": 1},
        good=[
            {f"{LIMITS}.`nvidia.com/gpu`": 1},
            {f"{LIMITS}.`nvidia.com/mig-1g.10gb`": 1},
            {f"{LIMITS}.`amd.com/gpu`": 1},
            {f"{LIMITS}.`example.com/gpus`": 1},
        ],
    ),
    Case(rule=gpu.gpu_name, bad={f"{LIMITS}.`nvidia/gpu`": 1}),
    Case(rule=gpu.gpu_name, bad={f"{LIMITS}.`nvidia.com/mig-10gb`": 1}, level="warning"),
    Case(
        rule=gpu.gpu_kinds,
        bad={f"{LIMITS}.`nvidia.com/gpu`": 1, "gateway.resources.limits.`nvidia.com/mig-1g.10gb`": 1},
        field="spec.template.spec",
        level="warning",
    ),
    Case(
        rule=gpu.gpu_node_without_toleration,
        bad=NODE,
        field="tolerations",
        level="warning",
        good=[{**NODE, **TOLERANT}, {**NODE, "pod.tolerations": [{"operator": "Exists"}]}],
    ),
    Case(
        rule=gpu.gpu_node_without_gpu,
        bad={**NODE, **TOLERANT},
        field="nodeSelector.nvidia.com/gpu.product",
        level="warning",
        good=[{**NODE, **TOLERANT, f"{LIMITS}.`nvidia.com/gpu`": 1}],
    ),
]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_finds_the_mistake_and_leaves_its_repair_alone(case: Case) -> None:
    case.check()


def test_finds_nothing_in_a_correct_set() -> None:
    assert findings(correct(), rules=gpu.RULES) == []
