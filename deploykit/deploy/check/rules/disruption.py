"""Rules on disruption budgets, and on how pods are spread and placed."""

from collections.abc import Iterator
from typing import Any, Final

from deploykit.deploy.check.amounts import percent, share, whole
from deploykit.deploy.check.finding import Finding, Level
from deploykit.deploy.check.manifests import Manifests, Pods, Resource, mapping, sequence
from deploykit.deploy.check.nearest import nearest
from deploykit.deploy.check.workloads import fewest, selected, servers
from deploykit.deploy.facts import ModelFacts

_FIELDS: Final = ("minAvailable", "maxUnavailable")
_NODE_LABELS: Final = (
    "kubernetes.io/hostname", "topology.kubernetes.io/zone", "topology.kubernetes.io/region", "kubernetes.io/arch",
    "kubernetes.io/os", "node.kubernetes.io/instance-type",
)  # fmt: skip
"""What every node, or every node of a cloud, is labelled with (Kubernetes' list of well-known labels)."""
_RESERVED: Final = {key.partition("/")[0] for key in _NODE_LABELS}
"""Domains in which nobody else may name labels."""


def budget_share(manifests: Manifests, _facts: ModelFacts | None) -> Iterator[Finding]:
    """A budget that is no number and no percentage, or more than all pods."""
    for budget in manifests.of_kind("PodDisruptionBudget"):
        for field in _FIELDS:
            value = budget.spec.get(field)
            part, number = percent(value), whole(value)
            if value is not None and ((part is None and (number is None or number < 0)) or (part or 0) > 100):
                why = "it must be a number of pods, or a percentage from 0% to 100%; the API server refuses it"
                yield budget.find("budget-share", f"spec.{field}", value, why, "write 1, or 50%")


def budget_forbids_all(manifests: Manifests, _facts: ModelFacts | None) -> Iterator[Finding]:
    """A budget that never lets a pod go: nodes can't be drained."""
    for budget, pods, count in _budgets(manifests):
        low, high = budget.spec.get("minAvailable"), budget.spec.get("maxUnavailable")
        kept = share(low, count, up=True) if low is not None else None
        gone = share(high, count, up=True) if high is not None else None
        if kept is not None and kept >= count > 0:
            field, value, why = (
                "minAvailable",
                low,
                f"{pods.resource.title} may have {count} pods, and {kept} must stay",
            )
        elif gone == 0 and count > 0:
            field, value, why = "maxUnavailable", high, "no pod may ever be away"
        else:
            continue
        yield budget.find(
            "budget-forbids-all", f"spec.{field}", value,
            f"{why}: no eviction is allowed, and a node that is drained for an upgrade waits for ever",
            "write maxUnavailable: 1" if count > 1 else "write maxUnavailable: 1, and run two pods",
            level="error" if any(servers(pods)) else "warning",
        )  # fmt: skip


def budget_allows_all(manifests: Manifests, _facts: ModelFacts | None) -> Iterator[Finding]:
    """A budget of a model server that lets all of its pods go at once: it protects nothing."""
    for budget, pods, count in _budgets(manifests):
        low, high = (budget.spec.get(field) for field in _FIELDS)
        gone = share(high, count, up=True) if high is not None else None
        kept = share(low, count, up=True) if low is not None else None
        if count > 1 and any(servers(pods)) and (kept == 0 or (gone or 0) >= count):
            field, value = ("minAvailable", low) if kept == 0 else ("maxUnavailable", high)
            why = f"all {count} pods of {pods.resource.title} may be away at once"
            yield budget.find(
                "budget-allows-all", f"spec.{field}", value, why, "write maxUnavailable: 1", level="warning"
            )


def spread_numbers(manifests: Manifests, _facts: ModelFacts | None) -> Iterator[Finding]:
    """Numbers of a spread constraint that the API server refuses."""
    for pods, path, spread in _spreads(manifests):
        skew, domains = whole(spread.get("maxSkew")), whole(spread.get("minDomains"))
        if skew is not None and skew < 1:
            why = "it must be 1 or more; the API server refuses it"
            yield pods.resource.find("spread-numbers", f"{path}.maxSkew", skew, why, "write 1")
        if domains is None:
            continue
        if domains < 1:
            why = "it must be 1 or more; the API server refuses it"
            yield pods.resource.find("spread-numbers", f"{path}.minDomains", domains, why, "write 1 or more")
        elif spread.get("whenUnsatisfiable") != "DoNotSchedule":
            why = "it needs whenUnsatisfiable: DoNotSchedule; the API server refuses it"
            yield pods.resource.find("spread-numbers", f"{path}.minDomains", domains, why, "take it out")


def affinity_weight(manifests: Manifests, _facts: ModelFacts | None) -> Iterator[Finding]:
    """A preference whose weight isn't 1 to 100, or an affinity without topologyKey: the API server refuses it."""
    for pods, path, term in _terms(manifests):
        weight = whole(term.get("weight"))
        inner = mapping(term.get("podAffinityTerm")) if "podAffinityTerm" in term else term
        if weight is not None and not 1 <= weight <= 100:
            why = "it is 1 to 100; the API server refuses it"
            yield pods.resource.find("affinity-weight", f"{path}.weight", weight, why, "write 100")
        if ".nodeAffinity." not in path and not inner.get("topologyKey"):
            why = "the API server wants the label that tells places apart"
            yield pods.resource.find(
                "affinity-weight", f"{path}.topologyKey", None, why, "write kubernetes.io/hostname"
            )


def topology_key(manifests: Manifests, _facts: ModelFacts | None) -> Iterator[Finding]:
    """A topologyKey that is nearly a label that nodes have: no node has it, and the rule counts for nothing or all."""
    for pods, path, wish in _wishes(manifests):
        key = wish.get("topologyKey")
        if not isinstance(key, str) or key in _NODE_LABELS:
            continue
        if near := nearest(key, _NODE_LABELS, cutoff=0.9):
            level: Level = "error" if key.partition("/")[0] in _RESERVED else "warning"
            yield pods.resource.find(
                "topology-key", f"{path}.topologyKey", key, "nodes carry no such label unless somebody puts it there",
                f"write {near}", level=level,
            )  # fmt: skip


def toleration_shape(manifests: Manifests, _facts: ModelFacts | None) -> Iterator[Finding]:
    """A toleration whose fields exclude each other: the API server refuses it."""
    for pods in manifests.pods():
        for index, each in enumerate(map(mapping, sequence(pods.spec.get("tolerations")))):
            path = f"{pods.path}.tolerations[{index}]"
            if each.get("operator") == "Exists" and each.get("value"):
                why = "operator Exists asks for no value; the API server refuses it"
                yield pods.resource.find(
                    "toleration-shape", f"{path}.value", each["value"], why, "take it out, or write Equal"
                )
            elif not each.get("key") and each.get("operator", "Equal") != "Exists":
                why = "without a key it must be operator Exists; the API server refuses it"
                yield pods.resource.find("toleration-shape", f"{path}.key", None, why, "write the taint's key")
            if each.get("tolerationSeconds") is not None and each.get("effect") != "NoExecute":
                why = "seconds are counted for effect NoExecute alone; the API server refuses it"
                field = f"{path}.tolerationSeconds"
                yield pods.resource.find("toleration-shape", field, each["tolerationSeconds"], why, "take it out")


def node_name(manifests: Manifests, _facts: ModelFacts | None) -> Iterator[Finding]:
    """Pods that are bound to one node by its name: no scheduler, and nowhere to go when it ends."""
    for pods in manifests.pods():
        if pods.spec.get("nodeName") and any(servers(pods)):
            why = "the pods run on that node or not at all, whether it has room or not"
            field = f"{pods.path}.nodeName"
            yield pods.resource.find(
                "node-name", field, pods.spec["nodeName"], why, "use a nodeSelector", level="warning"
            )


def _budgets(manifests: Manifests) -> Iterator[tuple[Resource, Pods, int]]:
    """Yield each budget with the pods that it is for, and how few they may be."""
    for budget in manifests.of_kind("PodDisruptionBudget"):
        if budget.spec.get("selector") is None:
            continue
        for pods in selected(manifests, budget.spec["selector"], budget.namespace):
            count = fewest(manifests, pods.resource)
            if count is not None:
                yield budget, pods, count


def _spreads(manifests: Manifests) -> Iterator[tuple[Pods, str, Any]]:
    for pods in manifests.pods():
        for index, spread in enumerate(map(mapping, sequence(pods.spec.get("topologySpreadConstraints")))):
            yield pods, f"{pods.path}.topologySpreadConstraints[{index}]", spread


def _wishes(manifests: Manifests) -> Iterator[tuple[Pods, str, Any]]:
    """Yield whatever may have a topologyKey."""
    yield from _spreads(manifests)
    for pods, path, term in _terms(manifests):
        inner = "podAffinityTerm" in term
        yield pods, f"{path}.podAffinityTerm" if inner else path, mapping(term["podAffinityTerm"]) if inner else term


def _terms(manifests: Manifests) -> Iterator[tuple[Pods, str, Any]]:
    for pods in manifests.pods():
        for kind, affinity in mapping(pods.spec.get("affinity")).items():
            wishes = ["preferredDuringSchedulingIgnoredDuringExecution"]
            if kind != "nodeAffinity":
                wishes.append("requiredDuringSchedulingIgnoredDuringExecution")
            for wish in wishes:
                for index, term in enumerate(map(mapping, sequence(mapping(affinity).get(wish)))):
                    yield pods, f"{pods.path}.affinity.{kind}.{wish}[{index}]", term


RULES: Final = (
    budget_share, budget_forbids_all, budget_allows_all, spread_numbers, affinity_weight, topology_key,
    toleration_shape, node_name,
)  # fmt: skip
