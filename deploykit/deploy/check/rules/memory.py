"""Rules on memory: the model's, the cache's, and what shared memory and files in memory take of the same limit."""

import math
from collections.abc import Iterator
from fractions import Fraction
from typing import Final

from deploykit.deploy.check.amounts import amount, resource
from deploykit.deploy.check.commands import Server
from deploykit.deploy.check.finding import Finding
from deploykit.deploy.check.manifests import Container, Manifests, Pods, mapping
from deploykit.deploy.check.quantities import spell_quantity
from deploykit.deploy.check.volumes import Mount, mounted_at, mounts
from deploykit.deploy.check.workloads import servers
from deploykit.deploy.facts import ModelFacts
from deploykit.deploy.sizing import BACKEND, SHARED_MEMORY, SUPERVISOR, TRITON, with_reserve

_SHM: Final = "/dev/shm"  # noqa: S108  # where Triton's Python backend keeps its shared memory


def memory_below_model(manifests: Manifests, facts: ModelFacts | None) -> Iterator[Finding]:
    """A memory limit below what the model takes: the kernel ends it."""
    for pods in manifests.pods() if facts else ():
        assert facts is not None
        for container, server in servers(pods, "serve"):
            limit = _limit(pods, container)
            peak, sum_ = _peak(server, facts)
            beside_engine = SUPERVISOR + TRITON + BACKEND
            peak = None if peak is None else peak + beside_engine
            files = sum((_size(mount) or 0 for mount in _in_memory(pods, container)), Fraction(0))
            if limit is None or peak is None or limit >= peak + files:
                continue
            beside = f" + {spell_quantity(files)} of files in memory" if files else ""
            enough = spell_quantity(with_reserve(math.ceil(peak + files)))
            yield pods.resource.find(
                "memory-below-model", f"{container.path}.resources.limits.memory", spell_quantity(limit),
                f"serve, Triton and the engine take {spell_quantity(peak)} at their peak ({sum_}){beside}: the "
                f"kernel ends it{'' if limit < peak else ' when both are full'}",
                f"write {enough} or more, or fewer --max-rows and less --max-context",
                level="error" if limit < peak else "warning",
            )  # fmt: skip


def cache_over_limit(manifests: Manifests, _facts: ModelFacts | None) -> Iterator[Finding]:
    """A cache as large as the whole memory limit, or larger: nothing is left for the model."""
    for pods in manifests.pods():
        for container, server in servers(pods, "serve"):
            limit, cache = _limit(pods, container), server.engine.cache_memory if server.engine else None
            if limit and cache and cache * max(1, len(server.models)) >= limit:
                yield pods.resource.find(
                    "cache-over-limit", f"{container.path}.{server.field('--cache-memory')}", spell_quantity(cache),
                    f"limits.memory is {spell_quantity(limit)}, and weights, activations and the process come on top: "
                    "the kernel ends it",
                    "write less, or raise the limit",
                )  # fmt: skip


def shm_too_small(manifests: Manifests, _facts: ModelFacts | None) -> Iterator[Finding]:
    """Less shared memory than Triton's Python backend asks for: the model doesn't load."""
    for pods in manifests.pods():
        for container, server in servers(pods, "serve"):
            mount = mounted_at(pods, container, _SHM)
            # What a container gets without a mount is as much as an instance asks for.
            size = _size(mount) if mount else Fraction(SHARED_MEMORY)
            needed = SHARED_MEMORY * max(1, len(server.models))
            if size is None or size >= needed:
                continue
            field = f"{mount.volume_field}.emptyDir.sizeLimit" if mount else f"{container.path}.volumeMounts"
            here = "" if mount else " (a container's own, where nothing is mounted)"
            yield pods.resource.find(
                "shm-too-small", field, spell_quantity(size) + here,
                f"each instance of Triton's Python backend takes 64Mi of {_SHM}, {spell_quantity(needed)} together: "
                "it doesn't load, or dies with a bus error",
                f"mount an emptyDir {{medium: Memory, sizeLimit: {spell_quantity(needed)}}} there",
            )  # fmt: skip


def shm_unusable(manifests: Manifests, _facts: ModelFacts | None) -> Iterator[Finding]:
    """Something at /dev/shm that can't be written, or that isn't memory."""
    for pods in manifests.pods():
        for container, _ in servers(pods, "serve"):
            mount = mounted_at(pods, container, _SHM)
            if mount is None or mount.path.rstrip("/") != _SHM:
                continue
            if mount.is_read_only:
                why = "Triton's Python backend writes there: it doesn't load"
                yield pods.resource.find("shm-unusable", f"{mount.field}.readOnly", True, why, "mount it writable")
            elif mount.source == "emptyDir" and mapping(mount.volume["emptyDir"]).get("medium") != "Memory":
                why = "shared memory then lies on the node's disk, which slows every request down"
                field = f"{mount.volume_field}.emptyDir.medium"
                yield pods.resource.find("shm-unusable", field, None, why, "write medium: Memory", level="warning")


def files_over_limit(manifests: Manifests, _facts: ModelFacts | None) -> Iterator[Finding]:
    """Files in memory that may take the whole memory limit: they count in it."""
    for pods in manifests.pods():
        for container in pods.containers:
            limit = _limit(pods, container)
            files = [(mount, size) for mount in _in_memory(pods, container) if (size := _size(mount))]
            if limit and files and sum(size for _, size in files) >= limit:
                mount = files[0][0]
                yield pods.resource.find(
                    "files-over-limit", f"{mount.volume_field}.emptyDir.sizeLimit",
                    mapping(mount.volume["emptyDir"])["sizeLimit"],
                    f"an emptyDir in memory counts in the memory of container {container.name!r}, whose limit is "
                    f"{spell_quantity(limit)}: the kernel ends the container when the files fill it",
                    "raise the memory limit by the size of the files, or write less",
                    level="error" if any(servers(pods)) else "warning",
                )  # fmt: skip


def files_without_limit(manifests: Manifests, _facts: ModelFacts | None) -> Iterator[Finding]:
    """An emptyDir in memory with no size: it may fill up the container's limit, or the node's memory."""
    for pods in manifests.pods():
        for container, _ in servers(pods):
            for mount in _in_memory(pods, container):
                if mapping(mount.volume["emptyDir"]).get("sizeLimit") is None:
                    yield pods.resource.find(
                        "files-without-limit", f"{mount.volume_field}.emptyDir.sizeLimit", None,
                        f"what is written to {mount.path} counts in the container's memory, and nothing bounds it",
                        "write a sizeLimit, and count it in the memory limit", level="warning",
                    )  # fmt: skip


def _limit(pods: Pods, container: Container) -> Fraction | None:
    """Return a container's memory limit, or its pod's; None where there is none."""
    own = resource(container.body, "memory", "limits")
    return (own if own is not None else resource(pods.spec, "memory", "limits")) or None


def _in_memory(pods: Pods, container: Container) -> list[Mount]:
    """Return the mounts of a container whose files lie in memory, each volume once."""
    found = {
        mount.name: mount
        for mount in mounts(pods, container)
        if mapping(mount.volume.get("emptyDir")).get("medium") == "Memory" and mount.body.get("readOnly") is not True
    }
    return list(found.values())


def _size(mount: Mount) -> Fraction | None:
    return amount(mapping(mount.volume.get("emptyDir")).get("sizeLimit"))


def _peak(server: Server, facts: ModelFacts) -> tuple[int | None, str]:
    """Return the bytes that an engine takes as its flags ask for it, and a note on it; None where unknown."""
    parts = {name: int(value) for name, value in facts.memory.items() if name != "peak"}
    if "peak" not in facts.memory or len(server.models) > 1:
        return None, ""
    if "cache" not in parts:
        return int(facts.memory["peak"]), "as measured"
    rows, context, given = facts.rows, facts.context, None
    if server.engine:
        given = server.engine.cache_memory
        rows = server.engine.max_rows if "--max-rows" in server.options else rows
        context = server.engine.max_context or context
    scaled = parts["cache"] * rows * context // max(1, facts.rows * facts.context)
    cache = given if given is not None else scaled
    peak = max(
        int(facts.memory["peak"]) - parts["cache"] + cache, parts.get("process", 0) + parts.get("weights", 0) + cache
    )
    return peak, f"{spell_quantity(cache)} of it the cache, the rest weights and working memory"


RULES: Final = (
    memory_below_model, cache_over_limit, shm_too_small, shm_unusable, files_over_limit, files_without_limit,
)  # fmt: skip
