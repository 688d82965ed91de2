"""Rules on selectors: whether they find pods, the right ones, and no others."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from deploykit.deploy.check.finding import Finding, Level
from deploykit.deploy.check.manifests import Manifests, Pods, Resource, mapping, sequence
from deploykit.deploy.check.selecting import fits, fits_all, is_empty
from deploykit.deploy.facts import ModelFacts

_CONTROLLERS: Final = ("Deployment", "StatefulSet", "DaemonSet", "ReplicaSet", "ReplicationController")


@dataclass(frozen=True, kw_only=True)
class Selector:
    """A place where labels of pods are asked for."""

    resource: Resource
    field: str
    wanted: Mapping[str, Any]
    """As a `LabelSelector`."""
    namespaces: frozenset[str] | None
    """Where it looks; None for everywhere."""
    breaks: str
    """What happens where it finds nothing."""
    own: Pods | None = None
    """The pods that it is part of, for a rule of where they go."""

    def finds(self, labels: Mapping[str, Any], namespace: str) -> bool:
        """Return whether it selects something with some labels in a namespace."""
        return (self.namespaces is None or namespace in self.namespaces) and fits(self.wanted, labels)


def selector_not_in_template(manifests: Manifests, _facts: ModelFacts | None) -> Iterator[Finding]:
    """A controller whose selector doesn't fit the labels of its own pods: the API server refuses it."""
    for pods in manifests.pods():
        selector = pods.resource.spec.get("selector")
        if pods.resource.kind not in _CONTROLLERS or not isinstance(selector, dict):
            continue
        wanted = {"matchLabels": selector} if pods.resource.kind == "ReplicationController" else selector
        if is_empty(wanted):
            why, remedy = "the API refuses an empty selector", "ask for a label of the template"
            yield pods.resource.find("selector-not-in-template", "spec.selector", None, why, remedy)
        elif not fits(wanted, pods.labels):
            field, value, why = _difference("spec.selector", wanted, pods)
            yield pods.resource.find(
                "selector-not-in-template", field, value, f"{why}: the API refuses a selector that misses its own pods",
                "write the same label in both",
            )  # fmt: skip


def selects_nothing(manifests: Manifests, _facts: ModelFacts | None) -> Iterator[Finding]:
    """A selector of a Service, a budget, a policy or a monitor that fits no pod."""
    pods = list(manifests.pods())
    for selector in _selectors(manifests):
        there = [each for each in pods if selector.namespaces is None or each.resource.namespace in selector.namespaces]
        if any(selector.finds(each.labels, each.resource.namespace) for each in pods) or _has_unknown_pods(manifests):
            continue
        if not there and (elsewhere := [each for each in pods if fits(selector.wanted, each.labels)]):
            yield _in_another_namespace(selector, elsewhere[0])
        elif there:
            closest = max(there, key=lambda each: _likeness(selector.wanted, each.labels))
            plain = selector.resource.kind == "Service"
            field, value, why = _difference(selector.field, selector.wanted, closest, plain=plain)
            level: Level = "error" if _likeness(selector.wanted, closest.labels) else "warning"
            yield selector.resource.find(
                "selects-nothing", field, value, f"it fits no pod among the manifests: {why}; {selector.breaks}",
                "write the labels of the pods that are meant", level=level,
            )  # fmt: skip


def monitor_selects_nothing(manifests: Manifests, _facts: ModelFacts | None) -> Iterator[Finding]:
    """A ServiceMonitor that fits no Service."""
    for monitor in manifests.of_kind("ServiceMonitor"):
        selector = mapping(monitor.spec.get("selector"))
        namespaces = _monitored(monitor)
        named = bool(mapping(monitor.spec.get("namespaceSelector")).get("matchNames"))
        services = list(manifests.of_kind("Service"))
        seen = [each for each in services if namespaces is None or each.namespace in namespaces]
        if named and not seen and not any(fits(selector, _own_labels(each)) for each in services):
            # The Services of that namespace aren't among the manifests: nothing can be said of them.
            continue
        if services and not any(fits(selector, _own_labels(each)) for each in seen):
            alike = any(_likeness(selector, _own_labels(each)) for each in services)
            has = "; ".join(f"{each.title} has {_spelled(_own_labels(each)) or 'none'}" for each in services[:3])
            yield monitor.find(
                "monitor-selects-nothing", "spec.selector", _spelled(mapping(selector.get("matchLabels"))),
                f"it fits the labels of no Service it looks at ({has}), so nothing is scraped",
                "write the Service's own labels (metadata.labels, not its selector)",
                level="error" if alike or not named else "warning",
            )  # fmt: skip


def placement_misses_itself(manifests: Manifests, _facts: ModelFacts | None) -> Iterator[Finding]:
    """A spread, or a rule that keeps pods apart, that fits no pod at all, or not the pods that have it."""
    pods = list(manifests.pods())
    for selector in _placements(pods):
        own = selector.own
        if own is None or selector.finds(own.labels, own.resource.namespace):
            continue
        spread = ".topologySpreadConstraints" in selector.field
        others = [each for each in pods if selector.finds(each.labels, each.resource.namespace)]
        if others and not spread:
            continue
        field, value, why = _difference(selector.field, selector.wanted, own)
        alike = _likeness(selector.wanted, own.labels)
        level: Level = "error" if alike and not others else "warning"
        if spread or alike or not others:
            yield selector.resource.find(
                "placement-misses-itself",
                field,
                value,
                f"{why}; {selector.breaks}",
                "write the pods' own labels",
                level=level,
            )


def selector_overlap(manifests: Manifests, _facts: ModelFacts | None) -> Iterator[Finding]:
    """Two controllers whose selectors fit the same pods: each takes the other's for its own."""
    controllers = [pods for pods in manifests.pods() if pods.resource.kind in _CONTROLLERS]
    for index, one in enumerate(controllers):
        for other in controllers[index + 1 :]:
            if one.resource.namespace != other.resource.namespace or one.resource.title == other.resource.title:
                continue
            for mine, yours in ((one, other), (other, one)):
                selector = mine.resource.spec.get("selector")
                wanted = {"matchLabels": selector} if mine.resource.kind == "ReplicationController" else selector
                if isinstance(wanted, dict) and not is_empty(wanted) and fits(wanted, yours.labels):
                    yield mine.resource.find(
                        "selector-overlap", "spec.selector", _spelled(mapping(wanted.get("matchLabels"))),
                        f"it fits the pods of {yours.resource.title} as well ({_spelled(yours.labels)}): each of both "
                        "counts the other's pods, and deletes or adopts them",
                        "add a label to selector and template that the other doesn't have",
                    )  # fmt: skip
                    break


def budgets_overlap(manifests: Manifests, _facts: ModelFacts | None) -> Iterator[Finding]:
    """Two disruption budgets on the same pods: evictions fail, and nodes can't be drained."""
    budgets = list(manifests.of_kind("PodDisruptionBudget"))
    for index, one in enumerate(budgets):
        for other in budgets[index + 1 :]:
            for pods in manifests.pods():
                if one.namespace == other.namespace == pods.resource.namespace and all(
                    fits(each.spec.get("selector"), pods.labels) for each in (one, other)
                ):
                    why = (
                        f"{one.title} selects the pods of {pods.resource.title} as well, and no pod with two is evicted"
                    )
                    yield other.find("budgets-overlap", "spec.selector", None, why, "keep one of them")
                    break


def weights_overlap(manifests: Manifests, _facts: ModelFacts | None) -> Iterator[Finding]:
    """A Service of a weighted route that also fits the pods of another one: the weights don't hold."""
    pods = list(manifests.pods())
    for route in manifests.of_kind("HTTPRoute", "GRPCRoute"):
        for index, rule in enumerate(map(mapping, sequence(route.spec.get("rules")))):
            names = [str(mapping(each).get("name")) for each in sequence(rule.get("backendRefs"))]
            services = [each for each in (manifests.find("Service", name, route.namespace) for name in names) if each]
            caught = {each.name: _caught(each, pods) for each in services}
            for one in services:
                for other in services:
                    shared = caught[one.name] & caught[other.name]
                    if one.name != other.name and shared and caught[other.name] < caught[one.name]:
                        yield one.find(
                            "weights-overlap", "spec.selector", _spelled(mapping(one.spec.get("selector"))),
                            f"{route.title} divides requests between it and {other.title}, and it selects the pods of "
                            f"{', '.join(sorted(shared))}, too: spec.rules[{index}].backendRefs' weights don't hold",
                            "select a label that only its own pods have",
                        )  # fmt: skip


def service_catches_others(manifests: Manifests, _facts: ModelFacts | None) -> Iterator[Finding]:
    """A Service that also fits pods which don't have its port."""
    pods = [each for each in manifests.pods() if each.resource.kind in _CONTROLLERS]
    for service in manifests.of_kind("Service"):
        caught = [each for each in pods if each.resource.title in _caught(service, pods)]
        for index, port in enumerate(map(mapping, sequence(service.spec.get("ports")))):
            target = port.get("targetPort") or port.get("port")
            without = [each for each in caught if not _declares(each, target)]
            if without and len(without) < len(caught):
                yield service.find(
                    "service-catches-others", "spec.selector", _spelled(mapping(service.spec.get("selector"))),
                    f"it fits the pods of {' and '.join(each.resource.title for each in caught)}, and those of "
                    f"{without[0].resource.title} don't declare spec.ports[{index}].targetPort = {target}",
                    "select a label that only the pods with the port have", level="warning",
                )  # fmt: skip
                break


RULES: Final = (
    selector_not_in_template, selects_nothing, monitor_selects_nothing, placement_misses_itself, selector_overlap,
    budgets_overlap, weights_overlap, service_catches_others,
)  # fmt: skip


def _selectors(manifests: Manifests) -> Iterator[Selector]:
    """Yield the selectors that must find pods."""
    for service in manifests.of_kind("Service"):
        wanted = service.spec.get("selector")
        if isinstance(wanted, dict) and wanted and service.spec.get("type") != "ExternalName":
            yield _selector(service, "spec.selector", {"matchLabels": wanted}, "requests go nowhere")
    for budget in manifests.of_kind("PodDisruptionBudget"):
        yield from _given(budget, "spec.selector", budget.spec.get("selector"), "it protects nothing")
    for policy in manifests.of_kind("NetworkPolicy"):
        yield from _given(policy, "spec.podSelector", policy.spec.get("podSelector"), "it holds for no pod")
    for monitor in manifests.of_kind("PodMonitor"):
        namespaces = _monitored(monitor)
        yield from _given(monitor, "spec.selector", monitor.spec.get("selector"), "nothing is scraped", namespaces)


def _selector(resource: Resource, field: str, wanted: Mapping[str, Any], breaks: str) -> Selector:
    return Selector(
        resource=resource, field=field, wanted=wanted, namespaces=frozenset({resource.namespace}), breaks=breaks
    )


def _given(
    resource: Resource, field: str, wanted: object, breaks: str, namespaces: frozenset[str] | None = frozenset()
) -> Iterator[Selector]:
    """Yield a selector that asks for something: an empty one means all pods."""
    if isinstance(wanted, dict) and not is_empty(wanted):
        where = frozenset({resource.namespace}) if namespaces == frozenset() else namespaces
        yield Selector(resource=resource, field=field, wanted=wanted, namespaces=where, breaks=breaks)


def _monitored(monitor: Resource) -> frozenset[str] | None:
    """Return the namespaces that a monitor looks into."""
    selector = mapping(monitor.spec.get("namespaceSelector"))
    if selector.get("any") is True:
        return None
    return frozenset(map(str, sequence(selector.get("matchNames")))) or frozenset({monitor.namespace})


def _placements(pods: list[Pods]) -> Iterator[Selector]:
    """Yield the selectors of where pods go: spreads, and what they keep away from in their own namespace."""
    for each in pods:
        for node in each.resource.nodes:
            if node.struct == "TopologySpreadConstraint":
                breaks = "the spread counts none of these pods, and places them as it comes"
            elif node.struct == "PodAffinityTerm" and ".podAntiAffinity." in node.path:
                breaks = "nothing keeps these pods apart"
            else:
                continue
            wanted = node.body.get("labelSelector")
            if isinstance(wanted, dict) and not node.body.get("namespaces") and "namespaceSelector" not in node.body:
                yield Selector(
                    resource=each.resource, field=node.below("labelSelector"), wanted=wanted,
                    namespaces=frozenset({each.resource.namespace}), breaks=breaks, own=each,
                )  # fmt: skip


def _has_unknown_pods(manifests: Manifests) -> bool:
    """Return whether an object of a kind that the linter doesn't know may make pods."""
    return any(not each.nodes and "." in each.api_version.partition("/")[0] for each in manifests.resources) or any(
        manifests.of_kind("InferenceService")
    )


def _likeness(wanted: Mapping[str, Any], labels: Mapping[str, Any]) -> int:
    """Return how many of the labels that a selector asks for are there at least under their keys."""
    keys = [*mapping(wanted.get("matchLabels"))]
    keys += [str(mapping(each).get("key")) for each in sequence(wanted.get("matchExpressions"))]
    return sum(
        2 if fits_all({key: mapping(wanted.get("matchLabels")).get(key)}, labels) else key in labels for key in keys
    )


def _difference(field: str, wanted: Mapping[str, Any], pods: Pods, *, plain: bool = False) -> tuple[str, object, str]:
    """Return the label that pods don't have as a selector wants it: its field, its value, and what they have."""
    for key, value in mapping(wanted.get("matchLabels")).items():
        if not fits_all({key: value}, pods.labels):
            has = f"have {key}: {pods.labels[key]}" if key in pods.labels else f"have no label {key}"
            where = f"{field}.{key}" if plain else f"{field}.matchLabels.{key}"
            return where, value, f"the pods of {pods.resource.title} {has}"
    for index, expression in enumerate(sequence(wanted.get("matchExpressions"))):
        if not fits({"matchExpressions": [expression]}, pods.labels):
            said = f"{mapping(expression).get('key')} {mapping(expression).get('operator')}"
            return (
                f"{field}.matchExpressions[{index}]",
                said,
                f"the pods of {pods.resource.title} have {_spelled(pods.labels)}",
            )
    return field, None, f"the pods of {pods.resource.title} have {_spelled(pods.labels) or 'no labels'}"


def _in_another_namespace(selector: Selector, pods: Pods) -> Finding:
    said = selector.resource.namespace if selector.resource.says_namespace else None
    sure = said is not None and pods.resource.says_namespace
    return selector.resource.find(
        "selects-nothing", "metadata.namespace", said,
        f"it fits the pods of {pods.resource.title} alone, in namespace {pods.resource.namespace}; {selector.breaks}",
        "put both into one namespace", level="error" if sure else "warning",
    )  # fmt: skip


def _own_labels(resource: Resource) -> Mapping[str, Any]:
    return mapping(mapping(resource.body.get("metadata")).get("labels"))


def _caught(service: Resource, pods: list[Pods]) -> set[str]:
    wanted = mapping(service.spec.get("selector"))
    return {
        p.resource.title
        for p in pods
        if wanted and p.resource.namespace == service.namespace and fits_all(wanted, p.labels)
    }


def _declares(pods: Pods, target: object) -> bool:
    """Return whether a container of a pod declares a port, by number or name."""
    ports = [mapping(port) for container in pods.containers for port in sequence(container.body.get("ports"))]
    return any(str(target) in (str(port.get("containerPort")), str(port.get("name"))) for port in ports)


def _spelled(labels: Mapping[str, Any]) -> str:
    return ", ".join(f"{key}: {value}" for key, value in labels.items())
