"""Objects of KEDA.

https://keda.sh/docs/latest/reference/scaledobject-spec/
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from lightkube.models.autoscaling_v2 import HorizontalPodAutoscalerBehavior
from lightkube.models.meta_v1 import ObjectMeta


@dataclass(frozen=True, kw_only=True)
class PrometheusTrigger:
    """A figure that KEDA asks Prometheus for, to be shared among the pods."""

    server: str
    query: str
    """PromQL with one value for all pods together."""
    threshold: int
    """Of that value, what one pod is meant to have."""

    def to_dict(self) -> dict[str, Any]:
        """Return the entry of a ScaledObject's `triggers`."""
        return {
            "type": "prometheus",
            "metricType": "AverageValue",
            "metadata": {
                "serverAddress": self.server,
                "query": self.query,
                "threshold": str(self.threshold),
                # Nothing is no 0: series that are gone are a broken Prometheus, and `fallback` is for those.
                "ignoreNullValues": "false",
            },
        }


@dataclass(frozen=True, kw_only=True)
class Fallback:
    """What holds while no figure is to be had: the pods that are there, and at least so many."""

    replicas: int
    failures: int
    """Questions in a row without an answer until it holds."""

    def to_dict(self) -> dict[str, Any]:
        """Return a ScaledObject's `fallback`."""
        # KEDA's default would set the number itself: under load, while Prometheus is down, that takes pods away.
        return {
            "failureThreshold": self.failures,
            "replicas": self.replicas,
            "behavior": "currentReplicasIfHigher",
        }


@dataclass(frozen=True, kw_only=True)
class ScaledObject:
    """A Deployment whose number of pods follows a figure."""

    metadata: ObjectMeta
    deployment: str
    min_replicas: int
    max_replicas: int
    polling_interval: int
    """Seconds between two questions."""
    fallback: Fallback
    behavior: HorizontalPodAutoscalerBehavior
    triggers: Sequence[PrometheusTrigger]

    def to_dict(self) -> dict[str, Any]:
        """Return it as plain values."""
        # No `cooldownPeriod`: it is for the step from one pod to none, which never happens here.
        return {
            "apiVersion": "keda.sh/v1alpha1",
            "kind": "ScaledObject",
            "metadata": self.metadata.to_dict(),
            "spec": {
                "scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": self.deployment},
                "pollingInterval": self.polling_interval,
                "minReplicaCount": self.min_replicas,
                "maxReplicaCount": self.max_replicas,
                "fallback": self.fallback.to_dict(),
                "advanced": {"horizontalPodAutoscalerConfig": {"behavior": self.behavior.to_dict()}},
                "triggers": [trigger.to_dict() for trigger in self.triggers],
            },
        }
