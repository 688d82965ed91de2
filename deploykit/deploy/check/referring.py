"""Which fields of the API name another object, and of which kind."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Final, Literal

from deploykit.deploy.check.manifests import Manifests, Resource, mapping, sequence
from deploykit.deploy.check.typed import Node, cluster_scoped

Home = Literal["set", "anywhere", "cluster"]
"""Where a target is at home: in the `set` with the workload, `anywhere`, or set up once for the whole `cluster`."""


@dataclass(frozen=True, kw_only=True)
class Reference:
    """A field that names an object."""

    field: str
    kind: str
    """Of the target where no field says it."""
    home: Home = "anywhere"
    kind_field: str | None = None
    namespace_field: str | None = None
    key_field: str | None = None
    """The field that names a key inside the target."""
    keys: tuple[str, ...] = ()
    """Keys that the target must have whatever the reference says."""


def _one(field: str, kind: str, home: Home = "anywhere", **more: Any) -> tuple[Reference, ...]:
    return (Reference(field=field, kind=kind, home=home, **more),)


_TLS: Final = ("tls.crt", "tls.key")

REFERENCES: Final[Mapping[str, tuple[Reference, ...]]] = {
    "ConfigMapKeySelector": _one("name", "ConfigMap", "set", key_field="key"),
    "ConfigMapEnvSource": _one("name", "ConfigMap", "set"),
    "ConfigMapVolumeSource": _one("name", "ConfigMap", "set"),
    "ConfigMapProjection": _one("name", "ConfigMap", "set"),
    "ConfigMapTarget": _one("name", "ConfigMap", "set", key_field="key"),
    "SecretKeySelector": _one("name", "Secret", key_field="key"),
    "SecretEnvSource": _one("name", "Secret"),
    "SecretVolumeSource": _one("secretName", "Secret"),
    "SecretProjection": _one("name", "Secret"),
    "SecretTarget": _one("name", "Secret", key_field="key"),
    "SecretReference": _one("name", "Secret", namespace_field="namespace"),
    "LocalObjectReference": _one("name", "Secret"),  # Pull secrets and those of volume drivers.
    "AzureFileVolumeSource": _one("secretName", "Secret"),
    "AzureFilePersistentVolumeSource": _one("secretName", "Secret", namespace_field="secretNamespace"),
    "IngressTLS": _one("secretName", "Secret", keys=_TLS),
    "Certificate": _one("name", "Secret", kind_field="kind", namespace_field="namespace", keys=_TLS),
    "PersistentVolumeClaimVolumeSource": _one("claimName", "PersistentVolumeClaim"),
    "PersistentVolumeClaimSpec": (
        *_one("storageClassName", "StorageClass", "cluster"),
        *_one("volumeAttributesClassName", "VolumeAttributesClass", "cluster"),
        *_one("volumeName", "PersistentVolume"),
    ),
    "PersistentVolumeSpec": (
        *_one("storageClassName", "StorageClass", "cluster"),
        *_one("volumeAttributesClassName", "VolumeAttributesClass", "cluster"),
    ),
    "CSIStorageCapacity": _one("storageClassName", "StorageClass", "cluster"),
    "TypedLocalObjectReference": _one("name", "PersistentVolumeClaim", kind_field="kind"),
    "TypedObjectReference": _one("name", "PersistentVolumeClaim", kind_field="kind", namespace_field="namespace"),
    "PodSpec": (
        *_one("serviceAccountName", "ServiceAccount", "set"),
        *_one("serviceAccount", "ServiceAccount", "set"),
        *_one("priorityClassName", "PriorityClass", "cluster"),
        *_one("runtimeClassName", "RuntimeClass", "cluster"),
    ),
    "PodResourceClaim": (
        *_one("resourceClaimName", "ResourceClaim"), *_one("resourceClaimTemplateName", "ResourceClaimTemplate"),
    ),
    "PodSchedulingGroup": _one("podGroupName", "PodGroup"),
    "ExactDeviceRequest": _one("deviceClassName", "DeviceClass", "cluster"),
    "DeviceSubRequest": _one("deviceClassName", "DeviceClass", "cluster"),
    "DeviceRequest": _one("deviceClassName", "DeviceClass", "cluster"),
    "StatefulSetSpec": _one("serviceName", "Service"),
    "CrossVersionObjectReference": _one("name", "Deployment", kind_field="kind"),
    "ScaleTarget": _one("name", "Deployment", kind_field="kind"),
    "IngressServiceBackend": _one("name", "Service"),
    "IngressSpec": _one("ingressClassName", "IngressClass", "cluster"),
    "BackendRef": _one("name", "Service", kind_field="kind", namespace_field="namespace"),
    "ParentRef": _one("name", "Gateway", "cluster", kind_field="kind", namespace_field="namespace"),
    "GatewaySpec": _one("gatewayClassName", "GatewayClass", "cluster"),
    "ServiceReference": _one("name", "Service", namespace_field="namespace"),
    "RoleRef": _one("name", "Role", "set", kind_field="kind"),
    "Subject": _one("name", "ServiceAccount", "set", kind_field="kind", namespace_field="namespace"),
    "AuthenticationRef": _one("name", "TriggerAuthentication", "set", kind_field="kind"),
    "MutatingAdmissionPolicyBindingSpec": _one("policyName", "MutatingAdmissionPolicy"),
    "ValidatingAdmissionPolicyBindingSpec": _one("policyName", "ValidatingAdmissionPolicy"),
    "PriorityLevelConfigurationReference": _one("name", "PriorityLevelConfiguration", "cluster"),
    "CompositePodGroupSpec": (
        *_one("priorityClassName", "PriorityClass", "cluster"),
        *_one("parentCompositePodGroupName", "CompositePodGroup"),
    ),
    "PodGroupSpec": (
        *_one("priorityClassName", "PriorityClass", "cluster"),
        *_one("parentCompositePodGroupName", "CompositePodGroup"),
    ),
    "CompositePodGroupTemplate": _one("priorityClassName", "PriorityClass", "cluster"),
    "PodGroupTemplate": _one("priorityClassName", "PriorityClass", "cluster"),
    "PodGroupResourceClaim": (
        *_one("resourceClaimName", "ResourceClaim"), *_one("resourceClaimTemplateName", "ResourceClaimTemplate"),
    ),
    "WorkloadPodGroupResourceClaim": (
        *_one("resourceClaimName", "ResourceClaim"), *_one("resourceClaimTemplateName", "ResourceClaimTemplate"),
    ),
}  # fmt: skip
"""By the type that has the field."""

_BUILT_IN: Final[Mapping[str, frozenset[str]]] = {
    "ServiceAccount": frozenset({"default"}),
    "Role": frozenset({"extension-apiserver-authentication-reader"}),
    "ConfigMap": frozenset(
        {"kube-root-ca.crt", "extension-apiserver-authentication", "openshift-service-ca.crt", "istio-ca-root-cert"}
    ),
    "ClusterRole": frozenset({"admin", "edit", "view", "cluster-admin"}),
    "PriorityClass": frozenset({"system-cluster-critical", "system-node-critical"}),
    "Service": frozenset({"kubernetes"}),
}
"""What every cluster has, or makes in each namespace."""
_CLUSTER_KINDS: Final = frozenset({"ClusterRole", "ClusterTriggerAuthentication", "GatewayClass"})
_SHORT: Final[Mapping[str, str]] = {
    "pvc": "persistentvolumeclaim", "cm": "configmap", "sa": "serviceaccount", "svc": "service", "deploy": "deployment",
    "sts": "statefulset", "sc": "storageclass", "pc": "priorityclass",
}  # fmt: skip
NEEDS: Final = "deploykit/needs"
"""Annotation that names what is in the cluster already."""


@dataclass(frozen=True, kw_only=True)
class Use:
    """A place where an object is named."""

    resource: Resource
    node: Node
    reference: Reference
    name: str
    kind: str
    namespace: str
    says_namespace: bool

    @property
    def field(self) -> str:
        """Path of the field that names it."""
        return self.node.below(self.reference.field)

    @property
    def optional(self) -> bool:
        """Whether it may be missing."""
        return self.node.body.get("optional") is True

    @property
    def home(self) -> Home:
        """Where the target is at home."""
        return "cluster" if self.kind in _CLUSTER_KINDS or self.kind == "VolumeSnapshot" else self.reference.home

    def wanted_keys(self) -> Iterator[tuple[str, str]]:
        """Yield the keys that it wants of the target, each with the field that says so."""
        field = self.reference.key_field
        if field and isinstance(self.node.body.get(field), str):
            yield self.node.below(field), self.node.body[field]
        if self.node.struct.endswith(("VolumeSource", "Projection")):
            for index, item in enumerate(map(mapping, sequence(self.node.body.get("items")))):
                if isinstance(item.get("key"), str):
                    yield f"{self.node.below('items')}[{index}].key", item["key"]
        for key in self.reference.keys:
            yield self.field, key


def uses(manifests: Manifests) -> Iterator[Use]:
    """Yield every place where an object names another one."""
    for resource in manifests.resources:
        for node in resource.nodes:
            for reference in REFERENCES.get(node.struct, ()):
                name = node.body.get(reference.field)
                if isinstance(name, str) and name and not _shadowed(node, reference):
                    yield _use(resource, node, reference, name)


def _shadowed(node: Node, reference: Reference) -> bool:
    """Return whether another field says the same: `serviceAccount` is the old name of `serviceAccountName`."""
    return reference.field == "serviceAccount" and bool(node.body.get("serviceAccountName"))


def _use(resource: Resource, node: Node, reference: Reference, name: str) -> Use:
    kind = node.body.get(reference.kind_field) if reference.kind_field else None
    given = node.body.get(reference.namespace_field) if reference.namespace_field else None
    kind = str(kind or reference.kind)
    return Use(
        resource=resource, node=node, reference=reference, name=name, kind=kind,
        namespace=str(given or resource.namespace), says_namespace=bool(given) or resource.says_namespace,
    )  # fmt: skip


def is_built_in(kind: str, name: str) -> bool:
    """Return whether every cluster has an object, or Kubernetes itself names it."""
    return name in _BUILT_IN.get(kind, ()) or (kind in ("ClusterRole", "Role") and name.startswith("system:"))


def is_cluster_wide(kind: str) -> bool:
    """Return whether objects of a kind lie in no namespace."""
    return kind in _CLUSTER_KINDS or any(each == kind for _, each in cluster_scoped())


def needed(manifests: Manifests) -> set[tuple[str, str]]:
    """Return what annotations say is in the cluster already: kind in lower case, and name."""
    found = set[tuple[str, str]]()
    for resource in manifests.resources:
        text = mapping(mapping(resource.body.get("metadata")).get("annotations")).get(NEEDS)
        for part in str(text or "").split(","):
            kind, slash, name = part.strip().partition("/")
            if slash:
                found.add((_SHORT.get(kind.lower(), kind.lower().removesuffix("s")), name.strip()))
    return found


def made_by_others(manifests: Manifests, kind: str, name: str) -> bool:
    """Return whether a controller may make an object from a custom resource, or from an annotation, in the set."""
    for resource in manifests.resources:
        if resource.kind == "StatefulSet" and kind == "PersistentVolumeClaim":
            claims = [
                mapping(mapping(each).get("metadata")).get("name")
                for each in sequence(resource.spec.get("volumeClaimTemplates"))
            ]
            if any(name.startswith(f"{claim}-{resource.name}-") for claim in claims):
                return True
        annotations = mapping(mapping(resource.body.get("metadata")).get("annotations"))
        if kind == "Secret" and any("cert-manager.io/" in key for key in annotations) and _ends_tls(resource, name):
            return True
        if kind in ("Secret", "ConfigMap") and _is_told(resource, kind, name):
            return True
        if not resource.nodes and "." in resource.api_version.partition("/")[0] and _may_make(resource, name):
            return True
    return False


def _may_make(resource: Resource, name: str) -> bool:
    target = mapping(resource.spec.get("target")).get("name")
    return name in (target, resource.spec.get("secretName")) or (bool(resource.name) and name.startswith(resource.name))


def _is_told(resource: Resource, kind: str, name: str) -> bool:
    """Return whether a program is told the name of a Secret or ConfigMap, as one that makes it itself is."""
    wanted = kind.lower().removesuffix("map")
    for node in resource.nodes:
        if node.struct == "Container":
            words = [str(word) for key in ("command", "args") for word in sequence(node.body.get(key))]
            options = [word.rpartition("=") for word in words] + [(a, "", b) for a, b in pairwise(words)]
            if any(
                option.startswith("-") and wanted in option.lower() and name == value for option, _, value in options
            ):
                return True
    return False


def _ends_tls(resource: Resource, name: str) -> bool:
    """Return whether an object takes its certificate from a Secret, which cert-manager writes where it is asked to."""
    fields = {"IngressTLS": "secretName", "Certificate": "name"}
    return any(node.body.get(fields[node.struct]) == name for node in resource.nodes if node.struct in fields)
