from typing import Any

import pytest
from manifest_examples import FACTS, GONE, Case, correct, findings, named

from deploykit.deploy.check.rules import serving

MOUNT = {"name": "models", "mountPath": "/models"}
READ = {"triton.volumeMounts[2]": {**MOUNT, "readOnly": True}, "gateway.volumeMounts[1]": {**MOUNT, "readOnly": True}}
EMPTY = {"pod.volumes[3]": {"name": "models", "emptyDir": {"sizeLimit": "1Gi"}}}
PULL = "pod.initContainers[0]"


def fetch(*more: str, **body: Any) -> dict[str, Any]:
    args = ["pull", "s3://models/writer", "-o", "/models", f"--fingerprint={FACTS.fingerprint}", *more]
    container = {"name": "fetch", "image": "a:1", "command": ["deploykit"], "args": args, "volumeMounts": [dict(MOUNT)]}
    return {**EMPTY, **READ, "pod.initContainers": [{**container, **body}]}


ROUTE = named("HTTPRoute", spec={"rules": [{"matches": [{"path": {"value": "/v2/models/writer"}}]}]})
SETTINGS = {"name": "DEPLOYKIT_ENGINE"}

CASES = [
    Case(
        rule=serving.models_empty,
        bad={**EMPTY, **READ},
        field="volumeMounts[2]",
        good=[fetch(), {**EMPTY, **READ, "pod.initContainers": [{"name": "copy", "volumeMounts": [dict(MOUNT)]}]}],
    ),
    Case(
        rule=serving.models_hidden,
        bad={"pod.volumes[3]": {"name": "models", "configMap": {"name": "a"}}, **READ},
        field="volumeMounts[2]",
        good=[{"pod.volumes[3]": {"name": "models", "persistentVolumeClaim": {"claimName": "a"}}, **READ}],
    ),
    Case(rule=serving.models_not_shared, bad={**fetch(), f"{PULL}.args[3]": "/model"}, field="args[2]", good=[fetch()]),
    Case(
        rule=serving.models_not_shared,
        bad={**fetch(), "triton.volumeMounts[2].mountPath": "/data", "gateway.volumeMounts[1].mountPath": "/data"},
        field="args[2]",
    ),
    Case(
        rule=serving.download_read_only,
        bad={**fetch(), f"{PULL}.volumeMounts[0].readOnly": True},
        field="volumeMounts[0]",
    ),
    Case(
        rule=serving.download_beside_servers,
        bad={**fetch(), "pod.containers[2]": fetch()["pod.initContainers"][0]},
        field="containers[2]",
        good=[fetch()],
    ),
    Case(
        rule=serving.fingerprint_differs,
        bad={**fetch(), f"{PULL}.args[4]": f"--fingerprint={'c' * 64}"},
        good=[fetch()],
    ),
    Case(rule=serving.fingerprint_differs, bad={**fetch(), f"{PULL}.args[4]": "--fingerprint=abc"}, facts=None),
    Case(
        rule=serving.model_path_relative,
        bad={"triton.args[1]": "models"},
        field="args",
        level="warning",
        good=[{"triton.args[1]": "models", "triton.workingDir": "/"}],
    ),
    Case(
        rule=serving.other_model_in_route,
        bad={"HTTPRoute.spec.rules[0].matches[0].path.value": "/v2/models/reader/generate"},
        objects=[*correct(), ROUTE],
    ),
    Case(
        rule=serving.engine_settings,
        bad={"triton.env[1]": {**SETTINGS, "value": '{"max_row": 8}'}},
        field="env[1].value",
        good=[{"triton.env[1]": {**SETTINGS, "value": '{"max_rows": 8, "cache_memory": "2GiB"}'}}],
    ),
    Case(
        rule=serving.engine_settings, bad={"triton.env[1]": {**SETTINGS, "value": "max_rows=8"}}, field="env[1].value"
    ),
    Case(
        rule=serving.engine_settings,
        bad={"triton.env[1]": {**SETTINGS, "value": '{"max_rows": 0}'}},
        field="env[1].value",
    ),
    Case(rule=serving.cache_below_one_request, bad={"triton.args[5]": "--cache-memory=1MiB"}, level="warning"),
]


def test_lets_the_image_hold_the_model() -> None:
    assert findings(correct(), rules=serving.RULES) == []
    assert GONE is not None


@pytest.mark.parametrize("case", CASES, ids=str)
def test_finds_the_mistake_and_leaves_its_repair_alone(case: Case) -> None:
    case.check()


def test_finds_nothing_in_a_correct_set() -> None:
    assert findings(correct(), rules=serving.RULES) == []
