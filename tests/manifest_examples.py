"""A correct set of manifests, and ways to put one mistake into it."""

import copy
import itertools
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from dataclasses import field as default
from typing import Any, Final

from deploykit.deploy.check.finding import Finding, Level
from deploykit.deploy.check.manifests import Manifests, Resource
from deploykit.deploy.check.rules import RULES, Rule
from deploykit.deploy.facts import ModelFacts

MIB: Final = 2**20
GONE: Final = object()
"""Stands for a field that is taken out."""

FACTS: Final = ModelFacts(
    name="writer",
    version=1,
    fingerprint="ab" * 32,
    precision="int8",
    size=300 * MIB,
    rows=8,
    context=1024,
    threads=2,
    memory={
        "process": 100 * MIB, "weights": 200 * MIB, "tables": 50 * MIB, "cache": 64 * MIB, "activations": 20 * MIB,
        "loading": 30 * MIB, "peak": 434 * MIB,
    },
    load_seconds=20.0,
    load_measured=True,
    has_chat_template=True,
)  # fmt: skip

_LABELS: Final = {"app.kubernetes.io/name": "deploykit", "app.kubernetes.io/instance": "writer"}
_ALIASES: Final = {
    "pod": "Deployment.spec.template.spec",
    "triton": "Deployment.spec.template.spec.containers[0]",
    "gateway": "Deployment.spec.template.spec.containers[1]",
}
_CLOSED: Final = {
    "allowPrivilegeEscalation": False, "readOnlyRootFilesystem": True, "capabilities": {"drop": ["ALL"]},
}  # fmt: skip
_WANTED: Final = {"cpu": "2", "memory": "1Gi", "ephemeral-storage": "1Gi"}


def probe(path: str, port: str, period: int, threshold: int) -> dict[str, Any]:
    return {
        "httpGet": {"path": path, "port": port}, "periodSeconds": period, "failureThreshold": threshold,
        "timeoutSeconds": 2,
    }  # fmt: skip


def named(kind: str, name: str = "writer", api: str = "v1", **body: Any) -> dict[str, Any]:
    metadata: dict[str, Any] = {"name": name, "namespace": "writer"}
    if kind == "Deployment":
        metadata["annotations"] = {"deploykit/needs": "secret/writer-api-keys"}
    return {"apiVersion": api, "kind": kind, "metadata": metadata, **body}


def triton() -> dict[str, Any]:
    return {
        "name": "triton",
        "image": "deploykit-writer:1",
        "command": ["deploykit"],
        "args": [
            "serve", "/models", "--host=0.0.0.0", "--max-rows=8", "--max-context=1024", "--cache-memory=67108864",
            "--threads=2", "--startup-timeout=300", "--heartbeat-timeout=15", "--exit-timeout=30",
        ],
        "ports": [
            {"name": "http", "containerPort": 8000}, {"name": "grpc", "containerPort": 8001},
            {"name": "metrics", "containerPort": 8002}, {"name": "health", "containerPort": 8003},
        ],
        "env": [{"name": "HOME", "value": "/tmp"}],
        "startupProbe": probe("/v2/health/ready", "health", 5, 60),
        "readinessProbe": probe("/v2/health/ready", "health", 5, 3),
        "livenessProbe": probe("/v2/health/live", "health", 10, 6),
        "lifecycle": {"preStop": {"exec": {"command": ["sleep", "15"]}}},
        "resources": {"requests": dict(_WANTED), "limits": dict(_WANTED)},
        "securityContext": copy.deepcopy(_CLOSED),
        "volumeMounts": [{"name": "tmp", "mountPath": "/tmp"}, {"name": "shm", "mountPath": "/dev/shm"}],
    }  # fmt: skip


def gateway() -> dict[str, Any]:
    return {
        "name": "gateway",
        "image": "deploykit-writer:1",
        "command": ["deploykit"],
        "args": ["gateway", "/models", "--triton=localhost:8001", "--host=0.0.0.0", "--port=9000"],
        "ports": [{"name": "openai", "containerPort": 9000}],
        "env": [
            {"name": "DEPLOYKIT_API_KEYS", "valueFrom": {"secretKeyRef": {"name": "writer-api-keys", "key": "keys"}}},
        ],
        "startupProbe": probe("/health/live", "openai", 5, 60),
        "readinessProbe": probe("/health", "openai", 5, 3),
        "livenessProbe": probe("/health/live", "openai", 10, 6),
        "lifecycle": {"preStop": {"exec": {"command": ["sleep", "15"]}}},
        "resources": {"requests": dict(_WANTED), "limits": dict(_WANTED)},
        "securityContext": copy.deepcopy(_CLOSED),
        "volumeMounts": [{"name": "gateway-tmp", "mountPath": "/tmp"}],
    }  # fmt: skip


def deployment() -> dict[str, Any]:
    return named(
        "Deployment", api="apps/v1",
        spec={
            "replicas": 2,
            "selector": {"matchLabels": dict(_LABELS)},
            "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1, "maxUnavailable": 0}},
            "progressDeadlineSeconds": 900,
            "template": {
                "metadata": {"labels": dict(_LABELS)},
                "spec": {
                    "serviceAccountName": "writer",
                    "automountServiceAccountToken": False,
                    "terminationGracePeriodSeconds": 55,
                    "securityContext": {
                        "runAsNonRoot": True, "runAsUser": 10001, "runAsGroup": 10001, "fsGroup": 10001,
                        "seccompProfile": {"type": "RuntimeDefault"},
                    },
                    "topologySpreadConstraints": [
                        {
                            "maxSkew": 1, "topologyKey": "kubernetes.io/hostname",
                            "whenUnsatisfiable": "ScheduleAnyway",
                            "labelSelector": {"matchLabels": dict(_LABELS)},
                        }
                    ],
                    "containers": [triton(), gateway()],
                    "volumes": [
                        {"name": "tmp", "emptyDir": {"sizeLimit": "256Mi"}},
                        {"name": "gateway-tmp", "emptyDir": {"sizeLimit": "256Mi"}},
                        {"name": "shm", "emptyDir": {"medium": "Memory", "sizeLimit": "128Mi"}},
                    ],
                },
            },
        },
    )  # fmt: skip


def correct() -> list[dict[str, Any]]:
    """Return a correct set: a model's Deployment with a gateway, its Services, budget, policy and alerts."""
    ports = [("http", 8000), ("grpc", 8001), ("metrics", 8002), ("openai", 9000)]
    return [
        named("ServiceAccount", automountServiceAccountToken=False),
        deployment(),
        named(
            "Service",
            spec={
                "selector": dict(_LABELS),
                "ports": [{"name": name, "port": port, "targetPort": name} for name, port in ports],
            },
        ),
        named(
            "PodDisruptionBudget", api="policy/v1",
            spec={"maxUnavailable": 1, "selector": {"matchLabels": dict(_LABELS)}},
        ),
        named(
            "NetworkPolicy", api="networking.k8s.io/v1",
            spec={
                "podSelector": {"matchLabels": dict(_LABELS)},
                "policyTypes": ["Ingress"],
                "ingress": [
                    {"ports": [{"port": "http"}, {"port": "grpc"}, {"port": 9000}]},
                    {
                        "from": [{"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "monitoring"}}}],
                        "ports": [{"port": "metrics", "protocol": "TCP"}],
                    },
                ],
            },
        ),
    ]  # fmt: skip


def scaler() -> dict[str, Any]:
    return named(
        "HorizontalPodAutoscaler", api="autoscaling/v2",
        spec={
            "scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": "writer"},
            "minReplicas": 2,
            "maxReplicas": 8,
            "metrics": [
                {
                    "type": "Pods",
                    "pods": {
                        "metric": {"name": "num_requests_waiting"},
                        "target": {"type": "AverageValue", "averageValue": "4"},
                    },
                }
            ],
            "behavior": {"scaleDown": {"stabilizationWindowSeconds": 300}},
        },
    )  # fmt: skip


def keda(**trigger: Any) -> dict[str, Any]:
    metadata = {
        "serverAddress": "http://prometheus.example.com:9090", "query": 'sum(num_requests_waiting{model="writer"})',
        "threshold": "4",
    }  # fmt: skip
    return named(
        "ScaledObject", api="keda.sh/v1alpha1",
        spec={
            "scaleTargetRef": {"name": "writer"},
            "minReplicaCount": 2,
            "maxReplicaCount": 8,
            "triggers": [{"type": "prometheus", "metadata": metadata, **trigger}],
        },
    )  # fmt: skip


def alerts(**rule: Any) -> dict[str, Any]:
    expression = 'sum(rate(request_success_total{model="writer",finished_reason="error"}[5m])) > 0'
    return named(
        "PrometheusRule", api="monitoring.coreos.com/v1",
        spec={"groups": [{"name": "writer", "rules": [{"alert": "Errors", "for": "5m", "expr": expression, **rule}]}]},
    )  # fmt: skip


def monitor(**endpoint: Any) -> dict[str, Any]:
    return named(
        "PodMonitor", api="monitoring.coreos.com/v1",
        spec={
            "selector": {"matchLabels": dict(_LABELS)},
            "podMetricsEndpoints": [{"port": "metrics", "path": "/metrics", "interval": "30s", **endpoint}],
        },
    )  # fmt: skip


def scaled(by: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the correct set with a scaler, and no number of pods beside it."""
    return edited({"Deployment.spec.replicas": GONE}, [*correct(), by])


def edited(edits: Mapping[str, object], objects: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return objects with fields changed: `Kind.path`, or `pod.`, `triton.` and `gateway.` in the Deployment."""
    changed = copy.deepcopy(list(objects))
    for path, value in edits.items():
        first, _, rest = path.partition(".")
        full = f"{_ALIASES.get(first, first)}.{rest}"
        kind, _, inner = full.partition(".")
        # A copy, since the next edit may reach into it.
        own = value if value is GONE else copy.deepcopy(value)
        _set(next(each for each in changed if each["kind"] == kind), inner, own)
    return changed


def _set(body: Any, path: str, value: object) -> None:
    keys: list[str | int] = [int(part[1:-1]) if part[0] == "[" else part for part in _parts(path)]
    for key, following in itertools.pairwise(keys):
        if isinstance(key, str):
            body = body.setdefault(key, [] if isinstance(following, int) else {})
        else:
            if key == len(body):
                body.append({})
            body = body[key]
    last = keys[-1]
    if value is GONE:
        del body[last]
    elif isinstance(last, int) and last == len(body):
        body.append(value)
    else:
        body[last] = value


def _parts(path: str) -> list[str]:
    # A key in backquotes may hold dots: `metadata.labels.`a.b/c``.
    return [part.strip("`") for part in re.findall(r"`[^`]+`|\[\d+\]|[^.\[\]`]+", path)]


def manifests(objects: Iterable[dict[str, Any]]) -> Manifests:
    return Manifests(resources=[Resource(body=body, source="test.yaml") for body in objects], source="test.yaml")


def findings(
    objects: Iterable[dict[str, Any]], *, rules: Iterable[Rule] = RULES, facts: ModelFacts | None = FACTS
) -> list[Finding]:
    """Return all that rules say of some objects."""
    given = manifests(objects)
    return [finding for rule in rules for finding in rule(given, facts)]


@dataclass(frozen=True, kw_only=True)
class Case:
    """A rule with a mistake that it finds, and repairs of it that it leaves alone."""

    rule: Rule
    bad: Mapping[str, object]
    """The mistake, as edits of `objects`."""
    field: str = ""
    """Where it is found; its end is enough. The last edit's path where empty."""
    level: Level = "error"
    good: Sequence[Mapping[str, object]] = ()
    """Edits that are no mistake; the objects as they are always are none."""
    objects: Sequence[dict[str, Any]] = default(default_factory=correct)
    facts: ModelFacts | None = FACTS

    def __str__(self) -> str:
        return f"{self.rule.__name__}-{'-'.join(f'{path}={value}' for path, value in self.bad.items())}"[:100]

    def check(self) -> None:
        """Fail where the rule doesn't find the mistake, misnames it, or finds one in a repair."""
        name = self.rule.__name__.replace("_", "-")
        found = findings(edited(self.bad, self.objects), rules=[self.rule], facts=self.facts)
        where = self.field or list(self.bad)[-1].partition(".")[2].replace("`", "")
        assert [one for one in found if one.field.endswith(where)], f"{name} finds {found} and not {where}"
        assert {one.rule for one in found} == {name}
        assert {one.level for one in found} == {self.level}
        assert all(one.why and one.remedy and one.object and one.source for one in found)
        for edits in ({}, *self.good):
            assert findings(edited(edits, self.objects), rules=[self.rule], facts=self.facts) == [], edits
