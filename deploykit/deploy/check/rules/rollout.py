"""Rules on how new pods take the place of old ones."""

from collections.abc import Iterator, Mapping
from typing import Any, Final

from deploykit.deploy.check.amounts import percent, share, whole
from deploykit.deploy.check.finding import Finding
from deploykit.deploy.check.manifests import Manifests, Resource, mapping
from deploykit.deploy.check.probing import probes_of
from deploykit.deploy.check.workloads import fewest, scalers_of, servers
from deploykit.deploy.facts import ModelFacts

_NUMBERS: Final = ("replicas", "minReadySeconds", "revisionHistoryLimit", "progressDeadlineSeconds", "backoffLimit")
_KINDS: Final = ("Deployment", "StatefulSet", "DaemonSet", "ReplicaSet", "Job")
_DEADLINE: Final = 600
"""progressDeadlineSeconds where none is given."""
_NONE: Final = (0, "0", "0%")


def rollout_numbers(manifests: Manifests, _facts: ModelFacts | None) -> Iterator[Finding]:
    """A negative number of pods, seconds or revisions: the API server refuses it."""
    for resource in manifests.of_kind(*_KINDS):
        for field in _NUMBERS:
            value = whole(resource.spec.get(field))
            if value is not None and value < 0:
                why = "it can't be negative; the API server refuses it"
                yield resource.find("rollout-numbers", f"spec.{field}", value, why, "write 0 or more")


def rollout_share(manifests: Manifests, _facts: ModelFacts | None) -> Iterator[Finding]:
    """A surge or an unavailable share that is no number and no percentage, or more than all pods."""
    for resource, path, rolling in _rollings(manifests):
        for field in ("maxSurge", "maxUnavailable"):
            value = rolling.get(field)
            if value is None:
                continue
            part, number = percent(value), whole(value)
            if part is None and (number is None or number < 0):
                why = "it must be a number of pods or a percentage such as 25%; the API server refuses it"
                yield resource.find("rollout-share", f"{path}.{field}", value, why, "write 1, or 25%")
            elif part is not None and part > 100 and field == "maxUnavailable":
                why = "no more than 100% of the pods can be away; the API server refuses it"
                yield resource.find("rollout-share", f"{path}.{field}", value, why, "write 100% or less")


def rollout_stuck(manifests: Manifests, _facts: ModelFacts | None) -> Iterator[Finding]:
    """A rollout that may neither add a pod nor take one away: the API server refuses it."""
    for resource, path, rolling in _rollings(manifests):
        daemon = resource.kind == "DaemonSet"
        if resource.kind not in ("Deployment", "DaemonSet"):
            continue
        defaults = {"maxSurge": 0, "maxUnavailable": 1} if daemon else {"maxSurge": "25%", "maxUnavailable": "25%"}
        surge, away = (rolling.get(field, default) for field, default in defaults.items())
        if surge in _NONE and away in _NONE:
            why = f"maxSurge is {surge}, too: no pod could ever be replaced; the API server refuses it"
            yield resource.find("rollout-stuck", f"{path}.maxUnavailable", away, why, "write maxSurge: 1")
        elif daemon and surge not in _NONE and away not in _NONE:
            why = f"maxUnavailable is {away}, and a DaemonSet takes one of the two; the API server refuses it"
            yield resource.find("rollout-stuck", f"{path}.maxSurge", surge, why, "set one of them to 0")


def rollout_rounds_to_nothing(manifests: Manifests, _facts: ModelFacts | None) -> Iterator[Finding]:
    """A percentage that rounds down to no pod, beside no surge: the rollout takes a pod away nevertheless."""
    for resource, path, rolling in _rollings(manifests):
        away, count = rolling.get("maxUnavailable", "25%"), fewest(manifests, resource)
        if resource.kind != "Deployment" or rolling.get("maxSurge", "25%") not in _NONE or away in _NONE or not count:
            continue
        if share(away, count, up=False) == 0:
            yield resource.find(
                "rollout-rounds-to-nothing", f"{path}.maxUnavailable", away,
                f"of {count} pods that is none, and maxSurge is 0: the controller takes one away all the same",
                "write maxSurge: 1, or the number that may be away", level="warning",
            )  # fmt: skip


def rollout_type(manifests: Manifests, _facts: ModelFacts | None) -> Iterator[Finding]:
    """Numbers of a rolling update beside another strategy: the API server refuses them."""
    for resource in manifests.of_kind("Deployment", "StatefulSet", "DaemonSet"):
        field = "strategy" if resource.kind == "Deployment" else "updateStrategy"
        strategy = mapping(resource.spec.get(field))
        if strategy.get("type", "RollingUpdate") != "RollingUpdate" and strategy.get("rollingUpdate"):
            why = f"type {strategy['type']} has no such numbers; the API server refuses them"
            yield resource.find("rollout-type", f"spec.{field}.rollingUpdate", "", why, "take it out, or the type")


def rollout_downtime(manifests: Manifests, _facts: ModelFacts | None) -> Iterator[Finding]:
    """A rollout that leaves no pod of a model server running."""
    for pods in manifests.pods():
        resource, count = pods.resource, fewest(manifests, pods.resource)
        if resource.kind != "Deployment" or not any(servers(pods)) or not count:
            continue
        strategy = mapping(resource.spec.get("strategy"))
        if strategy.get("type") == "Recreate":
            why = "all old pods end before the first new one starts: nobody answers until the model has loaded"
            yield resource.find(
                "rollout-downtime", "spec.strategy.type", "Recreate", why, "write RollingUpdate", level="warning"
            )
            continue
        rolling = mapping(strategy.get("rollingUpdate"))
        if rolling.get("maxSurge") in _NONE and any(_takes_device(each.body) for each in pods.containers):
            # Deliberate: a pod more would wait for a GPU that isn't free.
            continue
        away = rolling.get("maxUnavailable", "25%")
        if (share(away, count, up=False) or 0) >= count:
            yield resource.find(
                "rollout-downtime", "spec.strategy.rollingUpdate.maxUnavailable", away,
                f"there may be no more than {count} pod{'s' * (count > 1)}, and a rollout may take as many away at "
                "once",
                "write maxUnavailable: 0 and maxSurge: 1", level="warning",
            )  # fmt: skip


def rollout_deadline(manifests: Manifests, _facts: ModelFacts | None) -> Iterator[Finding]:
    """A rollout that counts as failed before its pods may have started, or counted as available."""
    for pods in manifests.pods():
        resource = pods.resource
        if resource.kind != "Deployment":
            continue
        given, field = resource.spec.get("progressDeadlineSeconds"), "spec.progressDeadlineSeconds"
        deadline, settle = (
            whole(given if given is not None else _DEADLINE),
            whole(resource.spec.get("minReadySeconds")) or 0,
        )
        start = max((p.budget for c in pods.containers for p in probes_of(pods, c, "startupProbe")), default=0)
        if deadline is None:
            continue
        if settle >= deadline:
            why = f"minReadySeconds is {settle}, and must be less; the API server refuses it"
            yield resource.find("rollout-deadline", field, given, why, f"write more than {settle}")
        elif start and deadline < start + settle:
            default = f"{deadline} s, the default, are" if given is None else f"{deadline} s are"
            yield resource.find(
                "rollout-deadline", field, given,
                f"{default} less than the startup probe and minReadySeconds grant ({start} s + {settle} s): the "
                "rollout counts as failed while a pod may still come up",
                f"write {start + settle + 60} or more", level="warning",
            )  # fmt: skip


def deadline_below_load(manifests: Manifests, facts: ModelFacts | None) -> Iterator[Finding]:
    """A rollout that counts as failed before the model can have loaded."""
    for pods in manifests.pods() if facts else ():
        assert facts is not None
        resource = pods.resource
        deadline = whole(resource.spec.get("progressDeadlineSeconds", _DEADLINE))
        if resource.kind != "Deployment" or deadline is None or not any(servers(pods, "serve")):
            continue
        if deadline < facts.load_seconds:
            yield resource.find(
                "deadline-below-load", "spec.progressDeadlineSeconds", deadline,
                f"the model takes {facts.load_seconds:.1f} s to load, so every rollout counts as failed",
                f"write {int(3 * facts.load_seconds) + 60} or more",
            )  # fmt: skip


def no_way_back(manifests: Manifests, _facts: ModelFacts | None) -> Iterator[Finding]:
    """No old revisions: `kubectl rollout undo` has nothing to go back to."""
    for resource in manifests.of_kind("Deployment", "StatefulSet", "DaemonSet"):
        if resource.spec.get("revisionHistoryLimit") == 0:
            why = "no earlier revision is kept, so that kubectl rollout undo can't go back"
            yield resource.find(
                "no-way-back", "spec.revisionHistoryLimit", 0, why, "write 2 or more, or take it out", level="warning"
            )


def rollout_paused(manifests: Manifests, _facts: ModelFacts | None) -> Iterator[Finding]:
    """A Deployment that is paused: what is applied changes no pod, and a new one has none."""
    for resource in manifests.of_kind("Deployment"):
        if resource.spec.get("paused") is True:
            why = "changes of the pod template reach no pod, and a new Deployment makes none"
            yield resource.find("rollout-paused", "spec.paused", True, why, "take it out", level="warning")


def no_pods(manifests: Manifests, _facts: ModelFacts | None) -> Iterator[Finding]:
    """A model server with no pods, and nothing that makes some."""
    for pods in manifests.pods():
        resource = pods.resource
        if resource.spec.get("replicas") == 0 and any(servers(pods)) and not scalers_of(manifests, resource):
            why = "nothing runs, and nothing scales it"
            yield resource.find("no-pods", "spec.replicas", 0, why, "write 2", level="warning")


def partition_keeps_all(manifests: Manifests, _facts: ModelFacts | None) -> Iterator[Finding]:
    """A partition at or above the number of pods: no pod is ever updated."""
    for resource in manifests.of_kind("StatefulSet"):
        rolling = mapping(mapping(resource.spec.get("updateStrategy")).get("rollingUpdate"))
        partition, count = whole(rolling.get("partition")), whole(resource.spec.get("replicas", 1))
        if partition and count is not None and partition >= count and not scalers_of(manifests, resource):
            why = f"pods from {partition} on are updated, and there are {count}, counted from 0: none is"
            yield resource.find(
                "partition-keeps-all", "spec.updateStrategy.rollingUpdate.partition", partition, why,
                "write 0, or take it out", level="warning",
            )  # fmt: skip


def _takes_device(container: Mapping[str, Any]) -> bool:
    """Return whether a container asks for a GPU or another device, which its node has few of."""
    limits = mapping(mapping(container.get("resources")).get("limits"))
    return any("/" in str(name) and not str(name).startswith("kubernetes.io/") for name in limits)


def _rollings(manifests: Manifests) -> Iterator[tuple[Resource, str, Mapping[str, Any]]]:
    """Yield each rolling update, one that nobody has written included."""
    for resource in manifests.of_kind("Deployment", "StatefulSet", "DaemonSet"):
        field = "strategy" if resource.kind == "Deployment" else "updateStrategy"
        strategy = mapping(resource.spec.get(field))
        if strategy.get("type", "RollingUpdate") == "RollingUpdate":
            yield resource, f"spec.{field}.rollingUpdate", mapping(strategy.get("rollingUpdate"))


RULES: Final = (
    rollout_numbers, rollout_share, rollout_stuck, rollout_rounds_to_nothing, rollout_type, rollout_downtime,
    rollout_deadline, deadline_below_load, no_way_back, rollout_paused, no_pods, partition_keeps_all,
)  # fmt: skip
