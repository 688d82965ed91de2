"""The component `monitoring`: what Prometheus reads is what the pods have, and nothing is there unasked."""

import json
from dataclasses import replace
from typing import Any

import pytest
from deploy.monitored import facts
from deployments import EVERYTHING, FACTS, NAME, Object, containers, find, pod_of

from deploykit.deploy.config import METRICS_PORT, DeployConfig
from deploykit.deploy.facts import ModelFacts
from deploykit.deploy.monitoring import GRAFANA_LABEL, components, dashboard_map, prometheus_rule
from deploykit.deploy.names import TRITON
from deploykit.deploy.prometheus import series_of
from deploykit.deploy.sizing import size_pod

LONG = replace(facts(), name="Model_" + "x" * 120)


def test_nothing_is_monitored_unasked() -> None:
    config = DeployConfig()
    assert components(facts(), size_pod(facts(), config), config) == []


def test_prometheus_finds_the_pods_and_the_port_where_triton_tells_its_figures(everything: list[Object]) -> None:
    spec = find(everything, "PodMonitor", NAME)["spec"]
    deployment = find(everything, "Deployment", NAME)
    labels: dict[str, str] = deployment["spec"]["template"]["metadata"]["labels"]
    assert spec["selector"]["matchLabels"].items() <= labels.items()
    (endpoint,) = spec["podMetricsEndpoints"]
    ports = {
        port["name"]: (container["name"], port["containerPort"])
        for container in containers(pod_of(everything))
        for port in container.get("ports", [])
    }
    assert ports[endpoint["port"]] == (TRITON, METRICS_PORT)
    assert endpoint["path"] == "/metrics"


def test_alerts_and_scaling_ask_for_what_prometheus_labels_so(everything: list[Object]) -> None:
    """The `job` comes from a label of the pods, the namespace from where they are."""
    deployment = find(everything, "Deployment", NAME)
    label = find(everything, "PodMonitor", NAME)["spec"]["jobLabel"]
    job = deployment["spec"]["template"]["metadata"]["labels"][label]
    expected = f'namespace="{deployment["metadata"]["namespace"]}",job="{job}"'
    assert series_of(FACTS, EVERYTHING) == expected
    rules = [rule for group in _groups(everything) for rule in group["rules"]]
    ours = [rule for rule in rules if "kube_" not in rule["expr"]]
    assert len(ours) > 10
    assert all(expected in rule["expr"] for rule in ours)


def test_alerts_of_the_cluster_ask_for_the_objects_that_are_there(everything: list[Object]) -> None:
    exprs = {rule["alert"]: rule["expr"] for group in _groups(everything) for rule in group["rules"]}
    assert f'deployment="{NAME}"' in exprs["DeploykitPodsMissing"]
    assert find(everything, "Deployment", NAME)
    # KEDA names the HorizontalPodAutoscaler that it makes.
    assert f'"keda-hpa-{NAME}"' in exprs["DeploykitScalerBlind"]
    assert find(everything, "ScaledObject", NAME)


def test_grafana_finds_the_dashboard(everything: list[Object]) -> None:
    found = find(everything, "ConfigMap", f"{NAME}-dashboard")
    assert found["metadata"]["labels"][GRAFANA_LABEL] == "1"
    ((name, text),) = found["data"].items()
    assert name == f"{NAME}.json"
    assert json.loads(text)["title"] == f"deploykit: {FACTS.name}"
    # What fits an annotation of `kubectl apply`; the API server takes four times that.
    assert len(json.dumps(found)) < 262_144


def test_the_gateway_is_not_read_and_the_component_says_so(everything: list[Object]) -> None:
    assert len(find(everything, "PodMonitor", NAME)["spec"]["podMetricsEndpoints"]) == 1
    (component,) = components(FACTS, size_pod(FACTS, EVERYTHING), EVERYTHING)
    assert "gateway's own /metrics answers only to a key" in component.comment


@pytest.mark.parametrize("model", [facts(), LONG], ids=["short", "long"])
def test_a_name_of_any_length_fits(model: ModelFacts) -> None:
    config = DeployConfig(monitoring=True, scaling="keda")
    about = dashboard_map(model, config)
    assert about.metadata is not None
    assert len(about.metadata.name or "") <= 63
    groups = prometheus_rule(model, size_pod(model, config), config).groups
    assert len({group.name for group in groups}) == len(groups) == 2


def _groups(objects: list[Object]) -> list[dict[str, Any]]:
    groups: list[dict[str, Any]] = find(objects, "PrometheusRule", NAME)["spec"]["groups"]
    return groups
