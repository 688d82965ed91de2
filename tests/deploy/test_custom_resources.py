"""Custom resources are what their operators' own schemas take: every value, and no field that they don't know."""

import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from deployments import Object, find

pytestmark = pytest.mark.slow

# Both are made of the operators' CustomResourceDefinitions. They drop no field and refuse none: TypeScript does.
PACKAGES = ("@kubernetes-models/keda@0.4.2", "@kubernetes-models/prometheus-operator@5.0.1", "typescript@5.9.3")
MODULES = {
    "ScaledObject": "@kubernetes-models/keda/keda.sh/v1alpha1/ScaledObject",
    "PodMonitor": "@kubernetes-models/prometheus-operator/monitoring.coreos.com/v1/PodMonitor",
    "PrometheusRule": "@kubernetes-models/prometheus-operator/monitoring.coreos.com/v1/PrometheusRule",
}
NEWER = {"ScaledObject": ("fallback", "behavior")}
"""What the operators know and these packages don't yet: `fallback.behavior` is in KEDA's definition since 2.17."""
Refused = Callable[[Object], str]


@pytest.fixture(scope="module")
def refused(tmp_path_factory: pytest.TempPathFactory) -> Refused:
    """Return a function that says why an object is refused: nothing where it is taken."""
    if not (shutil.which("npm") and shutil.which("node")):
        pytest.skip("npm and node bring the schemas of custom resources")
    folder = tmp_path_factory.mktemp("schemas")
    done = told(folder, "npm", "install", "--no-audit", "--no-fund", "--prefix", str(folder), *PACKAGES)
    if done.returncode:
        pytest.skip(f"no {', '.join(PACKAGES)} to be had here: {done.stderr.strip().splitlines()[-1]}")

    def refused(each: Object) -> str:
        kind, text = each["kind"], json.dumps(each)
        source = (
            f"import {{ {kind}, I{kind} }} from '{MODULES[kind]}';\nconst it: I{kind} = {text};\nexport {{ it }};\n"
        )
        (folder / "typed.mts").write_text(source)
        (folder / "check.mjs").write_text(
            f"import {{ {kind} }} from '{MODULES[kind]}';\nnew {kind}({text}).validate();\n"
        )
        flags = ["--noEmit", "--strict", "--skipLibCheck", "--module", "nodenext", "typed.mts"]
        return told(folder, "npx", "--no-install", "tsc", *flags).stdout + told(folder, "node", "check.mjs").stderr

    return refused


def told(folder: Path, *command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("kind", MODULES)
def test_is_one_by_its_operators_schema(kind: str, refused: Refused, everything: list[Object]) -> None:
    good = json.loads(json.dumps(find(everything, kind)))
    if newer := NEWER.get(kind):
        assert newer[1] in refused(good)  # else this exception is to be deleted
        del good["spec"][newer[0]][newer[1]]
    assert refused(good) == ""
    assert "surplus" in refused({**good, "spec": {**good["spec"], "surplus": 1}})


@pytest.mark.parametrize(
    ("kind", "field", "value"),
    [
        ("ScaledObject", "minReplicaCount", "two"),
        ("ScaledObject", "triggers", None),
        ("PodMonitor", "podMetricsEndpoints", [{"port": 8002}]),
        ("PodMonitor", "podMetricsEndpoints", [{"prt": "metrics"}]),
        ("PodMonitor", "selector", None),
        ("PrometheusRule", "groups", [{"name": "writer", "rules": [{"alert": "Down", "expr": "up == 0", "for": 60}]}]),
        ("PrometheusRule", "groups", [{"name": "writer", "rules": [{"alert": "Down", "expression": "up == 0"}]}]),
    ],
)
def test_a_mistake_in_it_is_refused(
    kind: str, field: str, value: object, refused: Refused, everything: list[Object]
) -> None:
    good = find(everything, kind)
    assert refused({**good, "spec": {**good["spec"], field: value}})
