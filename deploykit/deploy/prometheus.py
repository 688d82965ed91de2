"""Objects of the Prometheus operator: what is scraped, and what alerts.

https://prometheus-operator.dev/docs/api-reference/api/
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Literal

from lightkube.models.meta_v1 import LabelSelector, ObjectMeta

from deploykit.deploy.config import DeployConfig
from deploykit.deploy.facts import ModelFacts
from deploykit.deploy.names import kubernetes_name, namespace_of

Severity = Literal["critical", "warning"]
_GROUP: Final = "monitoring.coreos.com/v1"


@dataclass(frozen=True, kw_only=True)
class Endpoint:
    """A port of a pod that Prometheus reads."""

    port: str
    """The port's name in the pod."""
    path: str = "/metrics"
    interval: int = 15
    """Seconds from one reading to the next."""

    def to_dict(self) -> dict[str, Any]:
        """Return the entry of a PodMonitor's `podMetricsEndpoints`."""
        return {"port": self.port, "path": self.path, "interval": f"{self.interval}s"}


@dataclass(frozen=True, kw_only=True)
class PodMonitor:
    """Pods that Prometheus reads, found by their labels."""

    metadata: ObjectMeta
    selector: LabelSelector
    endpoints: Sequence[Endpoint]
    job_label: str
    """The label of the pods whose value becomes `job` of every series."""

    def to_dict(self) -> dict[str, Any]:
        """Return it as plain values."""
        return {
            "apiVersion": _GROUP,
            "kind": "PodMonitor",
            "metadata": self.metadata.to_dict(),
            "spec": {
                "jobLabel": self.job_label,
                "selector": self.selector.to_dict(),
                "podMetricsEndpoints": [endpoint.to_dict() for endpoint in self.endpoints],
            },
        }


@dataclass(frozen=True, kw_only=True)
class Alert:
    """A condition that somebody should hear of."""

    name: str
    expr: str
    """PromQL: it alerts for each series that comes out."""
    seconds: int
    """How long that must last."""
    severity: Severity
    """`critical` wakes somebody; `warning` can wait for the morning."""
    summary: str
    """One line, with the pod's name or the figure in it."""
    description: str
    """What it means for those who ask the model."""
    runbook: str
    """What to look at, and what to do."""

    def to_dict(self) -> dict[str, Any]:
        """Return the entry of a group's `rules`."""
        return {
            "alert": self.name,
            "expr": self.expr,
            "for": f"{self.seconds}s",
            "labels": {"severity": self.severity},
            "annotations": {"summary": self.summary, "description": self.description, "runbook": self.runbook},
        }


@dataclass(frozen=True, kw_only=True)
class Group:
    """Alerts that are looked at together."""

    name: str
    alerts: Sequence[Alert]
    labels: Mapping[str, str] = field(default_factory=dict)
    """What each alert has beside its series' own labels."""

    def to_dict(self) -> dict[str, Any]:
        """Return the entry of a rule file's `groups`, Prometheus's own and the operator's alike."""
        rules = [alert.to_dict() for alert in self.alerts]
        # Prometheus knows labels of a group only since 3.0.
        return {"name": self.name, "rules": [{**rule, "labels": {**rule["labels"], **self.labels}} for rule in rules]}


@dataclass(frozen=True, kw_only=True)
class PrometheusRule:
    """Groups of alerts."""

    metadata: ObjectMeta
    groups: Sequence[Group]

    def to_dict(self) -> dict[str, Any]:
        """Return it as plain values."""
        return {
            "apiVersion": _GROUP,
            "kind": "PrometheusRule",
            "metadata": self.metadata.to_dict(),
            "spec": {"groups": [group.to_dict() for group in self.groups]},
        }


def series_of(facts: ModelFacts, config: DeployConfig) -> str:
    """Return the matchers of every series that comes from a model's pods: their namespace, and the PodMonitor's job."""
    return f'namespace="{namespace_of(facts, config)}",job="{kubernetes_name(facts.name)}"'
