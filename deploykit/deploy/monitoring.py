"""The component that makes a model's pods visible: what Prometheus reads, what alerts, and a dashboard."""

from typing import Final

from lightkube.resources.core_v1 import ConfigMap

from deploykit.deploy import alerts, cluster_alerts
from deploykit.deploy.config import DeployConfig
from deploykit.deploy.dashboard import dashboard, text
from deploykit.deploy.facts import ModelFacts
from deploykit.deploy.kustomize import Component
from deploykit.deploy.names import kind_of, kubernetes_name, metadata, pod_selector
from deploykit.deploy.prometheus import Endpoint, PodMonitor, PrometheusRule
from deploykit.deploy.sizing import Sizing
from deploykit.deploy.yaml_text import Document

GRAFANA_LABEL: Final = "grafana_dashboard"
"""What the sidecar of Grafana's chart looks for."""
_COMMENT: Final = """\
Needs the Prometheus operator's PodMonitor and PrometheusRule in the cluster. Where its Prometheus selects them by a
label, such as `release`, add that label here. Alerts in the group *.kube-state-metrics need that, too; without it they
are silent. The dashboard is found by the sidecar of Grafana's chart, if that looks into all namespaces.
The OpenAI gateway's own /metrics answers only to a key and is not read: the engine's figures are those of every
request, through whichever door it came."""


def components(facts: ModelFacts, sizing: Sizing, config: DeployConfig) -> list[Component]:
    """Return the component `monitoring` where it is asked for."""
    if not config.monitoring:
        return []
    resources: dict[str, list[Document]] = {
        "podmonitor.yaml": [pod_monitor(facts)],
        "prometheusrule.yaml": [prometheus_rule(facts, sizing, config)],
        "dashboard.yaml": [dashboard_map(facts, config)],
    }
    return [Component(name="monitoring", resources=resources, comment=_COMMENT)]


def pod_monitor(facts: ModelFacts) -> PodMonitor:
    """Return what has Prometheus read Triton's metrics, every series with the model's name as its `job`."""
    return PodMonitor(
        metadata=metadata(facts),
        selector=pod_selector(facts),
        endpoints=[Endpoint(port="metrics")],
        job_label="app.kubernetes.io/instance",
    )


def prometheus_rule(facts: ModelFacts, sizing: Sizing, config: DeployConfig) -> PrometheusRule:
    """Return the alerts."""
    model = alerts.watched(facts, sizing, config)
    groups = [alerts.group(model), cluster_alerts.group(model, config.scaling)]
    return PrometheusRule(metadata=metadata(facts), groups=groups)


def dashboard_map(facts: ModelFacts, config: DeployConfig) -> ConfigMap:
    """Return the dashboard as Grafana's sidecar finds it."""
    about = metadata(facts, "-dashboard")
    about.labels = {**(about.labels or {}), GRAFANA_LABEL: "1"}
    name = f"{kubernetes_name(facts.name)}.json"
    return ConfigMap(**kind_of(ConfigMap), metadata=about, data={name: text(dashboard(facts, config))})
