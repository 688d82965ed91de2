"""Rules on objects that name others: whether those are there, and hold what is wanted of them."""

from collections.abc import Iterator, Mapping
from typing import Any, Final

from deploykit.deploy.check.finding import Finding, Level
from deploykit.deploy.check.manifests import TEMPLATES, Manifests, Resource, mapping, sequence
from deploykit.deploy.check.nearest import nearest
from deploykit.deploy.check.referring import Use, is_built_in, is_cluster_wide, made_by_others, needed, uses
from deploykit.deploy.check.typed import kinds
from deploykit.deploy.facts import ModelFacts

_BREAKS: Final = {
    "ConfigMap": "the pod waits for it and doesn't start",
    "Secret": "what reads it doesn't start",
    "ServiceAccount": "the API refuses the pods",
    "PersistentVolumeClaim": "the pod stays pending",
    "Service": "requests go nowhere",
    "Role": "the binding grants nothing",
    "PriorityClass": "the API refuses the pods",
    "RuntimeClass": "the API refuses the pods",
}


def missing_object(manifests: Manifests, _facts: ModelFacts | None) -> Iterator[Finding]:
    """An object that is named, and isn't among the manifests nor said to be in the cluster."""
    there = needed(manifests)
    for use in uses(manifests):
        if use.kind in ("User", "Group") or use.optional or _target(manifests, use):
            continue
        if is_built_in(use.kind, use.name) or (use.kind.lower(), use.name) in there or _is_elsewhere(manifests, use):
            continue
        if not made_by_others(manifests, use.kind, use.name):
            names = {each.name for each in manifests.of_kind(use.kind) if each is not use.resource}
            said = {name for kind, name in there if kind == use.kind.lower()}
            near = nearest(use.name, names | said)
            level = _level(manifests, use, known=bool(names), near=bool(near))
            if level is not None:
                yield _missing(use, names, near, level)


def missing_in_namespace(manifests: Manifests, _facts: ModelFacts | None) -> Iterator[Finding]:
    """An object that is named, and lies in another namespace, where it can't be seen."""
    there = needed(manifests)
    for use in uses(manifests):
        if use.optional or _target(manifests, use) or not _is_elsewhere(manifests, use):
            continue
        if is_built_in(use.kind, use.name) or (use.kind.lower(), use.name) in there:
            continue
        other = next(each for each in manifests.of_kind(use.kind) if each.name == use.name)
        sure = other.says_namespace and use.says_namespace
        yield use.resource.find(
            "missing-in-namespace", use.field, use.name,
            f"{use.kind}/{use.name} is in namespace {_namespace(other)}, and this looks in "
            f"{use.namespace if use.says_namespace else 'that of whoever applies it'}",
            f"put both into one: metadata.namespace: {use.namespace if use.says_namespace else other.namespace}",
            level="error" if sure else "warning",
        )  # fmt: skip


def missing_key(manifests: Manifests, _facts: ModelFacts | None) -> Iterator[Finding]:
    """A key that is wanted of a ConfigMap or a Secret that doesn't have it."""
    for use in uses(manifests):
        target = _target(manifests, use)
        if target is None or use.kind not in ("ConfigMap", "Secret") or use.optional or _is_filled_later(target):
            continue
        keys = {key for name in ("data", "binaryData", "stringData") for key in mapping(target.body.get(name))}
        for field, key in use.wanted_keys():
            if key not in keys:
                near = nearest(key, keys)
                has = f"its keys are {', '.join(sorted(keys))}" if keys else "it has none"
                remedy = f"write {near}" if near and field != use.field else f"add {key} to {target.title}"
                why = f"{target.title} has no key {key!r} ({has}), and {_BREAKS[use.kind]}"
                yield use.resource.find("missing-key", field, key, why, remedy)


def target_kind(manifests: Manifests, _facts: ModelFacts | None) -> Iterator[Finding]:
    """A target whose kind or apiVersion isn't that of the object of its name."""
    for use in uses(manifests):
        if use.node.struct not in ("CrossVersionObjectReference", "ScaleTarget"):
            continue
        version, default = use.node.body.get("apiVersion"), "apps/v1" if use.node.struct == "ScaleTarget" else None
        named = str(version or default or "v1")
        target = _target(manifests, use)
        if target is not None and named.rpartition("/")[0] != target.api_version.rpartition("/")[0]:
            why = f"{target.title} is of apiVersion {target.api_version}, and its target isn't found"
            yield use.resource.find(
                "target-kind", use.node.below("apiVersion"), version, why, f"write {target.api_version}"
            )
        elif target is None and (others := [r for r in manifests.resources if r.name == use.name and _scales(r)]):
            why = f"there is no {use.kind} of that name, but {others[0].title}"
            yield use.resource.find("target-kind", use.node.below("kind"), use.kind, why, f"write {others[0].kind}")
        elif (named, use.kind) not in kinds() and any(named == known for known, _ in kinds()):
            near = nearest(use.kind, {kind for known, kind in kinds() if known == named})
            remedy = f"write {near}" if near else "name the kind that makes the pods"
            yield use.resource.find(
                "target-kind", use.node.below("kind"), use.kind, f"{named} has no such kind", remedy
            )


def backend_port(manifests: Manifests, _facts: ModelFacts | None) -> Iterator[Finding]:
    """A port that an Ingress, a route or a webhook asks of a Service that doesn't have it."""
    for use in uses(manifests):
        target = _target(manifests, use)
        if use.kind != "Service" or target is None or target.kind != "Service":
            continue
        ports = [mapping(port) for port in sequence(target.spec.get("ports"))]
        has = ", ".join(map(_spelled_port, ports)) or "none"
        for field, value, key in _asked_ports(use):
            if not any(str(port.get(key)) == str(value) for port in ports):
                why = f"{target.title} has no such port (its ports are {has}), so requests fail"
                yield use.resource.find("backend-port", field, value, why, "write one of the Service's own ports")
        if use.node.struct == "BackendRef" and use.node.body.get("port") is None:
            yield use.resource.find(
                "backend-port", use.node.below("port"), None, "a Service as backend needs a port", f"add one: {has}"
            )


def foreign_backend(manifests: Manifests, _facts: ModelFacts | None) -> Iterator[Finding]:
    """A route to a Service of another namespace that no ReferenceGrant allows."""
    for use in uses(manifests):
        if use.node.struct in ("BackendRef", "Certificate") and use.namespace != use.resource.namespace:
            if any(_grants(grant, use) for grant in manifests.of_kind("ReferenceGrant")):
                continue
            known = any(each.namespace == use.namespace for each in manifests.resources)
            yield use.resource.find(
                "foreign-backend", use.node.below("namespace"), use.namespace,
                f"no ReferenceGrant in namespace {use.namespace} lets a {use.resource.kind} of namespace "
                f"{use.resource.namespace} name a {use.kind} there", "add a ReferenceGrant",
                level="error" if known else "warning",
            )  # fmt: skip


def missing_listener(manifests: Manifests, _facts: ModelFacts | None) -> Iterator[Finding]:
    """A route that hangs on a listener which its Gateway doesn't have."""
    for use in uses(manifests):
        target, name = _target(manifests, use), use.node.body.get("sectionName")
        if use.node.struct != "ParentRef" or target is None or target.kind != "Gateway" or not isinstance(name, str):
            continue
        names = {str(mapping(each).get("name")) for each in sequence(target.spec.get("listeners"))}
        if name not in names:
            why = f"{target.title} has no listener of that name (it has {', '.join(sorted(names))}): nothing is routed"
            yield use.resource.find("missing-listener", use.node.below("sectionName"), name, why, "name one of them")


RULES: Final = (
    missing_listener,
    missing_object,
    missing_in_namespace,
    missing_key,
    target_kind,
    backend_port,
    foreign_backend,
)


def _target(manifests: Manifests, use: Use) -> Resource | None:
    """Return the object that is named, None where it isn't among the manifests."""
    if is_cluster_wide(use.kind):
        return next((each for each in manifests.of_kind(use.kind) if each.name == use.name), None)
    return manifests.find(use.kind, use.name, use.namespace)


def _is_elsewhere(manifests: Manifests, use: Use) -> bool:
    return not is_cluster_wide(use.kind) and any(each.name == use.name for each in manifests.of_kind(use.kind))


def _namespace(resource: Resource) -> str:
    return resource.namespace if resource.says_namespace else "that of whoever applies it"


def _level(manifests: Manifests, use: Use, *, known: bool, near: bool) -> Level | None:
    """Return how bad it is that an object is missing; None where it may well be in the cluster."""
    if use.home == "cluster":
        return "warning" if near else None
    if use.node.struct in ("CrossVersionObjectReference", "ScaleTarget") and any(
        each.name == use.name and _scales(each) for each in manifests.resources
    ):
        # `target_kind` tells of it.
        return None
    if not near and _is_foreign(manifests, use):
        return None
    if use.kind == "Secret" and use.node.struct in ("IngressTLS", "Certificate") and not near:
        # Certificates come from whoever issues them, other Secrets among the manifests or not.
        return "warning"
    alone = len(manifests.resources) == 1
    return "error" if known or near or (use.home == "set" and not alone) else "warning"


def _is_foreign(manifests: Manifests, use: Use) -> bool:
    """Return whether an object is looked for in another namespace, which somebody else fills."""
    if use.namespace == use.resource.namespace or is_cluster_wide(use.kind):
        return False
    return not any(each.namespace == use.namespace for each in manifests.of_kind(use.kind, *TEMPLATES))


def _missing(use: Use, names: set[str], near: str | None, level: Level) -> Finding:
    breaks = _BREAKS.get(use.kind, "what names it doesn't work")
    if use.node.struct == "Subject":
        breaks = "nobody has what is granted"
    has = f"those of its kind are {', '.join(sorted(names))}" if names else "there is none of its kind"
    why = f"no {use.kind} of that name is among the manifests ({has}); {breaks}"
    remedy = (
        f"write {near}"
        if near
        else f"add it, or say that the cluster has it: deploykit/needs: {use.kind.lower()}/{use.name}"
    )
    return use.resource.find("missing-object", use.field, use.name, why, remedy, level=level)


def _is_filled_later(target: Resource) -> bool:
    """Return whether a controller writes into an object after it was applied."""
    if str(target.body.get("type") or "").endswith("service-account-token"):
        return True
    metadata = mapping(target.body.get("metadata"))
    marks = (*mapping(metadata.get("labels")), *mapping(metadata.get("annotations")))
    return any("inject" in mark or "reflector" in mark or "replicat" in mark for mark in marks)


def _scales(resource: Resource) -> bool:
    return resource.kind in ("Deployment", "StatefulSet", "ReplicaSet", "ReplicationController")


def _asked_ports(use: Use) -> Iterator[tuple[str, object, str]]:
    """Yield the ports that a reference asks of a Service: field, value, and the Service's field that has it."""
    match use.node.struct:
        case "IngressServiceBackend":
            port = mapping(use.node.body.get("port"))
            for key, field in (("number", "port"), ("name", "name")):
                if port.get(key) is not None:
                    yield f"{use.node.below('port')}.{key}", port[key], field
        case "BackendRef" | "ServiceReference" if use.node.body.get("port") is not None:
            yield use.node.below("port"), use.node.body["port"], "port"
        case "ServiceReference":
            yield use.field, 443, "port"


def _grants(grant: Resource, use: Use) -> bool:
    if grant.namespace != use.namespace:
        return False
    allows = any(
        mapping(each).get("kind") == use.resource.kind and mapping(each).get("namespace") == use.resource.namespace
        for each in sequence(grant.spec.get("from"))
    )
    return allows and any(
        mapping(each).get("kind") == use.kind and mapping(each).get("name", use.name) == use.name
        for each in sequence(grant.spec.get("to"))
    )


def _spelled_port(port: Mapping[str, Any]) -> str:
    return f"{port.get('port')} ({port['name']})" if port.get("name") else str(port.get("port"))
