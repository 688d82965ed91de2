import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
from manifest_mutations import CORRECT, GONE, all_structs, changed, found, objects

from deploykit.deploy.check import api
from deploykit.deploy.check.typed import fields_of

WEB = "Deployment/web"
CONTAINER = "spec.template.spec.containers[0]"


@pytest.mark.parametrize("name", sorted(path.stem for path in CORRECT.glob("*.yaml")))
def test_leaves_correct_manifests_alone(name: str) -> None:
    assert found(objects(name)) == []


@pytest.mark.parametrize(
    ("rule", "title", "path", "value", "field", "said"),
    [
        ("number-out-of-range", WEB, "spec.replicas", 100_000_000_000, "spec.replicas", "32 bits, 2147483647 at most"),
        (
            "number-out-of-range",
            WEB,
            "spec.template.spec.terminationGracePeriodSeconds",
            2**63,
            "spec.template.spec.terminationGracePeriodSeconds",
            "64 bits",
        ),
        ("unknown-kind", WEB, "kind", "Deploymnt", "kind", "write Deployment"),
        ("unknown-kind", WEB, "apiVersion", "app/v1", "apiVersion", "write apiVersion: apps/v1"),
        ("unknown-kind", WEB, "apiVersion", "v1", "apiVersion", "write apiVersion: apps/v1"),
        ("unknown-kind", "Service/web", "apiVersion", "core/v1", "apiVersion", "write apiVersion: v1"),
        ("unknown-kind", "Ingress/web", "apiVersion", "networking.k8.io/v1", "apiVersion", "networking.k8s.io/v1"),
        ("unknown-kind", WEB, "apiVersion", GONE, "apiVersion", "add apiVersion: apps/v1"),
        ("removed-api", WEB, "apiVersion", "extensions/v1beta1", "apiVersion", "write apiVersion: apps/v1"),
        ("removed-api", "HorizontalPodAutoscaler/worker", "apiVersion", "autoscaling/v2beta2", "apiVersion", "1.26"),
        ("removed-api", "PodDisruptionBudget/web", "apiVersion", "policy/v1beta1", "apiVersion", "1.25"),
        ("removed-api", "Ingress/web", "apiVersion", "networking.k8s.io/v1beta1", "apiVersion", "1.22"),
        ("unknown-field", WEB, "spec.replica", 2, "spec.replica", "write replicas"),
        ("unknown-field", WEB, f"{CONTAINER}.livenessprobe", {}, f"{CONTAINER}.livenessprobe", "write livenessProbe"),
        ("unknown-field", WEB, "spec.containers", [], "spec.containers", "belongs in spec.template.spec"),
        (
            "unknown-field",
            "Service/web",
            "spec.ports[0].containerPort",
            1,
            "spec.ports[0].containerPort",
            "take it out",
        ),
        ("missing-field", WEB, "spec.selector", GONE, "spec.selector", "refuses DeploymentSpec without it"),
        ("missing-field", WEB, f"{CONTAINER}.image", GONE, f"{CONTAINER}.image", "without it"),
        ("missing-field", "Service/web", "spec.ports[0].port", GONE, "spec.ports[0].port", "without it"),
        ("missing-field", "Ingress/web", "metadata.name", GONE, "metadata.name", "without a name"),
        ("wrong-type", WEB, "spec.replicas", "3", "spec.replicas", "take the quotes away: 3"),
        ("wrong-type", WEB, f"{CONTAINER}.env[1].value", 2, f"{CONTAINER}.env[1].value", 'in quotes: "2"'),
        ("wrong-type", WEB, f"{CONTAINER}.args", "--fast", f"{CONTAINER}.args", "wants a list"),
        ("wrong-type", WEB, "metadata.labels.tier", True, "metadata.labels.tier", 'in quotes: "true"'),
        ("wrong-type", WEB, "spec.template.spec", ["x"], "spec.template.spec", "wants a mapping"),
        (
            "bad-quantity",
            WEB,
            f"{CONTAINER}.resources.limits.memory",
            "128MB",
            f"{CONTAINER}.resources.limits.memory",
            "Mi",
        ),
        ("bad-choice", WEB, f"{CONTAINER}.imagePullPolicy", "always", f"{CONTAINER}.imagePullPolicy", "write Always"),
        (
            "bad-choice",
            WEB,
            f"{CONTAINER}.ports[0].protocol",
            "http",
            f"{CONTAINER}.ports[0].protocol",
            "TCP, UDP, SCTP",
        ),
        ("bad-choice", "Service/web", "spec.type", "Loadbalancer", "spec.type", "write LoadBalancer"),
        ("bad-choice", "NetworkPolicy/default-deny", "spec.policyTypes[1]", "egress", "spec.policyTypes[1]", "Egress"),
        ("not-one-of", WEB, f"{CONTAINER}.env[0].value", "x", f"{CONTAINER}.env[0]", "exclude each other"),
        (
            "not-one-of",
            WEB,
            f"{CONTAINER}.readinessProbe.tcpSocket",
            {"port": 1},
            f"{CONTAINER}.readinessProbe",
            "exclude",
        ),
        ("not-one-of", WEB, f"{CONTAINER}.readinessProbe.httpGet", GONE, f"{CONTAINER}.readinessProbe", "wants one of"),
        ("not-one-of", "PodDisruptionBudget/web", "spec.maxUnavailable", 1, "spec", "exclude each other"),
        (
            "not-one-of",
            WEB,
            "spec.template.spec.volumes[0].configMap",
            GONE,
            "spec.template.spec.volumes[0]",
            "wants one",
        ),
        (
            "item-twice",
            WEB,
            f"{CONTAINER}.volumeMounts[1].mountPath",
            "/usr/share/nginx/html/index.html",
            f"{CONTAINER}.volumeMounts[1].mountPath",
            "volumeMounts[0] has the same",
        ),
        (
            "item-twice",
            WEB,
            "spec.template.spec.volumes[1].name",
            "pages",
            "spec.template.spec.volumes[1].name",
            "same",
        ),
    ],
)
def test_finds_what_the_api_refuses(rule: str, title: str, path: str, value: Any, field: str, said: str) -> None:
    matching = [each for each in found(changed("nginx", title, (path, value))) if each.rule == rule]

    assert [each.field for each in matching] == [field]
    assert said in f"{matching[0].why}; {matching[0].remedy}"
    assert matching[0].level == "error"


def test_leaves_kinds_alone_that_it_does_not_know() -> None:
    body = {"apiVersion": "example.com/v1", "kind": "Widget", "metadata": {"name": "w"}, "spec": {"anything": [1]}}
    assert found([body]) == []


def test_finds_a_misspelt_field_of_a_custom_resource_and_leaves_unknown_ones_alone() -> None:
    misspelt = changed("canary", "ScaledObject/shop", ("spec.minReplicasCount", 2), ("spec.somethingNew", 1))
    assert [(each.rule, each.field) for each in found(misspelt) if each.rule == "unknown-field"] == []
    del misspelt[6]["spec"]["minReplicaCount"]
    assert [each.remedy for each in found(misspelt) if each.rule == "unknown-field"] == ["write minReplicaCount"]


def test_tables_name_fields_that_the_api_has() -> None:
    structs: dict[str, set[str]] = {}
    for struct in all_structs():
        structs.setdefault(struct.__name__, set()).update(fields_of(struct))
    named = {
        *api.CHOICES,
        *api.KEYS,
        *((struct, name) for struct, names in api.EXACTLY_ONE.items() for name in names),
        *((struct, name) for struct, groups in api.AT_MOST_ONE.items() for names in groups for name in names),
    }

    assert {(struct, name) for struct, name in named if name not in structs.get(struct, ())} == set()


def test_the_numbers_of_64_bits_are_those_of_the_schema() -> None:
    schemas = Path(kubernetes_validate.__file__).parent / "kubernetes-json-schema" / "v1.37.0-local"
    wide = {name for file in schemas.glob("*.json") for name in _wide(json.loads(file.read_text("utf-8")))}
    # Kubernetes' schema says nothing of a limit: PrometheusRule has one, and lists that are asked for.
    assert wide - {"int", "ints"} == api.WIDE - {"limit"}


def _wide(part: Any) -> Iterator[str]:
    for name, field in part.get("properties", {}).items() if isinstance(part, dict) else ():
        if "int64" in (field.get("format"), field.get("items", {}).get("format")):
            yield name
        yield from _wide(field)
        yield from _wide(field.get("items"))
        yield from _wide(field.get("additionalProperties"))
