"""Rules on what is scraped, against what queries ask for and policies let through."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from deploykit.deploy.check.finding import Finding
from deploykit.deploy.check.manifests import Manifests, Pods, Resource, at, mapping, sequence
from deploykit.deploy.check.nearest import nearest
from deploykit.deploy.check.promql import SERIES, queries
from deploykit.deploy.check.rules.monitoring import endpoints, scraped, seconds_of, services
from deploykit.deploy.check.rules.network import admits, isolating
from deploykit.deploy.check.workloads import listeners
from deploykit.deploy.facts import ModelFacts

_COUNTING: Final = ("rate", "irate", "increase")
_FIGURES: Final = {"VectorSelector", "MatrixSelector", "AggregateExpr", "Call", "ParenExpr"}
_PARTS: Final = ("_total", "_bucket", "_sum", "_count")
_TRIGGERS: Final = ("prometheus", "cpu", "memory", "cron", "kubernetes-workload", "external", "external-push")


@dataclass(frozen=True, kw_only=True)
class _Scrape:
    """An endpoint of a monitor that reads a known server."""

    labels: Mapping[str, str]
    """Labels that Prometheus gives its series."""
    monitor: Resource
    interval: float | None


def query_of_other_target(manifests: Manifests, _facts: ModelFacts | None) -> Iterator[Finding]:
    """A query for a job or a namespace that the monitors of the set don't give: it finds nothing."""
    scrapes = list(_scrapes(manifests))
    for query in queries(manifests) if scrapes else ():
        for selector in query.selectors():
            for matcher in selector.matchers if selector.name in SERIES else ():
                given = {each.labels[matcher.label]: each.monitor for each in scrapes if matcher.label in each.labels}
                if not given or "$" in matcher.value or matcher.sign in ("!=", "!~"):
                    continue
                if not any(matcher.takes(value) for value in given):
                    label = min(given)
                    monitor = given[label]
                    yield query.resource.find(
                        "query-of-other-target", query.field, f'{matcher.label}{matcher.sign}"{matcher.value}"',
                        f'what {monitor.title} scrapes has {matcher.label}="{label}": the query finds nothing',
                        f'write {matcher.label}="{label}", or correct the monitor',
                    )  # fmt: skip


def window_too_short(manifests: Manifests, _facts: ModelFacts | None) -> Iterator[Finding]:
    """A rate over less time than lies between two samples: it finds nothing."""
    interval = min((each.interval for each in _scrapes(manifests) if each.interval), default=None)
    for query in queries(manifests) if interval else ():
        for name, window in _windows(query.nodes()) if "$" not in query.text else ():
            assert interval is not None
            if name in SERIES and window < interval * 2:
                yield query.resource.find(
                    "window-too-short", query.field, f"[{window:g}s]",
                    f"{name} is scraped every {interval:g} s, and a rate needs two samples in its window",
                    f"write [{interval * 4:g}s] or more",
                    level="error" if window <= interval else "warning",
                )  # fmt: skip


def rate_of_gauge(manifests: Manifests, _facts: ModelFacts | None) -> Iterator[Finding]:
    """A rate of what isn't counted: each fall of a gauge is taken for a restart of a counter."""
    for query in queries(manifests):
        for name, _ in _windows(query.nodes()):
            if name in SERIES and not name.endswith(_PARTS):
                why = f"{name} is a gauge, whose falls count as restarts: the figure means nothing"
                yield query.resource.find("rate-of-gauge", query.field, name, why, "take it itself, or delta")


def monitor_scheme(manifests: Manifests, _facts: ModelFacts | None) -> Iterator[Finding]:
    """A monitor that speaks TLS to a server that doesn't: nothing is scraped."""
    for monitor, path, endpoint in endpoints(manifests):
        for pods, number in scraped(manifests, monitor, endpoint):
            if str(endpoint.get("scheme")).lower() == "https" and listeners(pods, number):
                why = f"port {number} of {pods.resource.title} speaks plain HTTP: nothing is scraped"
                yield monitor.find("monitor-scheme", f"{path}.scheme", endpoint["scheme"], why, "write http")


def monitor_of_nothing(manifests: Manifests, _facts: ModelFacts | None) -> Iterator[Finding]:
    """A monitor without any endpoint: nothing is scraped."""
    for kind, field, other in (
        ("PodMonitor", "podMetricsEndpoints", "endpoints"),
        ("ServiceMonitor", "endpoints", "podMetricsEndpoints"),
    ):
        for monitor in manifests.of_kind(kind):
            if not monitor.spec.get(field):
                found = f"; {other} belongs to the other kind of monitor" if other in monitor.spec else ""
                why = f"a {kind} has its endpoints here, and there are none{found}: nothing is scraped"
                yield monitor.find("monitor-of-nothing", f"spec.{field}", None, why, f"add {field}")


def policy_shuts_monitor(manifests: Manifests, _facts: ModelFacts | None) -> Iterator[Finding]:
    """A policy that lets nobody reach a port that a monitor of the set scrapes."""
    for monitor, path, endpoint in endpoints(manifests):
        for pods, number in scraped(manifests, monitor, endpoint):
            policies = isolating(manifests, pods, "Ingress")
            if not policies or pods.spec.get("hostNetwork") is True:
                continue
            if not any(admits(policy, pods, number, "ingress") for policy in policies):
                yield policies[0].find(
                    "policy-shuts-monitor", "spec.ingress", "",
                    f"{monitor.title} scrapes {number} of {pods.resource.title} ({path}), and no policy lets anybody "
                    "in there: nothing is scraped",
                    f"let Prometheus in to {number}",
                )  # fmt: skip


def trigger_unknown(manifests: Manifests, _facts: ModelFacts | None) -> Iterator[Finding]:
    """A trigger of KEDA whose type is almost one, or that asks an address without its scheme: nothing is scaled."""
    for scaler in manifests.of_kind("ScaledObject", "ScaledJob"):
        for index, trigger in enumerate(map(mapping, sequence(scaler.spec.get("triggers")))):
            path, kind = f"spec.triggers[{index}]", str(trigger.get("type") or "")
            near = nearest(kind.lower(), _TRIGGERS, cutoff=0.85)
            if kind and kind not in _TRIGGERS and near:
                why = "KEDA has no trigger of that type: nothing is scaled"
                yield scaler.find("trigger-unknown", f"{path}.type", kind, why, f"write {near}")
            address = mapping(trigger.get("metadata")).get("serverAddress")
            if kind == "prometheus" and isinstance(address, str) and "://" not in address and address:
                why = "without a scheme that is no URL: every query fails, and nothing is scaled"
                field = f"{path}.metadata.serverAddress"
                yield scaler.find("trigger-unknown", field, address, why, f"write http://{address}")


def trigger_of_many(manifests: Manifests, _facts: ModelFacts | None) -> Iterator[Finding]:
    """A trigger's query that gives a series for each pod: KEDA takes one alone, and nothing is scaled."""
    for query in queries(manifests):
        if query.resource.kind not in ("ScaledObject", "ScaledJob"):
            continue
        parts = query.nodes()
        kind = type(parts[0]).__name__ if parts else ""
        plain = kind == "VectorSelector" or (kind == "Call" and parts[0].func.name in _COUNTING)
        if plain and any(selector.name in SERIES for selector in query.selectors()):
            why = "it gives a series for each pod, and KEDA refuses more than one: nothing is scaled"
            yield query.resource.find("trigger-of-many", query.field, query.text, why, "write sum(…) around it")


def scaled_object_field(manifests: Manifests, _facts: ModelFacts | None) -> Iterator[Finding]:
    """A ScaledObject with names of a HorizontalPodAutoscaler: KEDA doesn't read them."""
    for scaler in manifests.of_kind("ScaledObject"):
        for field, right in (("minReplicas", "minReplicaCount"), ("maxReplicas", "maxReplicaCount")):
            if field in scaler.spec:
                why = (
                    f"a ScaledObject has no such field: kubectl refuses it, and otherwise the default of {right} holds"
                )
                yield scaler.find("scaled-object-field", f"spec.{field}", scaler.spec[field], why, f"write {right}")


def alert_without_condition(manifests: Manifests, _facts: ModelFacts | None) -> Iterator[Finding]:
    """An alert on a figure that is compared with nothing: it fires whatever the figure is, 0 included."""
    for query in queries(manifests):
        if query.resource.kind != "PrometheusRule" or not query.field.endswith(".expr"):
            continue
        rule = at(query.resource.body, query.field.rpartition(".")[0])
        parts = query.nodes()
        bare = {type(part).__name__ for part in parts} <= _FIGURES
        calls = {part.func.name for part in parts if type(part).__name__ == "Call"}
        known = [selector.name for selector in query.selectors() if selector.name in SERIES]
        if mapping(rule).get("alert") and parts and bare and known and not calls - set(_COUNTING):
            yield query.resource.find(
                "alert-without-condition", query.field, query.text,
                "an alert fires for each series that its expression gives, whatever its value", "compare it: … > 0",
                level="warning",
            )  # fmt: skip


def _scrapes(manifests: Manifests) -> Iterator[_Scrape]:
    for monitor, _, endpoint in endpoints(manifests):
        # Relabelling may make any label of any other.
        if endpoint.get("relabelings") or endpoint.get("metricRelabelings") or endpoint.get("honorLabels"):
            continue
        interval = endpoint.get("interval")
        for pods, number in scraped(manifests, monitor, endpoint):
            if listeners(pods, number):
                labels = {"job": _job(manifests, monitor, pods), "namespace": pods.resource.namespace}
                yield _Scrape(
                    labels=labels, monitor=monitor, interval=seconds_of(interval) if isinstance(interval, str) else None
                )


def _job(manifests: Manifests, monitor: Resource, pods: Pods) -> str:
    """Return the label `job` that the operator gives: that of jobLabel, or one after the monitor or the Service."""
    wanted = str(monitor.spec.get("jobLabel") or "")
    if monitor.kind == "PodMonitor":
        return pods.labels.get(wanted) or f"{monitor.namespace}/{monitor.name}"
    for service in services(manifests, monitor):
        labels = mapping(mapping(service.body.get("metadata")).get("labels"))
        return str(labels.get(wanted) or service.name)
    return ""


def _windows(parts: list[Any]) -> Iterator[tuple[str, float]]:
    """Yield the series that a rate is taken of, and the seconds of its window."""
    for part in parts:
        if type(part).__name__ != "Call" or part.func.name not in _COUNTING:
            continue
        for each in part.args:
            if type(each).__name__ == "MatrixSelector":
                yield each.vector_selector.name or "", each.range.total_seconds()


RULES: Final = (
    query_of_other_target, window_too_short, rate_of_gauge, monitor_scheme, monitor_of_nothing, policy_shuts_monitor,
    trigger_unknown, trigger_of_many, scaled_object_field, alert_without_condition,
)  # fmt: skip
