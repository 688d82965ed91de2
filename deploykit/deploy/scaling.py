"""How many pods there are: as many as the requests in flight need, counted by the engines themselves.

An engine batches continuously: a request joins the rows that advance together as soon as one is free, and waits where
none is. So what a pod has in flight, running and waiting, says how full it is and how far beyond full. Its processor
says neither: one stream keeps all cores busy, and so do sixteen.
"""

import math
from collections.abc import Sequence
from typing import Any, Final

from lightkube.models.autoscaling_v2 import (
    CrossVersionObjectReference,
    HorizontalPodAutoscalerBehavior,
    HorizontalPodAutoscalerSpec,
    HPAScalingPolicy,
    HPAScalingRules,
    MetricIdentifier,
    MetricSpec,
    MetricTarget,
    PodsMetricSource,
)
from lightkube.resources.autoscaling_v2 import HorizontalPodAutoscaler

from deploykit.deploy.config import DeployConfig
from deploykit.deploy.custom import Fallback, PrometheusTrigger, ScaledObject
from deploykit.deploy.facts import ModelFacts
from deploykit.deploy.kustomize import Component
from deploykit.deploy.names import kind_of, kubernetes_name, metadata
from deploykit.deploy.prometheus import series_of
from deploykit.deploy.sizing import PROBE_PERIOD, Line, Sizing

METRIC: Final = "deploykit_requests_in_flight"
"""What prometheus-adapter calls the figure of a pod."""
ADAPTER_FILE: Final = "prometheus-adapter.yaml"
"""The adapter's rule, beside the HorizontalPodAutoscaler and no part of what is applied."""
FULL: Final = 75
"""Percent of a pod's rows that are to be taken: the rest takes in what comes until another pod is ready."""
WINDOW: Final = 300
"""Seconds for which there must be less to do before a pod goes: the default of Kubernetes."""
SCRAPE: Final = 15
"""Seconds between two looks of Prometheus at a pod, and of KEDA or the HorizontalPodAutoscaler at Prometheus."""
FAILURES: Final = 4
"""Questions in a row that Prometheus may leave open: a minute, in which it may well be starting again."""


def components(facts: ModelFacts, sizing: Sizing, config: DeployConfig) -> list[Component]:
    """Return the component that sets the number of pods; none where nothing does."""
    match config.scaling:
        case "hpa":
            return [Component(name="hpa", resources={"hpa.yaml": [_hpa(facts, sizing, config)]}, comment=_HPA)]
        case "keda":
            scaled = {"scaledobject.yaml": [_scaled_object(facts, sizing, config)]}
            return [Component(name="keda", resources=scaled, comment=_KEDA)]
        case _:
            return []


def files(config: DeployConfig) -> dict[str, list[dict[str, Any]]]:
    """Return what lies beside a component and isn't applied with it, by its path below `components/`."""
    return {f"hpa/{ADAPTER_FILE}": [adapter_rules()]} if config.scaling == "hpa" else {}


def arithmetic(facts: ModelFacts, config: DeployConfig) -> list[Line]:
    """Return how the figures of the scaling came about; nothing where nothing scales."""
    if config.scaling == "none":
        return []
    react = f"{SCRAPE} s until Prometheus looks + {SCRAPE} s until it is asked + {SCRAPE} s until pods are counted"
    ready = f"{facts.load_seconds:.1f} s to load + {PROBE_PERIOD} s until a probe sees it"
    seconds = math.ceil(3 * SCRAPE + facts.load_seconds + PROBE_PERIOD)
    return [
        Line(what="pods", value=f"{config.replicas} to {config.max_replicas}", how="--replicas and --max-replicas"),
        Line(
            what="requests in flight of a pod",
            value=str(target(facts)),
            how=f"{FULL} % of {facts.rows} rows, so that {facts.rows - target(facts)} take in what comes meanwhile",
        ),
        Line(what="until one more pod serves", value=f"{seconds} s", how=f"at most {react} + {ready}; images apart"),
    ]


def target(facts: ModelFacts) -> int:
    """Return how many requests a pod is meant to have in flight."""
    return max(1, facts.rows * FULL // 100)


def in_flight_query(facts: ModelFacts, config: DeployConfig) -> str:
    """Return PromQL for the requests in flight of all pods of a model together: running, and waiting for a row."""
    series = series_of(facts, config)
    return f"sum(num_requests_running{{{series}}} + num_requests_waiting{{{series}}})"


def adapter_rules() -> dict[str, Any]:
    """Return values of prometheus-adapter's chart: one rule, once a cluster, for every model that deploykit serves."""
    matchers = "<<.LabelMatchers>>"
    return {
        "rules": {
            "custom": [
                {
                    "seriesQuery": 'num_requests_running{namespace!="",pod!="",model!=""}',
                    "resources": {
                        "overrides": {"namespace": {"resource": "namespace"}, "pod": {"resource": "pod"}},
                    },
                    "name": {"as": METRIC},
                    "metricsQuery": f"sum by (<<.GroupBy>>) "
                    f"(num_requests_running{{{matchers}}} + num_requests_waiting{{{matchers}}})",
                }
            ]
        }
    }


_READ: Final = """\
Prometheus must read the pods' port `metrics`, and say of each series `namespace`, `pod` and `job`, which is the model's
name in the cluster: the component `monitoring` has it do so."""
_HPA: Final = f"""\
The pods' number follows their requests in flight, which Prometheus reads from the pods and prometheus-adapter hands on
as the metric {METRIC}. Both must be in the cluster, the adapter with the rule in {ADAPTER_FILE}:
helm upgrade --install prometheus-adapter prometheus-community/prometheus-adapter --values {ADAPTER_FILE}
{_READ}"""
_KEDA: Final = f"""\
The pods' number follows their requests in flight, which Prometheus reads from the pods and KEDA (2.17 or newer) asks it
for. Both must be in the cluster.
{_READ}"""


def _hpa(facts: ModelFacts, sizing: Sizing, config: DeployConfig) -> HorizontalPodAutoscaler:
    figure = PodsMetricSource(
        metric=MetricIdentifier(name=METRIC),
        target=MetricTarget(type="AverageValue", averageValue=str(target(facts))),
    )
    return HorizontalPodAutoscaler(
        **kind_of(HorizontalPodAutoscaler),
        metadata=metadata(facts),
        spec=HorizontalPodAutoscalerSpec(
            scaleTargetRef=CrossVersionObjectReference(
                apiVersion="apps/v1", kind="Deployment", name=kubernetes_name(facts.name)
            ),
            minReplicas=config.replicas,
            maxReplicas=config.max_replicas,
            metrics=[MetricSpec(type="Pods", pods=figure)],
            behavior=_behavior(sizing),
        ),
    )


def _scaled_object(facts: ModelFacts, sizing: Sizing, config: DeployConfig) -> ScaledObject:
    return ScaledObject(
        metadata=metadata(facts),
        deployment=kubernetes_name(facts.name),
        min_replicas=config.replicas,
        max_replicas=config.max_replicas,
        polling_interval=SCRAPE,
        fallback=Fallback(replicas=config.replicas, failures=FAILURES),
        behavior=_behavior(sizing),
        triggers=[
            PrometheusTrigger(server=config.prometheus, query=in_flight_query(facts, config), threshold=target(facts))
        ],
    )


def _behavior(sizing: Sizing) -> HorizontalPodAutoscalerBehavior:
    """Return up at once, since callers wait, and down one pod at a time, each gone before the next one goes."""
    up = [("Percent", 100, 2 * SCRAPE), ("Pods", 2, 2 * SCRAPE)]
    # kube-controller-manager takes no period of more than half an hour.
    down = [("Pods", 1, min(1800, max(60, sizing.grace)))]
    return HorizontalPodAutoscalerBehavior(
        scaleUp=HPAScalingRules(policies=_policies(up), selectPolicy="Max", stabilizationWindowSeconds=0),
        scaleDown=HPAScalingRules(policies=_policies(down), stabilizationWindowSeconds=WINDOW),
    )


def _policies(given: Sequence[tuple[str, int, int]]) -> list[HPAScalingPolicy]:
    return [HPAScalingPolicy(type=kind, value=value, periodSeconds=seconds) for kind, value, seconds in given]
