import pytest
from manifest_examples import GONE, Case, correct, findings, named

from deploykit.deploy.check.rules import security

OWN, POD = "triton.securityContext", "pod.securityContext"
ENFORCED = named("Namespace")
ENFORCED["metadata"] = {"name": "writer", "labels": {"pod-security.kubernetes.io/enforce": "restricted"}}
LEVEL = "Namespace.metadata.labels.`pod-security.kubernetes.io/enforce`"
FAULTS: dict[str, tuple[object, str]] = {
    "pod.hostNetwork": (True, ""),
    "pod.hostPID": (True, ""),
    "pod.volumes[0].emptyDir": (GONE, "volumes[0].hostPath"),
    f"{POD}.runAsNonRoot": (GONE, "runAsNonRoot"),
    f"{POD}.seccompProfile": (GONE, "seccompProfile.type"),
    f"{POD}.runAsUser": (0, ""),
    f"{OWN}.privileged": (True, ""),
    f"{OWN}.allowPrivilegeEscalation": (GONE, "allowPrivilegeEscalation"),
    f"{OWN}.capabilities.drop": (["NET_RAW"], ""),
    f"{OWN}.capabilities.add": (["NET_ADMIN"], "add[0]"),
    "triton.ports[0].hostPort": (8000, ""),
}
EXTRA = {"pod.volumes[0].emptyDir": {"pod.volumes[0].hostPath": {"path": "/tmp"}}}

CASES = [
    Case(rule=security.root_forbidden, bad={f"{POD}.runAsUser": 0}, good=[{f"{POD}.runAsUser": GONE}]),
    Case(rule=security.root_forbidden, bad={f"{OWN}.runAsUser": 0}),
    Case(rule=security.ids_negative, bad={f"{POD}.fsGroup": -1}),
    Case(
        rule=security.privileged_without_escalation, bad={f"{OWN}.privileged": True}, field="allowPrivilegeEscalation"
    ),
    Case(
        rule=security.capability_both_ways,
        bad={f"{OWN}.capabilities": {"add": ["NET_RAW"], "drop": ["NET_RAW"]}},
        field="add[0]",
        level="warning",
        good=[{f"{OWN}.capabilities": {"add": ["NET_BIND_SERVICE"], "drop": ["ALL"]}}],
    ),
    Case(rule=security.capability_both_ways, bad={f"{OWN}.capabilities.drop[0]": "all"}, level="warning"),
    Case(
        rule=security.seccomp_profile,
        bad={f"{POD}.seccompProfile": {"type": "Localhost"}},
        field="localhostProfile",
        good=[{f"{POD}.seccompProfile": {"type": "Localhost", "localhostProfile": "a.json"}}],
    ),
    *(
        Case(
            rule=security.pod_security,
            bad={**EXTRA.get(path, {}), path: value},
            field=field,
            level=level,  # type: ignore[arg-type]
            objects=[*correct(), *more],
        )
        for path, (value, field) in FAULTS.items()
        for level, more in (("warning", []), ("error", [ENFORCED]))
    ),
    Case(
        rule=security.pod_security_baseline,
        bad={LEVEL: "baseline", "pod.hostIPC": True},
        objects=[*correct(), ENFORCED],
        good=[{LEVEL: "baseline", f"{POD}.runAsNonRoot": GONE, f"{OWN}.capabilities.add": ["CHOWN"]}],
    ),
    Case(rule=security.pod_security_level, bad={LEVEL: "strict"}, field="/enforce", objects=[ENFORCED]),
    Case(
        rule=security.service_account_token,
        bad={"pod.automountServiceAccountToken": True},
        level="warning",
        good=[{"pod.automountServiceAccountToken": GONE}],
    ),
]


def test_lets_foreign_software_be_root_where_nothing_forbids_it() -> None:
    pod = named("Pod", spec={"containers": [{"name": "db", "image": "postgres:18"}]})

    assert findings([pod], rules=security.RULES) == []


@pytest.mark.parametrize("case", CASES, ids=str)
def test_finds_the_mistake_and_leaves_its_repair_alone(case: Case) -> None:
    case.check()


def test_finds_nothing_in_a_correct_set() -> None:
    assert findings(correct(), rules=security.RULES) == []
