"""The number of pods follows the requests in flight."""

from dataclasses import replace
from typing import Any

import promql_parser
import pytest
import yaml
from deployments import EVERYTHING, FACTS, NAME, Object, find

from deploykit.deploy.config import DeployConfig
from deploykit.deploy.scaling import adapter_rules, arithmetic, components, files, in_flight_query, target
from deploykit.deploy.sizing import size_pod
from deploykit.deploy.steps import first
from deploykit.deploy.yaml_text import dump

HPA = DeployConfig(scaling="hpa", replicas=3, max_replicas=9)


def scaler(config: DeployConfig) -> Object:
    """Return the one object of the scaling's component."""
    (component,) = components(FACTS, size_pod(FACTS, config), config)
    (documents,) = component.resources.values()
    (found,) = yaml.safe_load_all(dump(documents))
    return dict(found)


def behavior(config: DeployConfig) -> Any:
    spec = scaler(config)["spec"]
    return spec.get("behavior") or spec["advanced"]["horizontalPodAutoscalerConfig"]["behavior"]


@pytest.mark.parametrize(("rows", "expected"), [(1, 1), (2, 1), (4, 3), (16, 12), (100, 75)])
def test_three_quarters_of_the_rows_are_to_be_taken(rows: int, expected: int) -> None:
    assert target(replace(FACTS, rows=rows)) == expected


def test_the_query_adds_what_runs_and_what_waits_of_these_pods_alone() -> None:
    query = promql_parser.parse(in_flight_query(FACTS, EVERYTHING))
    assert isinstance(query, promql_parser.AggregateExpr)
    assert str(query.op) == "sum"
    assert isinstance(query.expr, promql_parser.BinaryExpr)
    both = (query.expr.lhs, query.expr.rhs)
    assert [getattr(each, "name", None) for each in both] == ["num_requests_running", "num_requests_waiting"]
    for each in both:
        assert isinstance(each, promql_parser.VectorSelector)
        assert {(m.name, m.value) for m in each.matchers.matchers} == {("namespace", NAME), ("job", NAME)}


def test_the_query_looks_where_the_pods_are() -> None:
    assert 'namespace="writers"' in in_flight_query(FACTS, replace(EVERYTHING, namespace="writers"))


class TestHorizontalPodAutoscaler:
    def test_holds_the_pods_between_two_numbers_by_one_figure(self) -> None:
        spec = scaler(HPA)["spec"]
        assert spec["scaleTargetRef"] == {"apiVersion": "apps/v1", "kind": "Deployment", "name": NAME}
        assert (spec["minReplicas"], spec["maxReplicas"]) == (3, 9)
        (metric,) = spec["metrics"]
        assert metric["type"] == "Pods"
        assert metric["pods"]["target"] == {"type": "AverageValue", "averageValue": "12"}

    def test_asks_for_what_the_adapters_rule_offers(self) -> None:
        (rule,) = adapter_rules()["rules"]["custom"]
        assert scaler(HPA)["spec"]["metrics"][0]["pods"]["metric"]["name"] == rule["name"]["as"]

    def test_gets_the_same_figure_from_the_adapter_as_keda_from_prometheus(self) -> None:
        (rule,) = adapter_rules()["rules"]["custom"]
        query = rule["metricsQuery"].replace("<<.GroupBy>>", "pod")
        query = query.replace("<<.LabelMatchers>>", f'namespace="{NAME}",job="{NAME}"')
        expected = in_flight_query(FACTS, HPA).replace("sum(", "sum by (pod) (")
        assert promql_parser.parse(query).prettify() == promql_parser.parse(expected).prettify()
        promql_parser.parse(rule["seriesQuery"])

    def test_alone_comes_with_a_rule_for_the_adapter(self) -> None:
        assert list(files(HPA)) == ["hpa/prometheus-adapter.yaml"]
        assert files(EVERYTHING) == files(DeployConfig()) == {}


class TestScaledObject:
    def test_shares_the_figure_of_all_pods_among_them(self) -> None:
        (trigger,) = scaler(EVERYTHING)["spec"]["triggers"]
        assert (trigger["type"], trigger["metricType"]) == ("prometheus", "AverageValue")
        assert trigger["metadata"]["query"] == in_flight_query(FACTS, EVERYTHING)
        assert trigger["metadata"]["threshold"] == "12"
        assert trigger["metadata"]["serverAddress"] == EVERYTHING.prometheus
        # KEDA's schema takes nothing but text there.
        assert {type(value) for value in trigger["metadata"].values()} == {str}

    def test_takes_no_pod_away_while_prometheus_is_silent(self) -> None:
        spec = scaler(EVERYTHING)["spec"]
        assert spec["triggers"][0]["metadata"]["ignoreNullValues"] == "false"
        assert spec["fallback"]["behavior"] == "currentReplicasIfHigher"
        assert spec["fallback"]["replicas"] == spec["minReplicaCount"] == 2
        # So that a restart of Prometheus is no reason for it.
        assert spec["fallback"]["failureThreshold"] * spec["pollingInterval"] >= 60

    def test_never_goes_down_to_no_pod(self) -> None:
        spec = scaler(EVERYTHING)["spec"]
        assert 2 <= spec["minReplicaCount"] <= spec["maxReplicaCount"]
        assert "idleReplicaCount" not in spec

    def test_names_the_deployment_that_is_there(self, everything: list[Object]) -> None:
        reference = find(everything, "ScaledObject")["spec"]["scaleTargetRef"]
        assert find(everything, reference["kind"])["metadata"]["name"] == reference["name"]
        assert "replicas" not in find(everything, reference["kind"])["spec"]


@pytest.mark.parametrize("config", [HPA, EVERYTHING], ids=["hpa", "keda"])
class TestBoth:
    def test_go_up_at_once(self, config: DeployConfig) -> None:
        up = behavior(config)["scaleUp"]
        assert up["stabilizationWindowSeconds"] == 0
        assert up["selectPolicy"] == "Max"
        assert all(policy["periodSeconds"] <= 60 for policy in up["policies"])

    def test_go_down_a_pod_at_a_time_after_five_minutes(self, config: DeployConfig) -> None:
        down = behavior(config)["scaleDown"]
        assert down["stabilizationWindowSeconds"] == 300
        (policy,) = down["policies"]
        assert (policy["type"], policy["value"]) == ("Pods", 1)
        # The one before is gone by then.
        assert policy["periodSeconds"] >= size_pod(FACTS, config).grace

    def test_say_how_they_came_to_their_figures(self, config: DeployConfig) -> None:
        told = {line.what: (line.value, line.how) for line in arithmetic(FACTS, config)}
        assert told["requests in flight of a pod"][0] == "12"
        assert "75 % of 16 rows" in told["requests in flight of a pod"][1]
        assert told["until one more pod serves"][0] == "52 s"

    def test_stay_within_what_kubernetes_takes(self, config: DeployConfig) -> None:
        long = replace(config, exit_timeout=3000)
        assert behavior(long)["scaleDown"]["policies"][0]["periodSeconds"] == 1800


@pytest.mark.parametrize(("monitoring", "told"), [(True, 0), (False, 1)])
def test_what_must_be_read_from_the_pods_is_told_where_nothing_here_has_it_read(monitoring: bool, told: int) -> None:
    steps = first(FACTS, replace(EVERYTHING, monitoring=monitoring), "out")
    commands = [command for step in steps for command in step.commands]
    assert sum(in_flight_query(FACTS, EVERYTHING) in command for command in commands) == told


def test_without_it_there_is_nothing() -> None:
    config = DeployConfig()
    assert not components(FACTS, size_pod(FACTS, config), config)
    assert not arithmetic(FACTS, config)
