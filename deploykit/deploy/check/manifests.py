"""The objects that a cluster would be given, and ways to find those that a rule asks about."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Final

from deploykit.deploy.check.finding import Finding, Level
from deploykit.deploy.check.typed import Node, nodes, struct_of

TEMPLATES: Final[Mapping[str, str]] = {
    "Pod": "", "Deployment": "spec.template", "StatefulSet": "spec.template", "DaemonSet": "spec.template",
    "ReplicaSet": "spec.template", "Job": "spec.template", "CronJob": "spec.jobTemplate.spec.template",
    "ReplicationController": "spec.template",
}  # fmt: skip
"""Kinds that make pods, and where their pod template stands."""


@dataclass(frozen=True, kw_only=True)
class Resource:
    """One object, as it would be applied."""

    body: Mapping[str, Any]
    source: str
    """The file or overlay that it was read from."""
    lines: Mapping[str, int] = field(default_factory=dict)
    """Lines of its fields in that file, by path, where they are known; its own first line under an empty path."""
    qualified: bool = False
    """Whether its title needs the namespace: another object has its kind and name."""

    @property
    def api_version(self) -> str:
        """Its apiVersion, empty where there is none."""
        return str(self.body.get("apiVersion") or "")

    @property
    def kind(self) -> str:
        """Its kind, empty where there is none."""
        return str(self.body.get("kind") or "")

    @property
    def name(self) -> str:
        """Its name, empty where there is none."""
        return str(mapping(self.body.get("metadata")).get("name") or "")

    @property
    def namespace(self) -> str:
        """Its namespace, `default` where none is given."""
        return str(mapping(self.body.get("metadata")).get("namespace") or "default")

    @property
    def says_namespace(self) -> bool:
        """Whether its namespace is written down, not left to whoever applies it."""
        return bool(mapping(self.body.get("metadata")).get("namespace"))

    @property
    def spec(self) -> Mapping[str, Any]:
        """Its `spec`, empty where it has none."""
        return mapping(self.body.get("spec"))

    @property
    def title(self) -> str:
        """`Kind/name`, with `namespace/` before it where that is needed to tell it apart."""
        return f"{self.namespace}/{self.kind}/{self.name}" if self.qualified else f"{self.kind}/{self.name}"

    @cached_property
    def nodes(self) -> Sequence[Node]:
        """Its parts whose types are known, outermost first; none where its kind isn't known."""
        struct = struct_of(self.api_version, self.kind)
        return nodes(self.body, struct) if struct else ()

    def find(self, rule: str, field: str, value: object, why: str, remedy: str, *, level: Level = "error") -> Finding:
        """Return a finding about a field of this object."""
        return Finding(
            rule=rule, level=level, object=self.title, field=field, value=shown(value), why=why, remedy=remedy,
            source=self.place(field),
        )  # fmt: skip

    def place(self, field: str) -> str:
        """Return the source of a field, with its line where that is known."""
        path = field
        while path and path not in self.lines:
            path = path[: max(path.rfind("."), path.rfind("["), 0)]
        return f"{self.source}:{self.lines[path]}" if path in self.lines else self.source


@dataclass(frozen=True, kw_only=True)
class Container:
    """A container of a pod, and where it stands."""

    body: Mapping[str, Any]
    path: str
    """Path of the container in its object, such as `spec.template.spec.containers[0]`."""
    kind: str
    """`containers`, `initContainers` or `ephemeralContainers`."""

    @property
    def name(self) -> str:
        """Its name."""
        return str(self.body.get("name") or "")

    @property
    def command_line(self) -> list[str]:
        """`command` and `args` together; empty where the image decides."""
        return [str(word) for key in ("command", "args") for word in sequence(self.body.get(key))]


@dataclass(frozen=True, kw_only=True)
class Pods:
    """The pods that an object makes."""

    resource: Resource
    path: str
    """Path of the pod's `spec`."""
    spec: Mapping[str, Any]
    labels: Mapping[str, str]
    annotations: Mapping[str, str]

    @property
    def containers(self) -> list[Container]:
        """Its containers, init containers after the others."""
        return [
            Container(body=mapping(body), path=f"{self.path}.{kind}[{index}]", kind=kind)
            for kind in ("containers", "initContainers")
            for index, body in enumerate(sequence(self.spec.get(kind)))
        ]


@dataclass(frozen=True, kw_only=True)
class Manifests:
    """Objects that are applied together: those of one overlay, one folder or one file."""

    resources: Sequence[Resource]
    source: str

    def of_kind(self, *kinds: str) -> Iterator[Resource]:
        """Yield the objects of some kinds."""
        return (resource for resource in self.resources if resource.kind in kinds)

    def find(self, kind: str, name: str, namespace: str) -> Resource | None:
        """Return the object of that kind, name and namespace."""
        return next((r for r in self.of_kind(kind) if r.name == name and r.namespace == namespace), None)

    def pods(self) -> Iterator[Pods]:
        """Yield the pods of every object that makes some."""
        for resource in self.of_kind(*TEMPLATES):
            where = TEMPLATES[resource.kind]
            template = mapping(at(resource.body, where)) if where else resource.body
            metadata = mapping(template.get("metadata"))
            yield Pods(
                resource=resource,
                path=f"{where}.spec" if where else "spec",
                spec=mapping(template.get("spec")),
                labels=mapping(metadata.get("labels")),
                annotations=mapping(metadata.get("annotations")),
            )


def at(body: object, path: str) -> Any:
    """Return what stands at a path of keys and `[indices]`, None where nothing does."""
    for part in path.replace("[", ".[").split("."):
        if part.startswith("["):
            index = int(part[1:-1])
            body = body[index] if isinstance(body, list) and index < len(body) else None
        else:
            body = mapping(body).get(part)
    return body


def mapping(value: object) -> Mapping[str, Any]:
    """Return a mapping as it is, and an empty one for anything else: the schema's rule tells of that."""
    return value if isinstance(value, dict) else {}


def sequence(value: object) -> list[Any]:
    """Return a list as it is, and an empty one for anything else."""
    return value if isinstance(value, list) else []


def shown(value: object) -> str:
    """Return a value as YAML shows it on a line, shortened to 80 characters."""
    text = "" if value is None else str(value).lower() if isinstance(value, bool) else str(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
