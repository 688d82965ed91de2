"""Rules on names, labels and keys: their signs, their length, and that there is one of each."""

import re
from collections.abc import Iterator, Mapping
from typing import Any, Final

from deploykit.deploy.check.finding import Finding
from deploykit.deploy.check.manifests import Manifests, Resource, mapping
from deploykit.deploy.check.nearest import nearest
from deploykit.deploy.facts import ModelFacts

_LABEL: Final = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?")
_SERVICE: Final = re.compile(r"[a-z]([-a-z0-9]*[a-z0-9])?")
_SUBDOMAIN: Final = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*")
_VALUE: Final = re.compile(r"([A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?)?")
_KEY: Final = re.compile(r"[-._a-zA-Z0-9]+")
"""k8s.io/apimachinery/pkg/util/validation."""
_LONGEST: Final[Mapping[str, int]] = {"Namespace": 63, "Service": 63, "CronJob": 52, "StatefulSet": 63, "Job": 63}
"""Of names that become labels or host names; a CronJob adds eleven signs to its Jobs' names."""
_LABELS: Final = ("labels", "matchLabels", "selector", "nodeSelector")


def object_name(manifests: Manifests, _facts: ModelFacts | None) -> Iterator[Finding]:
    """An object's name that is too long, or has signs that names of its kind may not have."""
    for resource in manifests.resources:
        # Names of roles may have nearly any sign.
        if not resource.name or resource.api_version.startswith("rbac.authorization.k8s.io/"):
            continue
        name, longest = resource.name, _LONGEST.get(resource.kind, 253)
        pattern = _SERVICE if resource.kind == "Service" else _LABEL if resource.kind in _LONGEST else _SUBDOMAIN
        if resource.kind == "StatefulSet":
            pattern = _SUBDOMAIN
        if len(name) > longest:
            why = f"it has {len(name)} signs, and the API takes {longest} at most"
            yield resource.find("object-name", "metadata.name", name, why, "write a shorter one")
        elif not pattern.fullmatch(name):
            yield resource.find(
                "object-name", "metadata.name", name, f"the API refuses it: {_says(pattern)}", f"write {_mended(name)}"
            )


def part_name(manifests: Manifests, _facts: ModelFacts | None) -> Iterator[Finding]:
    """A container's or a volume's name that is too long, or has signs that it may not have."""
    for resource in manifests.resources:
        for node in resource.nodes:
            name = node.body.get("name")
            if node.struct not in ("Container", "Volume", "EphemeralContainer") or not isinstance(name, str):
                continue
            if not _LABEL.fullmatch(name) or len(name) > 63:
                why = f"the API refuses it: {_says(_LABEL)}, 63 signs at most"
                yield resource.find("part-name", node.below("name"), name, why, f"write {_mended(name)}")


def label_syntax(manifests: Manifests, _facts: ModelFacts | None) -> Iterator[Finding]:
    """A label or an annotation that the API refuses, for its signs or its length."""
    for resource, field, key, value, is_label in _labels(manifests):
        prefix, slash, name = key.rpartition("/")
        if not name or len(name) > 63 or not _VALUE.fullmatch(name) or (slash and not _is_prefix(prefix)):
            why = (
                "the API refuses the key: PREFIX/NAME or NAME, with a NAME of 1 to 63 letters, digits, '-', '_' and '.'"
            )
            yield resource.find("label-syntax", f"{field}.{key}", key, why, "write another key")
        elif is_label and isinstance(value, str) and (len(value) > 63 or not _VALUE.fullmatch(value)):
            why = (
                f"the API refuses a label of {len(value)} signs: it takes 63 letters, digits, '-', '_' and '.' at most"
            )
            remedy = "make it an annotation, or write a shorter one without other signs"
            yield resource.find("label-syntax", f"{field}.{key}", value, why, remedy)


def data_key(manifests: Manifests, _facts: ModelFacts | None) -> Iterator[Finding]:
    """A key of a ConfigMap or a Secret that the API refuses."""
    for resource in manifests.of_kind("ConfigMap", "Secret"):
        for name in ("data", "binaryData", "stringData"):
            for key in mapping(resource.body.get(name)):
                if not _KEY.fullmatch(str(key)) or len(key) > 253:
                    why = "the API refuses the key: it may have letters, digits, '-', '_' and '.'"
                    yield resource.find("data-key", f"{name}.{key}", key, why, "write another key")


def object_twice(manifests: Manifests, _facts: ModelFacts | None) -> Iterator[Finding]:
    """Two objects of one kind and name: the one that is applied later replaces the other."""
    seen: dict[tuple[str, ...], Resource] = {}
    for resource in manifests.resources:
        if not resource.name:
            continue
        key = (resource.api_version.rpartition("/")[0], resource.kind, resource.namespace, resource.name)
        if key in seen:
            why = f"{seen[key].place('metadata.name')} has one of the same kind and name, and one replaces the other"
            yield resource.find(
                "object-twice", "metadata.name", resource.name, why, "name one of them differently, or delete it"
            )
        seen.setdefault(key, resource)


def namespace_missing(manifests: Manifests, _facts: ModelFacts | None) -> Iterator[Finding]:
    """A namespace that is close to the name of one among the manifests, and isn't it."""
    names = {resource.name for resource in manifests.of_kind("Namespace")}
    for resource in manifests.resources:
        if names and resource.says_namespace and resource.namespace not in names:
            near = nearest(resource.namespace, names)
            if near is not None:
                why = f"the Namespace among the manifests is {near}; the API refuses objects of one that isn't there"
                yield resource.find("namespace-missing", "metadata.namespace", resource.namespace, why, f"write {near}")


RULES: Final = (object_name, part_name, label_syntax, data_key, object_twice, namespace_missing)


def _labels(manifests: Manifests) -> Iterator[tuple[Resource, str, str, Any, bool]]:
    """Yield all labels and annotations: object, field, key, value, and whether it is a label."""
    for resource in manifests.resources:
        for node in resource.nodes:
            for name in (*_LABELS, "annotations"):
                if name in node.fields and node.fields[name].takes == "texts":
                    for key, value in mapping(node.body.get(name)).items():
                        yield resource, node.below(name), str(key), value, name != "annotations"


def _is_prefix(prefix: str) -> bool:
    return len(prefix) <= 253 and _SUBDOMAIN.fullmatch(prefix) is not None


def _says(pattern: re.Pattern[str]) -> str:
    if pattern is _SERVICE:
        return "1 to 63 of a-z, 0-9 and '-', a letter first, and no '-' at the end"
    dots = ", '.'" if pattern is _SUBDOMAIN else ""
    return f"a-z, 0-9{dots} and '-', with a letter or a digit at both ends"


def _mended(name: str) -> str:
    return re.sub(r"[^a-z0-9-]+", "-", name.lower()).strip("-")[:63] or "another"
