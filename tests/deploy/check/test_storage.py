import pytest
from manifest_examples import GONE, Case, correct, findings, named

from deploykit.deploy.check.rules import storage

FETCH = {
    "name": "fetch",
    "command": ["deploykit"],
    "args": ["pull", "s3://models/writer", "-o", "/models"],
    "volumeMounts": [{"name": "models", "mountPath": "/models"}],
    "resources": {"limits": {"ephemeral-storage": "1Gi"}},
}
DOWNLOAD = {
    "pod.initContainers": [FETCH],
    "pod.volumes[3]": {"name": "models", "emptyDir": {"sizeLimit": "400Mi"}},
    "triton.volumeMounts[2]": {"name": "models", "mountPath": "/models", "readOnly": True},
}
CLAIM = named(
    "PersistentVolumeClaim", spec={"accessModes": ["ReadOnlyMany"], "resources": {"requests": {"storage": "1Gi"}}}
)
CLAIMED = {
    "pod.volumes[3]": {"name": "models", "persistentVolumeClaim": {"claimName": "writer", "readOnly": True}},
    "triton.volumeMounts[2]": {"name": "models", "mountPath": "/models", "readOnly": True},
}
ONE_NODE = {**CLAIMED, "PersistentVolumeClaim.spec.accessModes": ["ReadWriteOnce"]}
ONE_POD = {**CLAIMED, "PersistentVolumeClaim.spec.accessModes": ["ReadWriteOncePod"]}

CASES = [
    Case(rule=storage.mount_path, bad={"triton.volumeMounts[0].mountPath": "C:/tmp"}),
    Case(
        rule=storage.mount_path,
        bad={"triton.volumeMounts[0].subPath": "../etc"},
        good=[{"triton.volumeMounts[0].subPath": "a/..b"}],
    ),
    Case(
        rule=storage.claim,
        bad={"PersistentVolumeClaim.spec.accessModes": ["ReadWriteOncePod", "ReadWriteOnce"]},
        objects=[CLAIM],
    ),
    Case(
        rule=storage.claim,
        bad={"PersistentVolumeClaim.spec.resources": GONE},
        field="requests.storage",
        objects=[CLAIM],
    ),
    Case(
        rule=storage.claim_too_small,
        bad={**CLAIMED, "PersistentVolumeClaim.spec.resources.requests.storage": "200Mi"},
        objects=[*correct(), CLAIM],
        good=[CLAIMED],
    ),
    Case(
        rule=storage.claim_shared,
        bad=ONE_NODE,
        field="claimName",
        level="warning",
        objects=[*correct(), CLAIM],
        good=[
            CLAIMED,
            {**ONE_NODE, "Deployment.spec.replicas": 1, "Deployment.spec.strategy": {"type": "Recreate"}},
        ],
    ),
    Case(rule=storage.claim_shared, bad=ONE_POD, field="claimName", objects=[*correct(), CLAIM]),
    Case(
        rule=storage.claim_shared,
        bad={**ONE_NODE, "Deployment.spec.replicas": 1},
        field="claimName",
        level="warning",
        objects=[*correct(), CLAIM],
    ),
    Case(
        rule=storage.disk_over_limit,
        bad={"pod.volumes[0].emptyDir.sizeLimit": "3Gi"},
        level="warning",
        good=[{"pod.volumes[0].emptyDir.sizeLimit": "3Gi", "triton.resources.limits.`ephemeral-storage`": GONE}],
    ),
    Case(
        rule=storage.download_too_large,
        bad={**DOWNLOAD, "pod.volumes[3].emptyDir.sizeLimit": "200Mi"},
        good=[DOWNLOAD],
    ),
    Case(
        rule=storage.download_too_large,
        bad={**DOWNLOAD, "pod.initContainers[0].resources.limits.`ephemeral-storage`": "100Mi"},
    ),
    Case(
        rule=storage.tmp_read_only,
        bad={"triton.volumeMounts[0]": GONE},
        field="readOnlyRootFilesystem",
        good=[
            {"triton.volumeMounts[0]": GONE, "triton.securityContext": {}},
            {"triton.volumeMounts[0].mountPath": "/work", "triton.env[0]": {"name": "TMPDIR", "value": "/work"}},
        ],
    ),
    Case(rule=storage.tmp_read_only, bad={"triton.volumeMounts[0].readOnly": True}, field="volumeMounts[0]"),
]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_finds_the_mistake_and_leaves_its_repair_alone(case: Case) -> None:
    case.check()


def test_finds_nothing_in_a_correct_set() -> None:
    assert findings(correct(), rules=storage.RULES) == []
