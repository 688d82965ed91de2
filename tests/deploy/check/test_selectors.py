from typing import Any

import pytest
from manifest_mutations import changed, found, objects

SPREAD = "spec.template.spec.topologySpreadConstraints[0].labelSelector"
APART = "spec.template.spec.affinity.podAntiAffinity.preferredDuringSchedulingIgnoredDuringExecution[0].podAffinityTerm"
LONG = "x" * 64


@pytest.mark.parametrize(
    ("rule", "file", "title", "path", "value", "field", "said"),
    [
        (
            "selector-not-in-template",
            "nginx",
            "Deployment/web",
            "spec.selector.matchLabels.app",
            "webb",
            "spec.selector.matchLabels.app",
            "have app: web",
        ),
        ("selector-not-in-template", "nginx", "Deployment/web", "spec.selector", {}, "spec.selector", "empty selector"),
        (
            "selects-nothing",
            "nginx",
            "Service/web",
            "spec.selector.app",
            "webs",
            "spec.selector.app",
            "requests go nowhere",
        ),
        (
            "selects-nothing",
            "nginx",
            "PodDisruptionBudget/web",
            "spec.selector.matchLabels.app",
            "wb",
            "spec.selector.matchLabels.app",
            "protects nothing",
        ),
        (
            "selects-nothing",
            "postgres",
            "NetworkPolicy/postgres",
            "spec.podSelector.matchLabels.app",
            "pg",
            "spec.podSelector.matchLabels.app",
            "holds for no pod",
        ),
        (
            "selects-nothing",
            "postgres",
            "Service/postgres",
            "metadata.namespace",
            "base",
            "metadata.namespace",
            "namespace data",
        ),
        (
            "monitor-selects-nothing",
            "triton",
            "ServiceMonitor/triton",
            "spec.selector.matchLabels.app",
            "server",
            "spec.selector",
            "metadata.labels",
        ),
        (
            "placement-misses-itself",
            "nginx",
            "Deployment/web",
            f"{SPREAD}.matchExpressions[0].values",
            ["wbe"],
            f"{SPREAD}.matchExpressions[0]",
            "spread counts none",
        ),
        (
            "placement-misses-itself",
            "nginx",
            "Deployment/worker",
            f"{APART}.labelSelector.matchLabels.app",
            "work",
            f"{APART}.labelSelector.matchLabels.app",
            "nothing keeps",
        ),
        (
            "selector-overlap",
            "canary",
            "Deployment/shop-stable",
            "spec.selector.matchLabels",
            {"app": "shop"},
            "spec.selector",
            "Deployment/shop-canary",
        ),
        (
            "weights-overlap",
            "canary",
            "Service/shop-stable",
            "spec.selector",
            {"app": "shop"},
            "spec.selector",
            "weights don't hold",
        ),
        (
            "service-catches-others",
            "canary",
            "Deployment/shop-canary",
            "spec.template.spec.containers[0].ports[0].containerPort",
            9090,
            "spec.selector",
            "shop-canary don't declare",
        ),
    ],
)
def test_finds_selectors_that_miss(
    rule: str, file: str, title: str, path: str, value: Any, field: str, said: str
) -> None:
    matching = [each for each in found(changed(file, title, (path, value))) if each.rule == rule]

    assert [each.field for each in matching] == [field]
    assert said in f"{matching[0].why}; {matching[0].remedy}"


def test_finds_two_budgets_on_the_same_pods() -> None:
    bodies = objects("nginx")
    second = next(body for body in bodies if body["kind"] == "PodDisruptionBudget")
    bodies.append({**second, "metadata": {"name": "second"}, "spec": {"maxUnavailable": 1, "selector": {}}})
    assert "budgets-overlap" in {each.rule for each in found(bodies)}


def test_a_service_alone_may_select_pods_of_other_files() -> None:
    assert found([body for body in objects("nginx") if body["kind"] == "Service"]) == []


def test_pods_may_come_from_a_kind_that_is_not_known() -> None:
    rollout = {"apiVersion": "argoproj.io/v1alpha1", "kind": "Rollout", "metadata": {"name": "other"}, "spec": {}}
    bodies = changed("nginx", "Service/web", ("spec.selector", {"app": "other"}))
    assert "selects-nothing" not in {each.rule for each in found([*bodies, rollout])}


@pytest.mark.parametrize(
    ("rule", "title", "path", "value", "field"),
    [
        ("object-name", "Deployment/web", "metadata.name", "Web_1", "metadata.name"),
        ("object-name", "Service/web", "metadata.name", "1web", "metadata.name"),
        ("object-name", "Service/web", "metadata.name", LONG, "metadata.name"),
        (
            "part-name",
            "Deployment/web",
            "spec.template.spec.containers[0].name",
            "Nginx",
            "spec.template.spec.containers[0].name",
        ),
        ("label-syntax", "Deployment/web", "metadata.labels.tier", LONG, "metadata.labels.tier"),
        ("label-syntax", "Deployment/web", "metadata.labels.tier", "a b", "metadata.labels.tier"),
        ("label-syntax", "Deployment/web", "metadata.labels.`a/b/c`", "x", "metadata.labels.a/b/c"),
        ("data-key", "ConfigMap/web-pages", "data.`a b`", "x", "data.a b"),
        ("object-twice", "Deployment/worker", "metadata.name", "web", "metadata.name"),
    ],
)
def test_finds_names_that_the_api_refuses(rule: str, title: str, path: str, value: Any, field: str) -> None:
    matching = [each for each in found(changed("nginx", title, (path, value))) if each.rule == rule]

    assert [each.field for each in matching] == [field]


def test_finds_a_namespace_that_is_almost_the_one_that_is_made() -> None:
    bodies = changed("postgres", "CronJob/backup", ("metadata.namespace", "dta"))
    assert [each.remedy for each in found(bodies) if each.rule == "namespace-missing"] == ["write data"]
