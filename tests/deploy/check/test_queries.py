import json

import pytest
from manifest_examples import GONE, Case, alerts, correct, findings, keda, named, scaled, scaler

from deploykit.deploy.check.promql import FAMILIES, SERIES
from deploykit.deploy.check.rules import queries
from deploykit.engine.metrics import Metrics as EngineMetrics
from deploykit.gateway.metrics import Metrics as GatewayMetrics

EXPR = "PrometheusRule.spec.groups[0].rules[0].expr"
QUERY = "ScaledObject.spec.triggers[0].metadata.query"
ALERTED = [*correct(), alerts()]
ADAPTER = named(
    "ConfigMap", "adapter",
    data={"config.yaml": json.dumps({"rules": [{
        "seriesQuery": 'num_requests_waiting{pod!=""}', "name": {"as": "num_requests_waiting"},
        "metricsQuery": "sum(<<.Series>>{<<.LabelMatchers>>}) by (<<.GroupBy>>)",
    }]})},
)  # fmt: skip


def board(expr: str) -> dict[str, object]:
    return {"dashboard.json": json.dumps({"panels": [{"targets": [{"expr": expr}]}]})}


BOARD = named("ConfigMap", data=board('sum(rate(prompt_tokens_total{model="$model"}[$__rate_interval]))'))

CASES = [
    Case(
        rule=queries.query_unreadable,
        bad={EXPR: "sum(rate(prompt_tokens_total[5m])"},
        objects=ALERTED,
        good=[{EXPR: "up == 0"}, {EXPR: 'absent(up{job="writer"})'}],
    ),
    Case(rule=queries.query_unreadable, bad={QUERY: "sum num_requests_waiting"}, objects=scaled(keda())),
    Case(
        rule=queries.query_unreadable,
        bad={"ConfigMap.data": board("rate(prompt_tokens_total[$__rate_interval)")},
        field="panels[0].targets[0].expr",
        objects=[*correct(), BOARD],
    ),
    Case(rule=queries.query_empty, bad={QUERY: ""}, objects=scaled(keda())),
    Case(rule=queries.metric_misspelled, bad={QUERY: "sum(num_request_waiting)"}, objects=scaled(keda())),
    Case(rule=queries.metric_misspelled, bad={QUERY: "sum(rate(prompt_tokens[1m]))"}, objects=scaled(keda())),
    Case(rule=queries.metric_misspelled, bad={EXPR: "nv_inference_request_sucess > 0"}, objects=ALERTED),
    Case(
        rule=queries.metric_misspelled,
        bad={QUERY: "sum(vllm:num_requests_waiting)"},
        level="warning",
        objects=scaled(keda()),
        good=[{QUERY: "sum(my_own_metric)"}, {QUERY: "sum(nv_inference_pending_request_count)"}],
    ),
    Case(
        rule=queries.query_of_other_model,
        bad={QUERY: 'sum(num_requests_waiting{model="reader"})'},
        objects=scaled(keda()),
        good=[
            {QUERY: 'sum(num_requests_waiting{model=~"wri.*"})'},
            {QUERY: 'sum(other_metric{model="reader"})'},
            {QUERY: 'sum(num_requests_waiting{model!="reader"})'},
        ],
    ),
    Case(
        rule=queries.query_of_other_model,
        bad={QUERY: 'sum(num_requests_running{model_name=~"read.*"})'},
        objects=scaled(keda()),
    ),
    Case(
        rule=queries.query_of_other_namespace,
        bad={QUERY: 'sum(num_requests_waiting{namespace="staging"})'},
        field="query",
        objects=scaled(keda()),
        good=[
            {QUERY: 'sum(num_requests_waiting{namespace="writer"})'},
            {QUERY: 'sum(num_requests_waiting{namespace=~"wri.*"})'},
            {QUERY: 'sum(rabbitmq_queue_messages{namespace="staging"})'},
        ],
    ),
    Case(
        rule=queries.query_of_other_namespace,
        bad={EXPR: 'absent(up{namespace="staging",job="writer"} == 1)'},
        objects=ALERTED,
        good=[
            {EXPR: 'absent(up{namespace="writer",job="writer"} == 1)'},
            {EXPR: 'absent(up{namespace="kube-system",job="kubelet"} == 1)'},
            {
                EXPR: 'absent(up{namespace="staging",job="writer"} == 1)',
                "Deployment.metadata.namespace": GONE,
            },
        ],
    ),
    Case(
        rule=queries.query_of_other_namespace,
        bad={"ConfigMap.data": board('sum(prompt_tokens_total{namespace="staging"})')},
        field="targets[0].expr",
        objects=[*correct(), BOARD],
        good=[{"ConfigMap.data": board('sum(prompt_tokens_total{namespace="$namespace"})')}],
    ),
    Case(
        rule=queries.scaling_metric_of_other_model,
        bad={"HorizontalPodAutoscaler.spec.metrics[0].pods.metric.selector": {"matchLabels": {"model": "reader"}}},
        field="matchLabels.model",
        objects=scaled(scaler()),
    ),
    Case(
        rule=queries.metric_without_adapter,
        bad={"HorizontalPodAutoscaler.spec.metrics[0].pods.metric.name": "requests_waiting"},
        level="warning",
        objects=[*scaled(scaler()), ADAPTER],
    ),
    Case(
        rule=queries.quantile_without_le,
        bad={EXPR: "histogram_quantile(0.9, sum by (pod) (rate(e2e_request_latency_seconds_bucket[5m]))) > 9"},
        objects=ALERTED,
        good=[
            {EXPR: "histogram_quantile(0.9, sum by (le, pod) (rate(e2e_request_latency_seconds_bucket[5m]))) > 9"},
            {EXPR: "histogram_quantile(0.9, rate(e2e_request_latency_seconds_bucket[5m])) > 9"},
        ],
    ),
]


def test_knows_the_series_that_the_engine_and_the_gateway_have() -> None:
    families = [*EngineMetrics().registry.collect(), *GatewayMetrics().registry.collect()]
    counters = {f"{family.name}_total" for family in families if family.type == "counter"}
    gauges = {family.name for family in families if family.type == "gauge"}
    histograms = {family.name for family in families if family.type == "histogram"}

    assert {
        f"{name}_{part}" for name in histograms for part in ("bucket", "sum", "count")
    } | counters | gauges == SERIES
    assert set(FAMILIES) == {family.name for family in families if family.type != "gauge"}


def test_leaves_templates_of_adapters_and_dashboards_alone() -> None:
    assert findings([*scaled(scaler()), ADAPTER, BOARD], rules=queries.RULES) == []


@pytest.mark.parametrize("case", CASES, ids=str)
def test_finds_the_mistake_and_leaves_its_repair_alone(case: Case) -> None:
    case.check()


def test_finds_nothing_in_a_correct_set() -> None:
    assert findings(correct(), rules=queries.RULES) == []
