"""Rules on what containers ask for and may take, and on what a namespace lets them."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, Final

from deploykit.deploy.check.amounts import amount, resource
from deploykit.deploy.check.finding import Finding
from deploykit.deploy.check.manifests import Manifests, Pods, Resource, mapping, sequence
from deploykit.deploy.check.quantities import spell_quantity
from deploykit.deploy.check.workloads import fewest, servers
from deploykit.deploy.facts import ModelFacts
from deploykit.deploy.sizing import MIB

_BYTES: Final = ("memory", "ephemeral-storage", "storage")
_OF_CONTAINERS: Final = ("cpu", "memory", "ephemeral-storage")
_SMALLEST: Final = 4 * MIB
"""Less than this no container starts in: runc wanted 4 MiB for its own start, later releases 6."""
_MOST_CORES: Final = 1000
"""More than any node has."""
_MANY_CORES: Final = 256


@dataclass(frozen=True, kw_only=True)
class Ask:
    """What one container asks for, or may take, of one resource."""

    pods: Pods
    path: str
    """Path of the container, or of the pod for what is asked for the whole."""
    kind: str
    """`requests` or `limits`."""
    name: str
    value: object
    other: object
    """What stands on the other side, None where nothing does."""

    @property
    def field(self) -> str:
        """Its path in the object."""
        return f"{self.path}.resources.{self.kind}.{self.name}"

    @property
    def amount(self) -> Fraction | None:
        """How much, None where it can't be read."""
        return amount(self.value)

    def find(self, rule: str, why: str, remedy: str, *, warning: bool = False) -> Finding:
        """Return a finding about it."""
        level = "warning" if warning else "error"
        return self.pods.resource.find(rule, self.field, self.value, why, remedy, level=level)  # type: ignore[arg-type]


def quantity_negative(manifests: Manifests, _facts: ModelFacts | None) -> Iterator[Finding]:
    """An amount below nothing: the API server refuses it."""
    for resource_, field, value in _quantities(manifests):
        if (amount(value) or 0) < 0:
            why = "an amount can't be negative; the API server refuses it"
            yield resource_.find("quantity-negative", field, value, why, "take the sign out")


def request_over_limit(manifests: Manifests, _facts: ModelFacts | None) -> Iterator[Finding]:
    """A request above the limit of the same resource: the API server refuses it."""
    for ask in _asks(manifests, "requests"):
        limit = amount(ask.other)
        if ask.amount is not None and limit is not None and ask.amount > limit:
            why = f"it is more than limits.{ask.name}, {ask.other}; the API server refuses it"
            yield ask.find("request-over-limit", why, f"write {ask.other} or less, or raise the limit")


def memory_in_milli(manifests: Manifests, _facts: ModelFacts | None) -> Iterator[Finding]:
    """Memory or storage in thousandths of a byte: `128m`, where `128Mi` is meant."""
    for resource_, field, value in _quantities(manifests):
        if field.rpartition(".")[2] in (*_BYTES, "sizeLimit") and isinstance(value, str) and value.endswith("m"):
            if amount(value) is None:
                continue
            why = f"m is a thousandth: {value} of memory or storage is {float(amount(value) or 0):g} bytes"
            yield resource_.find("memory-in-milli", field, value, why, f"write {value}i" if value[:-1] else "write Mi")
            continue


def memory_tiny(manifests: Manifests, _facts: ModelFacts | None) -> Iterator[Finding]:
    """A memory limit in which no process starts, as where the unit was forgotten."""
    for ask in _asks(manifests, "limits"):
        if ask.name != "memory" or ask.amount is None or str(ask.value).endswith("m"):
            continue
        if 0 < ask.amount < _SMALLEST:
            why = f"{float(ask.amount):g} bytes: the container can't start in less than 4Mi"
            yield ask.find(
                "memory-tiny", why, f"write a unit: {ask.value}Mi" if str(ask.value).isdigit() else "raise it"
            )


def cpu_in_bytes(manifests: Manifests, _facts: ModelFacts | None) -> Iterator[Finding]:
    """More cores than any node has, as where memory's unit or no `m` stands behind them."""
    for ask in _asks(manifests):
        if ask.name != "cpu" or ask.amount is None or ask.amount < _MANY_CORES:
            continue
        binary = str(ask.value)[-1:] == "i"
        why = f"that is {float(ask.amount):g} cores, and no node has as many: the pod is never scheduled"
        if ask.kind == "limits" and ask.other is not None:
            why = f"that is {float(ask.amount):g} cores: no limit at all"
        remedy = "write cores (2) or thousandths of one (500m)"
        sure = ask.amount >= _MOST_CORES and (ask.kind == "requests" or ask.other is None)
        yield ask.find("cpu-in-bytes", why, remedy, warning=not (sure or binary))


def resource_unknown(manifests: Manifests, _facts: ModelFacts | None) -> Iterator[Finding]:
    """A resource that containers can't ask for: the API server refuses it."""
    for ask in _asks(manifests):
        if "/" in ask.name or ask.name in _OF_CONTAINERS or ask.name.startswith("hugepages-"):
            continue
        near = {"mem": "memory", "cpus": "cpu", "storage": "ephemeral-storage", "gpu": "nvidia.com/gpu"}.get(ask.name)
        why = (
            "containers have cpu, memory, ephemeral-storage, hugepages-… and names with a domain; the API server "
            "refuses it"
        )
        yield ask.find("resource-unknown", why, f"write {near}" if near else "write one of those")


def extended_resource(manifests: Manifests, _facts: ModelFacts | None) -> Iterator[Finding]:
    """A device asked for in parts, without a limit, or in two different amounts: the API server refuses it."""
    for ask in _asks(manifests):
        if not _is_extended(ask.name) or ask.amount is None:
            continue
        other = amount(ask.other)
        if ask.amount.denominator != 1:
            why = "devices aren't shared in parts; the API server refuses it"
            yield ask.find("extended-resource", why, "write a whole number")
        elif ask.kind == "requests" and other is None:
            why = "it needs a limit, and there is none; the API server refuses it"
            yield ask.find("extended-resource", why, f"write it into limits: {ask.name}: {ask.value}")
        elif ask.kind == "requests" and other is not None and ask.amount < other:
            why = f"it must be what limits.{ask.name} says, {ask.other}; the API server refuses it"
            yield ask.find("extended-resource", why, f"write {ask.other}, or take it out")


def huge_pages(manifests: Manifests, _facts: ModelFacts | None) -> Iterator[Finding]:
    """Huge pages in two amounts, or beside neither cpu nor memory: the API server refuses them."""
    for ask in _asks(manifests):
        if not ask.name.startswith("hugepages-"):
            continue
        holder = _holder(ask)
        named = {name for kind in ("requests", "limits") for name in mapping(holder.get(kind))}
        if ask.kind == "requests" and amount(ask.other) != ask.amount:
            why = f"limits.{ask.name} is {ask.other or 'not there'}, and must be the same; the API server refuses it"
            yield ask.find("huge-pages", why, f"write {ask.value} into both")
        elif not named & {"cpu", "memory"}:
            why = "huge pages need cpu or memory beside them; the API server refuses it"
            yield ask.find("huge-pages", why, "ask for memory as well")


def limit_zero(manifests: Manifests, _facts: ModelFacts | None) -> Iterator[Finding]:
    """A limit of 0, which is none."""
    for ask in _asks(manifests, "limits"):
        if ask.name in ("cpu", "memory") and ask.amount == 0:
            yield ask.find("limit-zero", "0 is no limit at all", "write an amount, or take it out", warning=True)


def no_memory_limit(manifests: Manifests, _facts: ModelFacts | None) -> Iterator[Finding]:
    """An engine without a memory limit: its cache is sized by what is free on the node."""
    for pods in manifests.pods():
        for container, server in servers(pods, "serve"):
            in_pod = resource(pods.spec, "memory", "limits")
            if resource(container.body, "memory", "limits") is None and in_pod is None:
                fixed = bool(server.engine and server.engine.cache_memory)
                why = (
                    "without a limit the pod is among the first to be evicted when its node runs short"
                    if fixed
                    else (
                        "without a limit the engine takes up to half of the node's free memory for its cache, beside "
                        "others that were promised theirs"
                    )
                )
                yield pods.resource.find(
                    "no-memory-limit",
                    f"{container.path}.resources.limits.memory",
                    None,
                    why,
                    "write one",
                    level="warning",
                )


def threads_over_cpu(manifests: Manifests, _facts: ModelFacts | None) -> Iterator[Finding]:
    """More threads than the CPU limit: they wait for each other in busy loops, and the container is throttled."""
    for pods in manifests.pods():
        for container, server in servers(pods, "serve"):
            threads = server.engine.threads if server.engine else None
            limit = resource(container.body, "cpu", "limits")
            if threads and limit and threads * max(1, len(server.models)) > limit:
                each = f" for each of {len(server.models)} models" if len(server.models) > 1 else ""
                yield pods.resource.find(
                    "threads-over-cpu", f"{container.path}.{server.field('--threads')}", threads,
                    f"limits.cpu is {float(limit):g}, and ONNX Runtime's threads{each} wait for each other in busy "
                    "loops: they are throttled in the middle of a step",
                    f"write --threads={max(1, int(limit / max(1, len(server.models))))}, or raise the "
                    "limit", level="warning",
                )  # fmt: skip


def threads_unbound(manifests: Manifests, _facts: ModelFacts | None) -> Iterator[Finding]:
    """An engine with neither `--threads` nor a CPU limit: it takes a thread for each core of the node."""
    for pods in manifests.pods():
        for container, server in servers(pods, "serve"):
            if "--threads" in server.options or resource(container.body, "cpu", "limits"):
                continue
            if resource(pods.spec, "cpu", "limits") is None:
                yield pods.resource.find(
                    "threads-unbound", f"{container.path}.resources.limits.cpu", None,
                    "ONNX Runtime takes a thread for each core of the node, whatever the container asked for",
                    "write a CPU limit, or --threads", level="warning",
                )  # fmt: skip


def quota_exceeded(manifests: Manifests, _facts: ModelFacts | None) -> Iterator[Finding]:
    """Pods that ask for more than a ResourceQuota of their namespace leaves: some are never made."""
    for quota in manifests.of_kind("ResourceQuota"):
        pods_ = [pods for pods in manifests.pods() if pods.resource.namespace == quota.namespace]
        if quota.spec.get("scopes") or quota.spec.get("scopeSelector"):
            continue
        for name, value in mapping(quota.spec.get("hard")).items():
            hard = amount(value)
            asked = sum((_claims(manifests, pods, name) for pods in pods_), Fraction(0))
            if hard is not None and asked > hard:
                yield quota.find(
                    "quota-exceeded", f"spec.hard.{name}", value,
                    f"the pods of this namespace want {_spelled(name, asked)} at least: those beyond are refused",
                    "raise it, or ask for less",
                )  # fmt: skip


def quota_needs_requests(manifests: Manifests, _facts: ModelFacts | None) -> Iterator[Finding]:
    """A pod that doesn't say what a ResourceQuota of its namespace counts: it is refused."""
    for quota in manifests.of_kind("ResourceQuota"):
        if any(each.namespace == quota.namespace for each in manifests.of_kind("LimitRange")) or quota.spec.get(
            "scopes"
        ):
            continue
        for name in mapping(quota.spec.get("hard")):
            kind, what = _counted(name)
            for pods in manifests.pods() if what in ("cpu", "memory") else ():
                kinds = (kind, "limits") if kind == "requests" else (kind,)
                for container in pods.containers if pods.resource.namespace == quota.namespace else ():
                    if resource(container.body, what, *kinds) is None and resource(pods.spec, what, *kinds) is None:
                        yield pods.resource.find(
                            "quota-needs-requests", f"{container.path}.resources.{kind}.{what}", None,
                            f"{quota.title} counts {name}: a pod that doesn't say it is refused", "write it",
                        )  # fmt: skip


def limit_range(manifests: Manifests, _facts: ModelFacts | None) -> Iterator[Finding]:
    """A container that asks for more or less than a LimitRange of its namespace allows: its pods are refused."""
    for ranges in manifests.of_kind("LimitRange"):
        items = [mapping(item) for item in sequence(ranges.spec.get("limits"))]
        for item in (each for each in items if each.get("type") == "Container"):
            for ask in _asks(manifests):
                if ask.pods.resource.namespace != ranges.namespace or ask.amount is None:
                    continue
                most, least = (
                    amount(mapping(item.get("max")).get(ask.name)),
                    amount(mapping(item.get("min")).get(ask.name)),
                )
                if most is not None and ask.amount > most:
                    why = f"{ranges.title} allows {mapping(item['max'])[ask.name]} at most; the pods are refused"
                    yield ask.find("limit-range", why, "ask for less, or raise it there")
                elif least is not None and ask.kind == "requests" and ask.amount < least:
                    why = f"{ranges.title} wants {mapping(item['min'])[ask.name]} at least; the pods are refused"
                    yield ask.find("limit-range", why, "ask for more, or lower it there")


def _is_extended(name: str) -> bool:
    return "/" in name and not name.partition("/")[0].endswith("kubernetes.io")


def _holder(ask: Ask) -> Mapping[str, Any]:
    containers = (each.body for each in ask.pods.containers if each.path == ask.path)
    return mapping(next(containers, ask.pods.spec).get("resources"))


def _asks(manifests: Manifests, *kinds: str) -> Iterator[Ask]:
    for pods in manifests.pods():
        holders = [(container.path, container.body) for container in pods.containers]
        for path, body in (*holders, (pods.path, pods.spec)):
            resources = mapping(body.get("resources"))
            for kind in kinds or ("requests", "limits"):
                other = mapping(resources.get("limits" if kind == "requests" else "requests"))
                for name, value in mapping(resources.get(kind)).items():
                    yield Ask(pods=pods, path=path, kind=kind, name=str(name), value=value, other=other.get(name))


def _quantities(manifests: Manifests) -> Iterator[tuple[Resource, str, object]]:
    """Yield all amounts: of containers, volumes, claims, quotas and limit ranges."""
    for ask in _asks(manifests):
        yield ask.pods.resource, ask.field, ask.value
    for pods in manifests.pods():
        for index, volume in enumerate(map(mapping, sequence(pods.spec.get("volumes")))):
            limit = mapping(volume.get("emptyDir")).get("sizeLimit")
            if limit is not None:
                yield pods.resource, f"{pods.path}.volumes[{index}].emptyDir.sizeLimit", limit
    for claim in manifests.of_kind("PersistentVolumeClaim"):
        for kind in ("requests", "limits"):
            for name, value in mapping(mapping(claim.spec.get("resources")).get(kind)).items():
                yield claim, f"spec.resources.{kind}.{name}", value
    for quota in manifests.of_kind("ResourceQuota"):
        for name, value in mapping(quota.spec.get("hard")).items():
            yield quota, f"spec.hard.{name}", value


def _counted(name: str) -> tuple[str, str]:
    """Return which side of a container's resources a quota's line counts, and which resource."""
    kind, dot, what = name.partition(".")
    return (kind, what) if dot and kind in ("requests", "limits") else ("requests", name)


def _claims(manifests: Manifests, pods: Pods, name: str) -> Fraction:
    """Return how much of a quota's line the pods of an object take at least."""
    count = fewest(manifests, pods.resource) or 0
    if name in ("pods", "count/pods"):
        return Fraction(count)
    kind, what = _counted(name)
    if what not in _OF_CONTAINERS and "/" not in what:
        return Fraction(0)
    kinds = (kind, "limits") if kind == "requests" else (kind,)
    each = (resource(container.body, what, *kinds) for container in pods.containers if container.kind == "containers")
    return count * sum((one for one in each if one is not None), Fraction(0))


def _spelled(name: str, value: Fraction) -> str:
    return spell_quantity(value) if _counted(name)[1] in _BYTES else f"{float(value):g}"


RULES: Final = (
    quantity_negative, request_over_limit, memory_in_milli, memory_tiny, cpu_in_bytes,
    resource_unknown, extended_resource, huge_pages, limit_zero, no_memory_limit, threads_over_cpu, threads_unbound,
    quota_exceeded, quota_needs_requests, limit_range,
)  # fmt: skip
