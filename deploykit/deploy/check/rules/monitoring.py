"""Rules on monitors and alerts: whether Prometheus gets anything, and whether it takes what it is given."""

import re
from collections.abc import Iterator, Mapping
from typing import Any, Final

from deploykit.deploy.check.finding import Finding
from deploykit.deploy.check.manifests import Manifests, Pods, Resource, mapping, sequence
from deploykit.deploy.check.selecting import fits
from deploykit.deploy.check.workloads import behind, declared, listeners, port_number
from deploykit.deploy.facts import ModelFacts

_UNITS: Final = {"ms": 0.001, "s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800, "y": 31536000}
_DURATION: Final = re.compile(r"(?:\d+y)?(?:\d+w)?(?:\d+d)?(?:\d+h)?(?:\d+m)?(?:\d+s)?(?:\d+ms)?")
_SERIES: Final = re.compile(r"[A-Za-z_:][A-Za-z0-9_:]*")
_LABEL: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_LISTS: Final = {"PodMonitor": "podMetricsEndpoints", "ServiceMonitor": "endpoints"}
_SECRETS: Final = ("authorization", "bearerTokenSecret", "bearerTokenFile", "basicAuth", "oauth2")


def monitor_port(manifests: Manifests, _facts: ModelFacts | None) -> Iterator[Finding]:
    """A monitor of a port by a name that its pods or Services don't have: nothing is scraped."""
    for monitor, path, endpoint in endpoints(manifests):
        name = endpoint.get("port")
        if not isinstance(name, str):
            continue
        if monitor.kind == "PodMonitor":
            found = _pods(manifests, monitor)
            names = {str(port.get("name")) for pods in found for each in pods.containers for port in declared(each)}
            whose = ", ".join(pods.resource.title for pods in found)
        else:
            sending = services(manifests, monitor)
            names = {str(mapping(p).get("name")) for each in sending for p in sequence(each.spec.get("ports"))}
            whose = ", ".join(service.title for service in sending)
        if whose and name not in names:
            there = ", ".join(sorted(names - {"None"})) or "none"
            why = f"{whose} has no port of that name (there are: {there}): nothing is scraped"
            yield monitor.find("monitor-port", f"{path}.port", name, why, "name the port with the metrics")


def monitor_path(manifests: Manifests, _facts: ModelFacts | None) -> Iterator[Finding]:
    """A monitor of a path that the port doesn't answer, or not without a key."""
    for monitor, path, endpoint in endpoints(manifests):
        where = str(endpoint.get("path") or "/metrics")
        for pods in _pods(manifests, monitor) if monitor.kind == "PodMonitor" else _behind(manifests, monitor):
            number = _number(manifests, monitor, pods, endpoint)
            for _, server, name in listeners(pods, number) if number else ():
                field = f"{path}.path" if endpoint.get("path") else f"{path}.port"
                value = where if endpoint.get("path") else endpoint.get("port")
                if name == "grpc" or not server.answers(name, where):
                    why = (
                        f"port {name} ({number}) of {pods.resource.title} doesn't answer GET {where}: nothing is "
                        "scraped"
                    )
                    remedy = "take the port metrics, and /metrics"
                elif where in server.guarded and not any(endpoint.get(key) for key in _SECRETS):
                    why = f"port {name} of {pods.resource.title} answers {where} only with a key: nothing is scraped"
                    remedy = "add authorization, or start the gateway with --metrics-access=open"
                else:
                    continue
                yield monitor.find("monitor-path", field, value, why, remedy)


def monitor_times(manifests: Manifests, _facts: ModelFacts | None) -> Iterator[Finding]:
    """A monitor whose times can't be read, or that waits for an answer longer than its interval: refused."""
    for monitor, path, endpoint in endpoints(manifests):
        seconds: dict[str, float] = {}
        for field in ("interval", "scrapeTimeout"):
            value = endpoint.get(field)
            if isinstance(value, str) and (read := seconds_of(value)) is not None:
                seconds[field] = read
            elif value is not None:
                why = "Prometheus writes times as 30s, 1m or 1m30s; the monitor is refused"
                yield monitor.find("monitor-times", f"{path}.{field}", value, why, "write 30s")
        if len(seconds) == 2 and seconds["scrapeTimeout"] > seconds["interval"]:
            why = f"interval is {endpoint['interval']}, which is shorter; the operator leaves the monitor out"
            yield monitor.find("monitor-times", f"{path}.scrapeTimeout", endpoint["scrapeTimeout"], why, "write less")


def alert_times(manifests: Manifests, _facts: ModelFacts | None) -> Iterator[Finding]:
    """A rule's time that can't be read: Prometheus refuses the whole group."""
    for resource, path, body in (*_groups(manifests), *_rules(manifests)):
        for field in ("for", "keep_firing_for", "interval"):
            value = body.get(field)
            if value is not None and (not isinstance(value, str) or seconds_of(value) is None):
                why = "times are written as 30s, 5m or 1h30m; the group is refused"
                yield resource.find("alert-times", f"{path}.{field}", value, why, "write 5m")


def alert_names(manifests: Manifests, _facts: ModelFacts | None) -> Iterator[Finding]:
    """A recorded series or a label with a name that Prometheus refuses."""
    for resource, path, rule in _rules(manifests):
        record = rule.get("record")
        if record is not None and not (isinstance(record, str) and _SERIES.fullmatch(record)):
            why = "a series is called with letters, digits, _ and :, and not with a digit first"
            yield resource.find("alert-names", f"{path}.record", record, why, "write another name")
        if record is not None and (rule.get("for") or rule.get("annotations")):
            why = "a recording rule has neither for nor annotations; the group is refused"
            yield resource.find("alert-names", f"{path}.record", record, why, "take them out, or write alert")
        for label in mapping(rule.get("labels")):
            if not _LABEL.fullmatch(str(label)) or label == "__name__":
                why = "a label is called with letters, digits and _; the group is refused"
                yield resource.find("alert-names", f"{path}.labels.{label}", None, why, "write another name")


def no_rules(manifests: Manifests, _facts: ModelFacts | None) -> Iterator[Finding]:
    """A PrometheusRule in which there is nothing to evaluate."""
    for resource in manifests.of_kind("PrometheusRule"):
        if not any(sequence(mapping(group).get("rules")) for group in sequence(resource.spec.get("groups"))):
            why = "no group has a rule, so that nothing alerts"
            yield resource.find("no-rules", "spec.groups", None, why, "add rules, or take it out", level="warning")


def seconds_of(text: str) -> float | None:
    """Return the seconds of a time as Prometheus writes it, None where it can't be read."""
    if not text or not _DURATION.fullmatch(text):
        return 0.0 if text == "0" else None
    return sum(int(number) * _UNITS[unit] for number, unit in re.findall(r"(\d+)(ms|[smhdwy])", text))


def endpoints(manifests: Manifests) -> Iterator[tuple[Resource, str, Mapping[str, Any]]]:
    """Yield the endpoints of all monitors, and where they stand."""
    for monitor in manifests.of_kind(*_LISTS):
        for index, endpoint in enumerate(map(mapping, sequence(monitor.spec.get(_LISTS[monitor.kind])))):
            yield monitor, f"spec.{_LISTS[monitor.kind]}[{index}]", endpoint


def _sees(monitor: Resource, other: Resource) -> bool:
    spaces = mapping(monitor.spec.get("namespaceSelector"))
    names = sequence(spaces.get("matchNames"))
    return spaces.get("any") is True or other.namespace in (names or [monitor.namespace])


def _pods(manifests: Manifests, monitor: Resource) -> list[Pods]:
    selector = monitor.spec.get("selector")
    return [p for p in manifests.pods() if _sees(monitor, p.resource) and fits(selector, p.labels)]


def services(manifests: Manifests, monitor: Resource) -> list[Resource]:
    """Return the Services that a ServiceMonitor selects."""
    selector = monitor.spec.get("selector")
    return [
        service
        for service in manifests.of_kind("Service")
        if _sees(monitor, service) and fits(selector, mapping(mapping(service.body.get("metadata")).get("labels")))
    ]


def _behind(manifests: Manifests, monitor: Resource) -> list[Pods]:
    return [pods for service in services(manifests, monitor) for pods in behind(manifests, service)]


def scraped(manifests: Manifests, monitor: Resource, endpoint: Mapping[str, Any]) -> Iterator[tuple[Pods, int]]:
    """Yield the pods that an endpoint of a monitor reads, and the port there."""
    for pods in _pods(manifests, monitor) if monitor.kind == "PodMonitor" else _behind(manifests, monitor):
        if number := _number(manifests, monitor, pods, endpoint):
            yield pods, number


def _number(manifests: Manifests, monitor: Resource, pods: Pods, endpoint: Mapping[str, Any]) -> int | None:
    """Return the port of the pods that a monitor's endpoint comes to."""
    if monitor.kind == "PodMonitor":
        return port_number(pods, endpoint.get("port", endpoint.get("portNumber", endpoint.get("targetPort"))))
    if endpoint.get("port") is None:
        return port_number(pods, endpoint.get("targetPort"))
    for service in services(manifests, monitor):
        for port in map(mapping, sequence(service.spec.get("ports"))):
            if port.get("name") == endpoint["port"]:
                return port_number(pods, port.get("targetPort", port.get("port")))
    return None


def _groups(manifests: Manifests) -> Iterator[tuple[Resource, str, Mapping[str, Any]]]:
    for resource in manifests.of_kind("PrometheusRule"):
        for index, group in enumerate(map(mapping, sequence(resource.spec.get("groups")))):
            yield resource, f"spec.groups[{index}]", group


def _rules(manifests: Manifests) -> Iterator[tuple[Resource, str, Mapping[str, Any]]]:
    for resource, path, group in _groups(manifests):
        for index, rule in enumerate(map(mapping, sequence(group.get("rules")))):
            yield resource, f"{path}.rules[{index}]", rule


RULES: Final = (monitor_port, monitor_path, monitor_times, alert_times, alert_names, no_rules)
