import pytest
from manifest_examples import GONE, Case, correct, findings

from deploykit.deploy.check.rules import memory

SHM = "pod.volumes[2].emptyDir"
LIMIT = "triton.resources.limits.memory"

CASES = [
    Case(
        rule=memory.memory_below_model,
        bad={LIMIT: "400Mi"},
        good=[{LIMIT: "800Mi"}, {LIMIT: GONE}, {LIMIT: "400Mi", "triton.command": ["other"]}],
    ),
    Case(rule=memory.memory_below_model, bad={LIMIT: "600Mi"}, level="warning"),
    Case(rule=memory.memory_below_model, bad={"triton.args[5]": "--cache-memory=1GiB"}, field="limits.memory"),
    Case(
        rule=memory.memory_below_model,
        bad={"triton.args[3]": "--max-rows=128", "triton.args[5]": "--log-requests"},
        field="limits.memory",
        good=[{"triton.args[3]": "--max-rows=16", "triton.args[5]": "--log-requests"}],
    ),
    Case(rule=memory.cache_over_limit, bad={"triton.args[5]": "--cache-memory=1GiB"}),
    Case(rule=memory.shm_too_small, bad={f"{SHM}.sizeLimit": "32Mi"}, good=[{"triton.volumeMounts[1]": GONE}]),
    Case(
        rule=memory.shm_too_small,
        bad={"triton.args[1]": "/one", "triton.args[10]": "/two", "triton.volumeMounts[1]": GONE},
        field="volumeMounts",
    ),
    Case(rule=memory.shm_unusable, bad={"triton.volumeMounts[1].readOnly": True}),
    Case(rule=memory.shm_unusable, bad={f"{SHM}.medium": GONE}, level="warning"),
    Case(rule=memory.files_over_limit, bad={f"{SHM}.sizeLimit": "1Gi"}),
    Case(rule=memory.files_without_limit, bad={f"{SHM}.sizeLimit": GONE}, level="warning"),
]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_finds_the_mistake_and_leaves_its_repair_alone(case: Case) -> None:
    case.check()


def test_finds_nothing_in_a_correct_set() -> None:
    assert findings(correct(), rules=memory.RULES) == []


def test_knows_no_peak_without_the_artifact() -> None:
    assert findings(correct(), rules=memory.RULES, facts=None) == []
