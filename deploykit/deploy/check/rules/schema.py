"""Rules on single fields: whether the API knows them, and takes what stands there."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final

import deploykit.deploy.check.api as api
from deploykit.deploy.check.amounts import whole
from deploykit.deploy.check.custom_kinds import CUSTOM
from deploykit.deploy.check.finding import Finding, Level
from deploykit.deploy.check.manifests import Manifests, Resource
from deploykit.deploy.check.nearest import nearest
from deploykit.deploy.check.quantities import QuantityError, parse_quantity
from deploykit.deploy.check.typed import Field, Node, kinds
from deploykit.deploy.facts import ModelFacts

_IS: Final[Mapping[str, Callable[[Any], bool]]] = {
    "str": lambda value: isinstance(value, str),
    "int": lambda value: isinstance(value, int) and not isinstance(value, bool),
    "float": lambda value: isinstance(value, int | float) and not isinstance(value, bool),
    "bool": lambda value: isinstance(value, bool),
    "time": lambda value: isinstance(value, str),
    "quantity": lambda value: isinstance(value, str | int | float) and not isinstance(value, bool),
    "int-or-str": lambda value: isinstance(value, str | int) and not isinstance(value, bool),
    "texts": lambda value: isinstance(value, dict),
    "quantities": lambda value: isinstance(value, dict),
    "any": lambda _value: True,
}
_CALLED: Final = {
    "str": "a text", "int": "a whole number", "float": "a number", "bool": "true or false", "time": "a time",
    "quantity": "a quantity", "int-or-str": "a number or a text", "texts": "a mapping of texts",
    "quantities": "a mapping of quantities",
}  # fmt: skip


def unknown_kind(manifests: Manifests, _facts: ModelFacts | None) -> Iterator[Finding]:
    """A kind that its apiVersion doesn't have, or an apiVersion that nobody serves."""
    for resource in manifests.resources:
        if resource.nodes or _is_removed(resource):
            continue
        served = [*kinds(), *CUSTOM]
        right = _any({version for version, kind in served if kind == resource.kind})
        group, groups = _group(resource.api_version), {_group(version) for version, _ in served}
        if not resource.kind or not resource.api_version:
            field = "apiVersion" if resource.kind else "kind"
            yield resource.find(
                "unknown-kind", field, None, "the API refuses an object without it", f"add {right or field}"
            )
        elif group in groups:
            yield from _not_in_group(resource, right)
        elif right and (near := nearest(group, _groups_of(resource.kind), cutoff=0.8)):
            why = f"Kubernetes has no group {group!r}, but {near!r}"
            yield resource.find("unknown-kind", "apiVersion", resource.api_version, why, f"write {right}")
        elif "." not in group and (right or nearest(group, groups)):
            # Others are a tool's own settings, which lie beside the manifests and are never applied.
            why = "Kubernetes has no such group, and those of custom resources have a dot in their names"
            remedy = f"write {right}" if right else "look it up: kubectl api-resources"
            yield resource.find("unknown-kind", "apiVersion", resource.api_version, why, remedy)


def _not_in_group(resource: Resource, right: str) -> Iterator[Finding]:
    """Tell of a kind that isn't in the group, or not in the version, that its apiVersion names."""
    there = {kind for version, kind in (*kinds(), *CUSTOM) if version == resource.api_version}
    near = nearest(resource.kind, there)
    custom = any(_group(version) == _group(resource.api_version) for version, _ in CUSTOM)
    also = resource.kind in api.OTHER_KINDS.get(_group(resource.api_version), ())
    if custom and not right and (also or not near):
        # The linter doesn't know all kinds of groups that aren't Kubernetes' own.
        return
    field, value = ("apiVersion", resource.api_version) if right else ("kind", resource.kind)
    remedy = f"write {right or near}" if right or near else "look it up: kubectl api-resources"
    why = f"{resource.api_version} has no kind {resource.kind}"
    level: Level = "warning" if custom and right else "error"
    yield resource.find("unknown-kind", field, value, why, remedy, level=level)


def removed_api(manifests: Manifests, _facts: ModelFacts | None) -> Iterator[Finding]:
    """An apiVersion that releases from 1.28 on no longer serve."""
    for resource in manifests.resources:
        if _is_removed(resource):
            release, successor = api.REMOVED[resource.api_version]
            now = {version for version, kind in kinds() if kind == resource.kind}
            why = f"Kubernetes {release} removed it for {resource.kind}, and the API refuses the object"
            yield resource.find(
                "removed-api", "apiVersion", resource.api_version, why, f"write {_any(now) or successor}"
            )


def unknown_field(manifests: Manifests, _facts: ModelFacts | None) -> Iterator[Finding]:
    """A field that the API doesn't know: it is dropped, or the object refused."""
    for resource, node in _nodes(manifests):
        for name, value in node.body.items():
            if name in node.fields:
                continue
            near = nearest(name, node.fields, cutoff=0.85 if node.open else 0.7)
            if node.open and (near is None or near in node.body):
                continue
            elsewhere = sorted(_owners(resource, name)) if near is None else []
            remedy = f"write {near}" if near else f"it belongs in {elsewhere[0]}" if elsewhere else "take it out"
            why = f"{node.struct} has no such field: strict clients refuse the object, others drop the field"
            yield resource.find(
                "unknown-field", node.below(name), value if not isinstance(value, dict | list) else None, why, remedy
            )


def missing_field(manifests: Manifests, _facts: ModelFacts | None) -> Iterator[Finding]:
    """A field that the API wants and that isn't there."""
    for resource, node in _nodes(manifests):
        for name in _wanted(node):
            if node.body.get(name) is None:
                why = f"the API refuses {'an object' if not node.path else node.struct} without it"
                yield resource.find("missing-field", node.below(name), None, why, "add it")
    for resource in manifests.resources:
        metadata = resource.body.get("metadata")
        if metadata is None and not resource.nodes and resource.api_version and resource.kind:
            # A kind that isn't known and an object without metadata: a program's settings, which nobody applies.
            continue
        if not resource.name and not (isinstance(metadata, dict) and metadata.get("generateName")):
            yield resource.find(
                "missing-field", "metadata.name", None, "the API refuses an object without a name", "add it"
            )


def wrong_type(manifests: Manifests, _facts: ModelFacts | None) -> Iterator[Finding]:
    """A value of a type that the field can't have, such as a number where a text must be."""
    for resource, node in _nodes(manifests):
        for name, field in node.fields.items():
            if node.body.get(name) is not None:
                for path, value, called in _misfits(node.below(name), node.body[name], field):
                    why = f"the API wants {called} and refuses {_type_name(value)}"
                    yield resource.find("wrong-type", path, value, why, _cast(value, called))


def number_out_of_range(manifests: Manifests, _facts: ModelFacts | None) -> Iterator[Finding]:
    """A whole number that the field has no room for: the API refuses the object."""
    for resource, node in _nodes(manifests):
        for name, field in node.fields.items():
            if field.takes not in ("int", "int-or-str"):
                continue
            most = 2**63 - 1 if name in api.WIDE else 2**31 - 1
            value = node.body.get(name)
            for each in value if isinstance(value, list) else [value]:
                number = whole(each)
                if number is not None and not -most - 1 <= number <= most:
                    why = f"the field has {64 if name in api.WIDE else 32} bits, {most} at most: the API refuses it"
                    yield resource.find("number-out-of-range", node.below(name), each, why, "write less")


def bad_quantity(manifests: Manifests, _facts: ModelFacts | None) -> Iterator[Finding]:
    """An amount that isn't one: an unknown suffix, a space, a word."""
    for resource, node in _nodes(manifests):
        for name, field in node.fields.items():
            value = node.body.get(name)
            given = {node.below(name): value} if field.takes == "quantity" else {}
            if field.takes == "quantities" and isinstance(value, dict):
                given = {f"{node.below(name)}.{key}": amount for key, amount in value.items()}
            for path, amount in given.items():
                if amount is not None and not isinstance(amount, dict | list | bool):
                    try:
                        parse_quantity(amount)
                    except QuantityError as error:
                        yield resource.find(
                            "bad-quantity", path, amount, "the API refuses it as a quantity", error.remedy
                        )


def bad_choice(manifests: Manifests, _facts: ModelFacts | None) -> Iterator[Finding]:
    """A value that isn't one of those that the field may have."""
    for resource, node in _nodes(manifests):
        for name in node.body:
            allowed = api.CHOICES.get((node.struct, name))
            value = node.body[name]
            many = value if isinstance(value, list) else [value]
            for index, each in enumerate(many if allowed else ()):
                if allowed and isinstance(each, str) and each not in allowed:
                    path = f"{node.below(name)}[{index}]" if isinstance(value, list) else node.below(name)
                    near, choice = nearest(each, allowed, cutoff=0.6), ", ".join(filter(None, allowed))
                    why = f"the API refuses it; it may be {choice}"
                    yield resource.find("bad-choice", path, each, why, f"write {near or 'one of them'}")


def not_one_of(manifests: Manifests, _facts: ModelFacts | None) -> Iterator[Finding]:
    """Fields that exclude each other, or none of several of which one must be there."""
    for resource, node in _nodes(manifests):
        for names, least in (
            (api.EXACTLY_ONE.get(node.struct, ()), 1),
            *((names, 0) for names in api.AT_MOST_ONE.get(node.struct, ())),
        ):
            there = [name for name in names if node.body.get(name) is not None]
            if len(there) > 1:
                why = f"{' and '.join(there)} exclude each other, and the API refuses both at once"
                yield resource.find("not-one-of", node.path, None, why, f"take {' or '.join(there)} out")
            elif names and not there and least and not (node.struct == "Volume" and len(node.body) > 1):
                few = ", ".join(names if len(names) < 8 else ("emptyDir", "configMap", "secret", "and so on"))
                why = f"{node.struct} wants one of {few}, and has none: the API refuses it"
                yield resource.find("not-one-of", node.path, None, why, "add the one that is meant")


def item_twice(manifests: Manifests, _facts: ModelFacts | None) -> Iterator[Finding]:
    """Two items of a list that must differ: containers of one name, mounts at one path, ports of one number."""
    for resource, node in _nodes(manifests):
        for name in node.body:
            keys = api.KEYS.get((node.struct, name))
            if keys is None or not isinstance(node.body[name], list):
                continue
            seen: dict[object, int] = {}
            for index, item in enumerate(node.body[name]):
                value = _identity(item, keys)
                if value in seen and value is not None:
                    path = f"{node.below(name)}[{index}]"
                    field, said = (f"{path}.{keys[0]}", item.get(keys[0])) if keys else (path, item)
                    why = f"{name}[{seen[value]}] has the same, and the API refuses both at once"
                    yield resource.find("item-twice", field, said, why, "change one of them")
                seen.setdefault(value, index)


RULES: Final = (
    unknown_kind, removed_api, unknown_field, missing_field, wrong_type, number_out_of_range, bad_quantity, bad_choice,
    not_one_of, item_twice,
)  # fmt: skip


def _nodes(manifests: Manifests) -> Iterator[tuple[Resource, Node]]:
    return ((resource, node) for resource in manifests.resources for node in resource.nodes)


def _is_removed(resource: Resource) -> bool:
    return resource.api_version in api.REMOVED and (resource.api_version, resource.kind) not in kinds()


def _group(api_version: str) -> str:
    return api_version.rpartition("/")[0]


def _groups_of(kind: str) -> set[str]:
    """Return the groups that have a kind, Kubernetes' first one, which has no name, left out."""
    return {_group(version) for version, each in (*kinds(), *CUSTOM) if each == kind} - {""}


def _any(versions: set[str]) -> str:
    """Return the version that is most likely meant: a final one."""
    return next(
        (f"apiVersion: {version}" for version in sorted(versions, key=lambda v: ("beta" in v or "alpha" in v, v))), ""
    )


def _owners(resource: Resource, name: str) -> set[str]:
    """Return parts of an object whose types have a field of a name: it may have been indented wrongly."""
    return {f"{each.path or 'the object itself'}" for each in resource.nodes if name in each.fields and not each.open}


_ALSO_WANTED: Final[Mapping[str, tuple[str, ...]]] = {
    "Deployment": ("spec",), "StatefulSet": ("spec",), "DaemonSet": ("spec",), "Job": ("spec",), "CronJob": ("spec",),
    "Pod": ("spec",), "Service": ("spec",), "HorizontalPodAutoscaler": ("spec",), "PersistentVolumeClaim": ("spec",),
    "NetworkPolicy": ("spec",), "PodDisruptionBudget": ("spec",), "PodTemplateSpec": ("spec",),
    "PersistentVolumeClaimSpec": ("accessModes", "resources"), "NetworkPolicySpec": ("podSelector",),
    "PodDisruptionBudgetSpec": ("selector",), "IngressServiceBackend": ("port",), "Container": ("image",),
}  # fmt: skip
"""What the API wants although its types don't say so."""


def _wanted(node: Node) -> list[str]:
    also = () if not node.path and node.struct == "Container" else _ALSO_WANTED.get(node.struct, ())
    return [
        name
        for name in dict.fromkeys((*(n for n, f in node.fields.items() if f.required), *also))
        if name in node.fields and (node.struct, name) not in api.DEFAULTED
    ]


def _misfits(path: str, value: Any, field: Field) -> Iterator[tuple[str, Any, str]]:
    """Yield what doesn't fit the type of a field: its path, the value, and what is wanted."""
    if field.many:
        if not isinstance(value, list):
            yield path, value, "a list"
            return
        for index, item in enumerate(value):
            yield from _misfits_one(f"{path}[{index}]", item, field)
    else:
        yield from _misfits_one(path, value, field)


def _misfits_one(path: str, value: Any, field: Field) -> Iterator[tuple[str, Any, str]]:
    if field.takes is None:
        if not isinstance(value, dict):
            yield path, value, "a mapping"
    elif not _IS[field.takes](value) and not (field.takes == "int" and isinstance(value, float) and value.is_integer()):
        yield path, value, _CALLED[field.takes]
    elif field.takes == "texts":
        for key, each in value.items():
            if not isinstance(each, str) and each is not None:
                yield f"{path}.{key}", each, "a text"


def _type_name(value: object) -> str:
    names = {
        bool: "a truth value",
        int: "a number",
        float: "a number",
        str: "a text",
        list: "a list",
        dict: "a mapping",
    }
    return names.get(type(value), "nothing")


def _cast(value: object, called: str) -> str:
    """Return how a value is written as what it should be."""
    if called == "a text" and isinstance(value, bool | int | float):
        return f'put it in quotes: "{str(value).lower() if isinstance(value, bool) else value}"'
    if called == "a whole number" and isinstance(value, str) and value.isdigit():
        return f"take the quotes away: {value}"
    if called == "true or false" and isinstance(value, str) and value.lower() in ("true", "false"):
        return f"take the quotes away: {value.lower()}"
    return f"write {called}"


def _identity(item: Any, keys: tuple[str, ...]) -> object:
    """Return what an item of a list is told apart by, None where it lacks it."""
    if not keys:
        return item if isinstance(item, str) else None
    if not isinstance(item, dict) or item.get(keys[0]) is None:
        return None
    return tuple(str(item.get(key, api.DEFAULTS.get(key))) for key in keys)
