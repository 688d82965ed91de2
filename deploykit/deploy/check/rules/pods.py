"""Rules on what a pod's parts say of each other: volumes and mounts, containers, variables."""

from collections.abc import Iterator
from typing import Any, Final

import deploykit.deploy.check.words as words
from deploykit.deploy.check.finding import Finding, Level
from deploykit.deploy.check.manifests import Container, Manifests, Pods, Resource, mapping, sequence
from deploykit.deploy.check.nearest import nearest
from deploykit.deploy.facts import ModelFacts

_DEFAULT_CONTAINER: Final = "kubectl.kubernetes.io/default-container"
_SERVICE_VARIABLE: Final = ("_SERVICE_HOST", "_SERVICE_PORT", "_PORT")
"""Variables that the kubelet adds for the Services of a namespace end so, or go on after it."""


def missing_volume(manifests: Manifests, _facts: ModelFacts | None) -> Iterator[Finding]:
    """A mount of a volume that the pod doesn't have: the API server refuses it."""
    for pods in manifests.pods():
        names = _volume_names(pods)
        for container in pods.containers:
            for kind in ("volumeMounts", "volumeDevices"):
                for index, mount in enumerate(map(mapping, sequence(container.body.get(kind)))):
                    name = mount.get("name")
                    if isinstance(name, str) and name not in names:
                        has = ", ".join(sorted(names)) or "none"
                        near = nearest(name, names)
                        yield pods.resource.find(
                            "missing-volume", f"{container.path}.{kind}[{index}].name", name,
                            f"{pods.path}.volumes has no volume of that name (it has {has}), and the API refuses it",
                            f"write {near}" if near else "add the volume",
                        )  # fmt: skip


def unused_volume(manifests: Manifests, _facts: ModelFacts | None) -> Iterator[Finding]:
    """A volume that no container mounts."""
    for pods in manifests.pods():
        used = {
            mapping(mount).get("name")
            for container in (*pods.containers, *_ephemeral(pods))
            for kind in ("volumeMounts", "volumeDevices")
            for mount in sequence(container.body.get(kind))
            if isinstance(mapping(mount).get("name"), str)
        }
        used |= {
            mapping(mapping(mapping(entry).get("valueFrom")).get("fileKeyRef")).get("volumeName")
            for container in pods.containers
            for entry in sequence(container.body.get("env"))
            if mapping(mapping(entry).get("valueFrom")).get("fileKeyRef")
        }
        for index, volume in enumerate(map(mapping, sequence(pods.spec.get("volumes")))):
            name = volume.get("name")
            if isinstance(name, str) and name not in used:
                why, remedy = "no container of the pod mounts it", "mount it, or take it out"
                yield pods.resource.find(
                    "unused-volume", f"{pods.path}.volumes[{index}].name", name, why, remedy, level="warning"
                )


def subpath_without_key(manifests: Manifests, _facts: ModelFacts | None) -> Iterator[Finding]:
    """A `subPath` that a ConfigMap or Secret has no key for: an empty folder appears in place of the file."""
    for pods in manifests.pods():
        volumes = {str(each.get("name")): each for each in map(mapping, sequence(pods.spec.get("volumes")))}
        for container in pods.containers:
            for index, mount in enumerate(map(mapping, sequence(container.body.get("volumeMounts")))):
                path, files = mount.get("subPath"), _files(manifests, pods, volumes.get(str(mount.get("name")), {}))
                if isinstance(path, str) and path and files is not None and path.split("/")[0] not in files:
                    near = nearest(path, files)
                    yield pods.resource.find(
                        "subpath-without-key", f"{container.path}.volumeMounts[{index}].subPath", path,
                        f"the volume has no such file (it has {', '.join(sorted(files)) or 'none'}): an empty folder "
                        "is mounted", f"write {near}" if near else "name one of its keys",
                    )  # fmt: skip


def missing_container(manifests: Manifests, _facts: ModelFacts | None) -> Iterator[Finding]:
    """A container that is named, and isn't in the pod."""
    for pods in manifests.pods():
        names = {container.name for container in pods.containers}
        for field, name, what, level in _named_containers(manifests, pods):
            if name not in names:
                near = nearest(name, names)
                resource, path = field
                has = ", ".join(sorted(names))
                why = f"{pods.resource.title} has no container of that name (it has {has}), so {what}"
                yield resource.find(
                    "missing-container", path, name, why, f"write {near}" if near else "name one of them", level=level
                )


def container_name_twice(manifests: Manifests, _facts: ModelFacts | None) -> Iterator[Finding]:
    """Two containers of a pod with one name: the API server refuses them."""
    for pods in manifests.pods():
        seen: dict[str, str] = {}
        for container in pods.containers:
            if container.name and container.name in seen:
                why = f"{seen[container.name]} has the same name, and the API refuses both at once"
                yield pods.resource.find(
                    "container-name-twice", f"{container.path}.name", container.name, why, "change one"
                )
            seen.setdefault(container.name, container.path)


def undefined_variable(manifests: Manifests, _facts: ModelFacts | None) -> Iterator[Finding]:
    """A `$(NAME)` of a variable that the container doesn't have, or not yet: it stays as it is."""
    for pods in manifests.pods():
        for container in pods.containers:
            if container.body.get("envFrom"):
                continue
            known = set[str]()
            for index, entry in enumerate(map(mapping, sequence(container.body.get("env")))):
                yield from _undefined(pods, container, f"env[{index}].value", entry.get("value"), known)
                known.add(str(entry.get("name")))
            if not _has_shell(container):
                for key in ("command", "args"):
                    for index, word in enumerate(sequence(container.body.get(key))):
                        yield from _undefined(pods, container, f"{key}[{index}]", word, known)


def variable_twice(manifests: Manifests, _facts: ModelFacts | None) -> Iterator[Finding]:
    """A variable that a container sets twice: the last one counts."""
    for pods in manifests.pods():
        for container in pods.containers:
            seen: dict[str, int] = {}
            for index, entry in enumerate(map(mapping, sequence(container.body.get("env")))):
                name = entry.get("name")
                if isinstance(name, str) and name in seen:
                    field, why = (
                        f"{container.path}.env[{index}].name",
                        f"env[{seen[name]}] sets it as well, and is lost",
                    )
                    yield pods.resource.find(
                        "variable-twice", field, name, why, "take one of them out", level="warning"
                    )
                seen.setdefault(str(name), index)


RULES: Final = (
    missing_volume, unused_volume, subpath_without_key, missing_container, container_name_twice, undefined_variable,
    variable_twice,
)  # fmt: skip


def _volume_names(pods: Pods) -> set[str]:
    """Return the names of a pod's volumes, a StatefulSet's claims among them."""
    volumes = {str(mapping(each).get("name")) for each in sequence(pods.spec.get("volumes"))}
    claims = sequence(pods.resource.spec.get("volumeClaimTemplates"))
    return volumes | {str(mapping(mapping(each).get("metadata")).get("name")) for each in claims}


def _ephemeral(pods: Pods) -> list[Container]:
    kind = "ephemeralContainers"
    bodies = enumerate(map(mapping, sequence(pods.spec.get(kind))))
    return [Container(body=body, path=f"{pods.path}.{kind}[{index}]", kind=kind) for index, body in bodies]


def _files(manifests: Manifests, pods: Pods, volume: Any) -> set[str] | None:
    """Return the files that a volume of a ConfigMap or a Secret has, None where they can't be known."""
    for kind, key, name in (("ConfigMap", "configMap", "name"), ("Secret", "secret", "secretName")):
        source = mapping(volume.get(key))
        if not source:
            continue
        if items := sequence(source.get("items")):
            return {str(mapping(item).get("path")).split("/")[0] for item in items}
        target = manifests.find(kind, str(source.get(name)), pods.resource.namespace)
        if target is not None:
            return {key for data in ("data", "binaryData", "stringData") for key in mapping(target.body.get(data))}
    return None


def _named_containers(manifests: Manifests, pods: Pods) -> Iterator[tuple[tuple[Resource, str], str, str, Level]]:
    """Yield where containers of a pod are named, the name, and what comes of a wrong one."""
    resource = pods.resource
    annotation = pods.annotations.get(_DEFAULT_CONTAINER)
    if isinstance(annotation, str):
        path = f"{pods.path.removesuffix('spec')}metadata.annotations.{_DEFAULT_CONTAINER}"
        yield (resource, path), annotation, "kubectl logs and exec take the first container", "warning"
    for node in resource.nodes:
        for struct, name, what in (
            ("ResourceFieldSelector", "containerName", "the API refuses it"),
            ("PodFailurePolicyOnExitCodesRequirement", "containerName", "the API refuses it"),
            ("EphemeralContainer", "targetContainerName", "it doesn't start"),
        ):
            if node.struct == struct and isinstance(node.body.get(name), str):
                yield (resource, node.below(name)), node.body[name], what, "error"
    for scaler in manifests.of_kind("HorizontalPodAutoscaler", "ScaledObject"):
        target = mapping(scaler.spec.get("scaleTargetRef"))
        if target.get("name") != resource.name or scaler.namespace != resource.namespace:
            continue
        if target.get("kind", "Deployment") != resource.kind:
            continue
        for node in scaler.nodes:
            for struct, name in (
                ("ContainerResourceMetricSource", "container"),
                ("ScaleTarget", "envSourceContainerName"),
            ):
                if node.struct == struct and isinstance(node.body.get(name), str):
                    yield (scaler, node.below(name)), node.body[name], "nothing is measured and nothing scales", "error"


def _undefined(pods: Pods, container: Container, field: str, text: object, known: set[str]) -> Iterator[Finding]:
    for name in words.references(text) if isinstance(text, str) else ():
        if name not in known and not any(part in name for part in _SERVICE_VARIABLE):
            near = nearest(name, known)
            later = field.startswith("env") and any(
                mapping(each).get("name") == name for each in sequence(container.body.get("env"))
            )
            cause = "it is set only after this" if later else "the container has no variable of that name"
            why = f"{cause}, so $({name}) stays as it is"
            remedy = "set it before" if later else f"write $({near})" if near else f"add {name} to env"
            yield pods.resource.find(
                "undefined-variable", f"{container.path}.{field}", text, why, remedy, level="warning"
            )


def _has_shell(container: Container) -> bool:
    """Return whether a shell reads the words, to which `$(…)` means something else."""
    line = container.command_line
    return any(word.rpartition("/")[2] in ("sh", "bash", "dash", "ash", "zsh", "busybox") for word in line[:3])
