"""Rules on what sets the number of pods: HorizontalPodAutoscalers and KEDA's ScaledObjects."""

from collections import defaultdict
from collections.abc import Iterator, Mapping
from typing import Any, Final

from deploykit.deploy.check.amounts import amount, resource, whole
from deploykit.deploy.check.finding import Finding
from deploykit.deploy.check.manifests import Manifests, Pods, Resource, mapping, sequence
from deploykit.deploy.check.workloads import SCALERS, ceiling, floor, scalers_of, servers, target
from deploykit.deploy.facts import ModelFacts

_HPA: Final = "HorizontalPodAutoscaler"
_SOURCES: Final = {
    "Resource": "resource", "ContainerResource": "containerResource", "Pods": "pods", "Object": "object",
    "External": "external",
}  # fmt: skip
_TARGETS: Final[Mapping[str, tuple[str, ...]]] = {
    "Resource": ("Utilization", "AverageValue"), "ContainerResource": ("Utilization", "AverageValue"),
    "Pods": ("AverageValue",), "Object": ("Value", "AverageValue"), "External": ("Value", "AverageValue"),
}  # fmt: skip
_VALUES: Final = {"Utilization": "averageUtilization", "AverageValue": "averageValue", "Value": "value"}
_UNSCALABLE: Final = ("DaemonSet", "Job", "CronJob", "Pod", "Service")


def scaler_bounds(manifests: Manifests, _facts: ModelFacts | None) -> Iterator[Finding]:
    """A scaler whose fewest pods are more than its most, or that may make none at all: refused."""
    for scaler in manifests.of_kind(*SCALERS):
        names = ("minReplicas", "maxReplicas") if scaler.kind == _HPA else ("minReplicaCount", "maxReplicaCount")
        low, high = floor(scaler), ceiling(scaler)
        if high is not None and high < 1:
            why = "there must be room for one pod at least; it is refused"
            yield scaler.find("scaler-bounds", f"spec.{names[1]}", high, why, "write 1 or more")
        elif low is not None and high is not None and low > high:
            why = f"{names[1]} is {high}, which is less; it is refused"
            yield scaler.find(
                "scaler-bounds", f"spec.{names[0]}", low, why, f"write {high} or less, or raise {names[1]}"
            )
        elif low is not None and (low < 0 or (low == 0 and scaler.kind == _HPA)):
            why = (
                "the API server refuses it, unless the feature HPAScaleToZero is switched on"
                if low == 0
                else "it is refused"
            )
            yield scaler.find("scaler-bounds", f"spec.{names[0]}", low, why, "write 1 or more")


def idle_bounds(manifests: Manifests, _facts: ModelFacts | None) -> Iterator[Finding]:
    """A number of idle pods that isn't below the fewest: KEDA refuses it."""
    for scaler in manifests.of_kind("ScaledObject"):
        idle, low = whole(scaler.spec.get("idleReplicaCount")), floor(scaler)
        if idle is not None and low is not None and idle >= low:
            why = f"minReplicaCount is {low}, and idleReplicaCount must be less; KEDA refuses it"
            yield scaler.find("idle-bounds", "spec.idleReplicaCount", idle, why, "write 0, or take it out")


def replicas_beside_scaler(manifests: Manifests, _facts: ModelFacts | None) -> Iterator[Finding]:
    """A number of pods beside a scaler: each time it is applied it undoes what was scaled."""
    for resource_ in manifests.of_kind("Deployment", "StatefulSet", "ReplicaSet"):
        for scaler in scalers_of(manifests, resource_):
            if resource_.spec.get("replicas") is not None:
                yield resource_.find(
                    "replicas-beside-scaler", "spec.replicas", resource_.spec["replicas"],
                    f"{scaler.title} sets the number of pods, and every kubectl apply sets it back to this one",
                    "take it out", level="warning",
                )  # fmt: skip


def two_scalers(manifests: Manifests, _facts: ModelFacts | None) -> Iterator[Finding]:
    """Two scalers of one object: each undoes what the other does."""
    seen: defaultdict[tuple[str, ...], list[Resource]] = defaultdict(list)
    for scaler in manifests.of_kind(*SCALERS):
        seen[(scaler.namespace, *target(scaler))].append(scaler)
    for (_, kind, name), scalers in seen.items():
        for scaler in scalers[1:]:
            why = f"{scalers[0].title} scales {kind}/{name}, too: they undo each other's work"
            yield scaler.find("two-scalers", "spec.scaleTargetRef.name", name, why, "keep one of them")


def unscalable_target(manifests: Manifests, _facts: ModelFacts | None) -> Iterator[Finding]:
    """A scaler of something that has no number of pods to set."""
    for scaler in manifests.of_kind(*SCALERS):
        kind, _ = target(scaler)
        if kind in _UNSCALABLE:
            why = f"a {kind} has no number of pods that could be set"
            yield scaler.find("unscalable-target", "spec.scaleTargetRef.kind", kind, why, "name a Deployment")


def metric_source(manifests: Manifests, _facts: ModelFacts | None) -> Iterator[Finding]:
    """A metric whose type and body differ: the API server refuses it."""
    for scaler, path, metric in _metrics(manifests):
        kind = str(metric.get("type"))
        wanted = _SOURCES.get(kind)
        given = [name for name in _SOURCES.values() if metric.get(name) is not None]
        if wanted is not None and given != [wanted]:
            why = (
                f"type {kind} is told by {wanted}, and there is {', '.join(given) or 'nothing'}; the API server "
                "refuses it"
            )
            yield scaler.find("metric-source", f"{path}.type", kind, why, f"write {wanted}: and nothing else")


def metric_target(manifests: Manifests, _facts: ModelFacts | None) -> Iterator[Finding]:
    """A metric's target of a type that it can't have, or without the value that the type wants."""
    for scaler, path, metric in _metrics(manifests):
        kind = str(metric.get("type"))
        source = _SOURCES.get(kind, "")
        goal = mapping(mapping(metric.get(source)).get("target"))
        where, aim = f"{path}.{source}.target", str(goal.get("type"))
        if kind not in _TARGETS or aim not in _VALUES:
            continue
        value = goal.get(_VALUES[aim])
        if aim not in _TARGETS[kind]:
            why = f"a metric of type {kind} has {' or '.join(_TARGETS[kind])}; the API server refuses it"
            yield scaler.find("metric-target", f"{where}.type", aim, why, f"write {_TARGETS[kind][0]}")
        elif value is None:
            why = f"type {aim} is told by {_VALUES[aim]}; the API server refuses it without"
            yield scaler.find("metric-target", f"{where}.{_VALUES[aim]}", None, why, "write it")
        elif (amount(value) or 1) <= 0 or amount(value) == 0:
            why = "it must be more than 0; the API server refuses it"
            yield scaler.find("metric-target", f"{where}.{_VALUES[aim]}", value, why, "write more than 0")


def utilization_without_request(manifests: Manifests, _facts: ModelFacts | None) -> Iterator[Finding]:
    """A utilization of a resource that some container doesn't request: the scaler can't compute it."""
    for scaler, path, metric in _metrics(manifests):
        source = mapping(metric.get("resource"))
        name = source.get("name")
        if mapping(source.get("target")).get("type") != "Utilization" or name not in ("cpu", "memory"):
            continue
        for pods in _scaled(manifests, scaler):
            if any(each.namespace == scaler.namespace for each in manifests.of_kind("LimitRange")):
                continue
            if resource(pods.spec, name, "requests", "limits") is not None:
                continue
            for container in pods.containers:
                if container.kind != "containers" or resource(container.body, name, "requests", "limits") is not None:
                    continue
                yield scaler.find(
                    "utilization-without-request", f"{path}.resource.name", name,
                    f"container {container.name!r} of {pods.resource.title} requests no {name}, and utilization is a "
                    "share of the request: it stays unknown, and nothing is scaled",
                    f"write resources.requests.{name} there",
                )  # fmt: skip


def metric_container(manifests: Manifests, _facts: ModelFacts | None) -> Iterator[Finding]:
    """A metric of a container that the pods don't have."""
    for scaler, path, metric in _metrics(manifests):
        name = mapping(metric.get("containerResource")).get("container")
        for pods in _scaled(manifests, scaler) if name else ():
            names = [container.name for container in pods.containers]
            if name not in names:
                why = f"{pods.resource.title} has the containers {', '.join(names)}: nothing is scaled"
                field = f"{path}.containerResource.container"
                yield scaler.find("metric-container", field, name, why, "name one of those")


def scaling_behavior(manifests: Manifests, _facts: ModelFacts | None) -> Iterator[Finding]:
    """Windows, periods or steps of scaling that the API server refuses."""
    for scaler, path, behavior in _behaviors(manifests):
        for direction in ("scaleUp", "scaleDown"):
            rules, field = mapping(behavior.get(direction)), f"{path}.{direction}"
            window = whole(rules.get("stabilizationWindowSeconds"))
            if window is not None and not 0 <= window <= 3600:
                why = "it is 0 to 3600; the API server refuses it"
                yield scaler.find("scaling-behavior", f"{field}.stabilizationWindowSeconds", window, why, "write 300")
            if rules.get("policies") == []:
                why = "with no policy nothing may change; the API server refuses it"
                yield scaler.find(
                    "scaling-behavior", f"{field}.policies", "[]", why, "take it out, or selectPolicy: Disabled"
                )
            for index, policy in enumerate(map(mapping, sequence(rules.get("policies")))):
                for name, low, high in (("periodSeconds", 1, 1800), ("value", 1, 2**31 - 1)):
                    number = whole(policy.get(name))
                    if number is not None and not low <= number <= high:
                        why = f"it is {low} to {high}; the API server refuses it"
                        where = f"{field}.policies[{index}].{name}"
                        yield scaler.find("scaling-behavior", where, number, why, "write a number in between")


def keda_numbers(manifests: Manifests, _facts: ModelFacts | None) -> Iterator[Finding]:
    """Seconds or counts of a ScaledObject that are negative, or a poll every 0 seconds."""
    for scaler in manifests.of_kind("ScaledObject"):
        for field, least in (("pollingInterval", 1), ("cooldownPeriod", 0), ("initialCooldownPeriod", 0)):
            value = whole(scaler.spec.get(field))
            if value is not None and value < least:
                why = f"it must be {least} or more"
                yield scaler.find("keda-numbers", f"spec.{field}", value, why, f"write {least} or more")
        fallback = mapping(scaler.spec.get("fallback"))
        for field in ("failureThreshold", "replicas"):
            value = whole(fallback.get(field))
            if value is not None and value < 0:
                why = "it must be 0 or more"
                yield scaler.find("keda-numbers", f"spec.fallback.{field}", value, why, "write 0 or more")


def trigger_metadata(manifests: Manifests, _facts: ModelFacts | None) -> Iterator[Finding]:
    """A trigger of KEDA whose metadata lacks what its type wants, or has what isn't a text."""
    for scaler, path, trigger in triggers(manifests):
        metadata = mapping(trigger.get("metadata"))
        for name, value in metadata.items():
            if not isinstance(value, str):
                why = "all metadata of a trigger are texts; the API server refuses it"
                yield scaler.find(
                    "trigger-metadata", f"{path}.metadata.{name}", value, why, f'write "{value}" in quotes'
                )
        wanted = {"prometheus": ("serverAddress", "query", "threshold"), "cpu": ("value",), "memory": ("value",)}
        for name in wanted.get(str(trigger.get("type")), ()):
            value = metadata.get(name)
            if value is None:
                why = f"a trigger of type {trigger['type']} wants it: KEDA doesn't scale"
                yield scaler.find("trigger-metadata", f"{path}.metadata.{name}", None, why, "add it")
            elif name in ("threshold", "value") and isinstance(value, str) and not _is_positive(value):
                why = "it must be a number above 0: KEDA doesn't scale"
                yield scaler.find("trigger-metadata", f"{path}.metadata.{name}", value, why, "write such a number")


def no_triggers(manifests: Manifests, _facts: ModelFacts | None) -> Iterator[Finding]:
    """A ScaledObject that nothing triggers: KEDA refuses it."""
    for scaler in manifests.of_kind("ScaledObject"):
        if not sequence(scaler.spec.get("triggers")):
            yield scaler.find("no-triggers", "spec.triggers", None, "KEDA refuses it without one", "add one")


def sleeps_for_ever(manifests: Manifests, _facts: ModelFacts | None) -> Iterator[Finding]:
    """A model server that is scaled to nothing by cpu or memory: no pod is left whose load could wake it."""
    for scaler in manifests.of_kind("ScaledObject"):
        kinds = {str(mapping(trigger).get("type")) for trigger in sequence(scaler.spec.get("triggers"))}
        low = whole(scaler.spec.get("idleReplicaCount", floor(scaler)))
        if low == 0 and kinds and kinds <= {"cpu", "memory"}:
            why = "cpu and memory are those of its pods, and of no pods there are none; KEDA refuses it"
            yield scaler.find("sleeps-for-ever", "spec.minReplicaCount", low, why, "write 1 or more")


def server_scaled_to_nothing(manifests: Manifests, _facts: ModelFacts | None) -> Iterator[Finding]:
    """A ScaledObject without minReplicaCount for a model server: KEDA's default is no pod at all."""
    for scaler in manifests.of_kind("ScaledObject"):
        if floor(scaler) == 0 and any(any(servers(pods)) for pods in _scaled(manifests, scaler)):
            given = scaler.spec.get("minReplicaCount")
            yield scaler.find(
                "server-scaled-to-nothing", "spec.minReplicaCount", given,
                f"{'the default is 0' if given is None else 'with none'}: the first request after a pause fails until "
                "a model has loaded, and metrics of the pods themselves never wake it",
                "write 2", level="warning",
            )  # fmt: skip


def triggers(manifests: Manifests) -> Iterator[tuple[Resource, str, Mapping[str, Any]]]:
    """Yield the triggers of KEDA's objects."""
    for scaler in manifests.of_kind("ScaledObject"):
        for index, trigger in enumerate(map(mapping, sequence(scaler.spec.get("triggers")))):
            yield scaler, f"spec.triggers[{index}]", trigger


def _is_positive(text: str) -> bool:
    try:
        return float(text) > 0
    except ValueError:
        return False


def _metrics(manifests: Manifests) -> Iterator[tuple[Resource, str, Mapping[str, Any]]]:
    for scaler in manifests.of_kind(_HPA):
        for index, metric in enumerate(map(mapping, sequence(scaler.spec.get("metrics")))):
            yield scaler, f"spec.metrics[{index}]", metric


def _behaviors(manifests: Manifests) -> Iterator[tuple[Resource, str, Mapping[str, Any]]]:
    for scaler in manifests.of_kind(_HPA):
        yield scaler, "spec.behavior", mapping(scaler.spec.get("behavior"))
    inner = "spec.advanced.horizontalPodAutoscalerConfig"
    for scaler in manifests.of_kind("ScaledObject"):
        config = mapping(mapping(scaler.spec.get("advanced")).get("horizontalPodAutoscalerConfig"))
        yield scaler, f"{inner}.behavior", mapping(config.get("behavior"))


def _scaled(manifests: Manifests, scaler: Resource) -> list[Pods]:
    return [
        pods
        for pods in manifests.pods()
        if (pods.resource.kind, pods.resource.name) == target(scaler) and pods.resource.namespace == scaler.namespace
    ]


RULES: Final = (
    scaler_bounds, idle_bounds, replicas_beside_scaler, two_scalers, unscalable_target, metric_source, metric_target,
    utilization_without_request, metric_container, scaling_behavior, keda_numbers, trigger_metadata, no_triggers,
    sleeps_for_ever, server_scaled_to_nothing,
)  # fmt: skip
