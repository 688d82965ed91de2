"""Rules on volumes: what holds enough, who may mount it at once, and what a path turns out to be."""

import re
from collections.abc import Iterator, Mapping
from fractions import Fraction
from typing import Any, Final

from deploykit.deploy.check.amounts import amount, resource
from deploykit.deploy.check.commands import parse
from deploykit.deploy.check.finding import Finding
from deploykit.deploy.check.manifests import Manifests, Pods, Resource, mapping, sequence
from deploykit.deploy.check.quantities import spell_quantity
from deploykit.deploy.check.volumes import mounted_at, mounts
from deploykit.deploy.check.workloads import most, servers
from deploykit.deploy.facts import ModelFacts

_TMP: Final = "/tmp"  # noqa: S108  # where deploykit serve keeps what it works with


def mount_path(manifests: Manifests, _facts: ModelFacts | None) -> Iterator[Finding]:
    """A mount's path that can't be one: it is empty, has a colon, or its subPath climbs out of the volume."""
    for pods in manifests.pods():
        for container in pods.containers:
            for mount in mounts(pods, container):
                inner = str(mount.body.get("subPath") or "")
                if ":" in mount.path or not mount.path:
                    why = "the API server refuses a path that is empty or has a colon"
                    yield pods.resource.find("mount-path", f"{mount.field}.mountPath", mount.path, why, "write a path")
                if inner.startswith("/") or ".." in inner.split("/"):
                    why = "it must be a path inside of the volume; the API server refuses it"
                    yield pods.resource.find("mount-path", f"{mount.field}.subPath", inner, why, "write a path inside")


def claim(manifests: Manifests, _facts: ModelFacts | None) -> Iterator[Finding]:
    """A PersistentVolumeClaim without a size, or with access modes that exclude each other: refused."""
    for resource_, path, spec in _claims(manifests):
        modes = sequence(spec.get("accessModes"))
        size = mapping(mapping(spec.get("resources")).get("requests")).get("storage")
        if "ReadWriteOncePod" in modes and len(modes) > 1:
            why = "ReadWriteOncePod stands alone; the API server refuses it"
            yield resource_.find("claim", f"{path}.accessModes", ", ".join(map(str, modes)), why, "leave one of them")
        if size is None or amount(size) == 0:
            why = "the API server wants more than nothing"
            yield resource_.find("claim", f"{path}.resources.requests.storage", size, why, "write a size")


def claim_too_small(manifests: Manifests, facts: ModelFacts | None) -> Iterator[Finding]:
    """A claim smaller than the model that a server reads from it."""
    for pods in manifests.pods() if facts else ():
        assert facts is not None
        for container, server in servers(pods, "serve"):
            mount = mounted_at(pods, container, server.models[0]) if server.models else None
            name = mapping(mount.volume.get("persistentVolumeClaim")).get("claimName") if mount else None
            found = manifests.find("PersistentVolumeClaim", str(name), pods.resource.namespace) if name else None
            size = (
                amount(mapping(mapping(found.spec.get("resources")).get("requests")).get("storage")) if found else None
            )
            if found is not None and size is not None and size < facts.size:
                yield found.find(
                    "claim-too-small", "spec.resources.requests.storage", spell_quantity(size),
                    f"the model of {pods.resource.title} has {spell_quantity(facts.size)} of "
                    "files", "write more than that",
                )  # fmt: skip


def claim_shared(manifests: Manifests, _facts: ModelFacts | None) -> Iterator[Finding]:
    """Several pods, or the old and the new one of a rollout, on a claim that one node or one pod may mount."""
    for pods, field, found in _claimed(manifests):
        count, modes = most(manifests, pods.resource), sequence(found.spec.get("accessModes"))
        if (
            not modes
            or not set(modes) <= {"ReadWriteOnce", "ReadWriteOncePod"}
            or pods.resource.kind not in ("Deployment", "ReplicaSet")
        ):
            continue
        alone = "ReadWriteOncePod" in modes
        overlap = pods.resource.kind == "Deployment" and _overlaps(pods.resource)
        if (count or 0) <= 1 and not overlap:
            continue
        who = f"{count} pods" if (count or 0) > 1 else "the old and the new pod of a rollout"
        yield pods.resource.find(
            "claim-shared", field, found.name,
            f"{found.title} is {modes[0]}, for one {'pod' if alone else 'node'}: {who} want it at once, and "
            f"{'all but one wait for ever' if alone else 'those on other nodes never start'}",
            "use a claim of ReadOnlyMany or ReadWriteMany, or one pod and strategy Recreate",
            level="error" if alone and (count or 0) > 1 else "warning",
        )  # fmt: skip


def disk_over_limit(manifests: Manifests, _facts: ModelFacts | None) -> Iterator[Finding]:
    """Volumes on the node's disk that may grow beyond the pod's ephemeral storage: it is evicted before."""
    for pods in manifests.pods():
        limits = [
            resource(each.body, "ephemeral-storage", "limits") for each in pods.containers if each.kind == "containers"
        ]
        if not limits or None in limits:
            continue
        total = sum((limit for limit in limits if limit is not None), Fraction(0))
        for index, volume in enumerate(map(mapping, sequence(pods.spec.get("volumes")))):
            empty = volume.get("emptyDir")
            size = amount(mapping(empty).get("sizeLimit"))
            if size is not None and mapping(empty).get("medium") != "Memory" and size > total:
                yield pods.resource.find(
                    "disk-over-limit", f"{pods.path}.volumes[{index}].emptyDir.sizeLimit", mapping(empty)["sizeLimit"],
                    f"the containers' limits.ephemeral-storage are {spell_quantity(total)} together, and the volume "
                    "counts in it: the pod is evicted before the volume is full",
                    "raise those limits, or write less", level="warning",
                )  # fmt: skip


def download_too_large(manifests: Manifests, facts: ModelFacts | None) -> Iterator[Finding]:
    """A volume, or a limit of ephemeral storage, below the size of the model that is downloaded to it."""
    for pods in manifests.pods() if facts else ():
        assert facts is not None
        for container in pods.containers:
            server = parse(container)
            mount = mounted_at(pods, container, server.output) if server and server.output else None
            if mount is None or mount.source != "emptyDir":
                continue
            empty = mapping(mount.volume["emptyDir"])
            size = amount(empty.get("sizeLimit"))
            limits = [(each, resource(each.body, "ephemeral-storage", "limits")) for each in pods.containers]
            if size is not None and size < facts.size:
                yield pods.resource.find(
                    "download-too-large", f"{mount.volume_field}.emptyDir.sizeLimit", empty["sizeLimit"],
                    f"the model has {spell_quantity(facts.size)} of files: the pod is evicted while it downloads them",
                    f"write {spell_quantity(facts.size * 5 // 4)} or more",
                )  # fmt: skip
            for each, limit in limits if empty.get("medium") != "Memory" else ():
                if limit is not None and limit < facts.size and each.path == container.path:
                    yield pods.resource.find(
                        "download-too-large", f"{each.path}.resources.limits.ephemeral-storage", spell_quantity(limit),
                        f"the model has {spell_quantity(facts.size)} of files, which count in "
                        "it", "raise it above that",
                    )  # fmt: skip


def tmp_read_only(manifests: Manifests, _facts: ModelFacts | None) -> Iterator[Finding]:
    """A read-only /tmp for `deploykit serve`, which works there: it doesn't start."""
    for pods in manifests.pods():
        for container, _ in servers(pods, "serve"):
            folder = temporary(container.body)
            mount = mounted_at(pods, container, folder)
            fixed = mapping(container.body.get("securityContext")).get("readOnlyRootFilesystem") is True
            if mount is not None and mount.is_read_only:
                why = f"deploykit serve keeps what it works with in {folder}, and can't write there: it doesn't start"
                yield pods.resource.find("tmp-read-only", mount.field, mount.path, why, "mount an emptyDir there")
            elif mount is None and fixed:
                why = (
                    f"deploykit serve keeps what it works with in {folder}, and nothing writable is mounted there: it "
                    "doesn't start"
                )
                field = f"{container.path}.securityContext.readOnlyRootFilesystem"
                yield pods.resource.find("tmp-read-only", field, True, why, f"mount an emptyDir at {folder}")


def temporary(container: Mapping[str, Any]) -> str:
    """Return where a process of this container keeps temporary files."""
    values = {str(entry.get("name")): entry.get("value") for entry in map(mapping, sequence(container.get("env")))}
    given = values.get("TMPDIR")
    return given if isinstance(given, str) and re.fullmatch(r"/[^$]+", given) else _TMP


def _claims(manifests: Manifests) -> Iterator[tuple[Resource, str, Mapping[str, Any]]]:
    for each in manifests.of_kind("PersistentVolumeClaim"):
        yield each, "spec", each.spec
    for each in manifests.of_kind("StatefulSet"):
        for index, template in enumerate(map(mapping, sequence(each.spec.get("volumeClaimTemplates")))):
            yield each, f"spec.volumeClaimTemplates[{index}].spec", mapping(template.get("spec"))


def _claimed(manifests: Manifests) -> Iterator[tuple[Pods, str, Resource]]:
    for pods in manifests.pods():
        for index, volume in enumerate(map(mapping, sequence(pods.spec.get("volumes")))):
            name = mapping(volume.get("persistentVolumeClaim")).get("claimName")
            found = manifests.find("PersistentVolumeClaim", str(name), pods.resource.namespace) if name else None
            if found is not None:
                yield pods, f"{pods.path}.volumes[{index}].persistentVolumeClaim.claimName", found


def _overlaps(deployment: Resource) -> bool:
    """Return whether a rollout starts a new pod before an old one has ended."""
    strategy = mapping(deployment.spec.get("strategy"))
    return strategy.get("type", "RollingUpdate") == "RollingUpdate" and mapping(strategy.get("rollingUpdate")).get(
        "maxSurge", "25%"
    ) not in (0, "0%")


RULES: Final = (
    mount_path, claim, claim_too_small, claim_shared, disk_over_limit,
    download_too_large, tmp_read_only,
)  # fmt: skip
