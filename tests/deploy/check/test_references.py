import re
from typing import Any

import pytest
from manifest_mutations import GONE, all_structs, changed, found, objects

from deploykit.deploy.check.referring import REFERENCES
from deploykit.deploy.check.typed import fields_of

CONTAINER = "spec.template.spec.containers[0]"
BACKUP = "spec.jobTemplate.spec.template.spec"

NO_REFERENCES = {
    "AzureFilePersistentVolumeSource.shareName": "a share",
    "AzureFileVolumeSource.shareName": "a share",
    "ParentRef.sectionName": "a listener: rules.references",
    "ScaleTarget.envSourceContainerName": "a container: rules.pods",
    "PodSpec.nodeName": "a node: not made from manifests",
    "PodSpec.schedulerName": "a program, no object",
    "NamespaceSelector": "namespaces, those of others among them",
    "ContainerResizePolicy": "a resource",
    "OwnerReference": "written by controllers, and by them alone",
    "ObjectMeta": "its own name",
    "ParamRef": "of the kind that the policy names",
    "NamedRuleWithOperations": "names in requests",
    "PolicyRule": "names of what may be asked for, now or later",
    "CustomResourceDefinitionNames": "its own names",
    "FileKeySelector": "a volume of the pod: rules.pods",
    "ResourceFieldSelector": "a container: rules.pods",
    "WindowsSecurityContextOptions": "of the node",
    "EphemeralContainer": "a container: rules.pods",
    "AzureDiskVolumeSource": "a disk",
    "FlockerVolumeSource": "a data set",
    "GCEPersistentDiskVolumeSource": "a disk",
    "ISCSIVolumeSource": "of iSCSI",
    "ISCSIPersistentVolumeSource": "of iSCSI",
    "ScaleIOVolumeSource": "of the driver",
    "ScaleIOPersistentVolumeSource": "of the driver",
    "StorageOSVolumeSource": "of the driver",
    "StorageOSPersistentVolumeSource": "of the driver",
    "VsphereVirtualDiskVolumeSource": "of the driver",
    "ClusterTrustBundleProjection": "what signers publish",
    "PodCertificateProjection": "a signer",
    "CertificateSigningRequestSpec": "a signer",
    "ClusterTrustBundleSpec": "a signer",
    "PodCertificateRequestSpec": "written by the kubelet",
    "LeaseCandidateSpec": "written by controllers",
    "PodFailurePolicyOnExitCodesRequirement": "a container: rules.pods",
    "EndpointAddress": "written by controllers",
    "ObjectReference": "written by controllers",
    "Endpoint": "written by controllers, or none of an object",
    "ScopedResourceSelectorRequirement": "a scope",
    "ConfigMapNodeConfigSource": "no longer read by the kubelet",
    "EvictionRequestPodReference": "written by controllers",
    "EvictionPodReference": "written by controllers",
    "IngressClassParametersReference": "of the controller's own kind",
    "ParentReference": "written by controllers",
    "DeviceClassSpec": "a resource",
    "ResourceSliceSpec": "written by drivers",
    "Device": "written by drivers",
    "BasicDevice": "written by drivers",
    "ResourcePoolStatusRequestSpec": "written by drivers",
    "VolumeAttachmentSpec": "written by controllers",
    "VolumeAttachmentSource": "written by controllers",
    "VolumeAttributesClass": "a driver",
    "WorkloadReference": "written beside the Workload",
    "ServiceSpec": "a DNS name",
    "ContainerResourceMetricSource": "a resource",
    "ResourceMetricSource": "a resource",
}
"""Types with a field that looks like a reference, and why it is none that `REFERENCES` could hold."""


def test_knows_every_field_of_the_api_that_names_an_object_or_says_why_it_is_none() -> None:
    looks = re.compile(r"(Ref|Name|Names|[sS]ecret|Class|[cC]laim)$")
    types = re.compile(r"(Ref|Reference|Source|Projection|Selector)$")
    missing = set()
    for struct in all_structs():
        known = {reference.field for reference in REFERENCES.get(struct.__name__, ())}
        for field in fields_of(struct).values():
            named = looks.search(field.name) or (field.name == "name" and types.search(struct.__name__))
            if named and field.takes == "str" and field.name not in known:
                missing.add(f"{struct.__name__}.{field.name}" if known else struct.__name__)

    assert missing == NO_REFERENCES.keys()


def test_names_only_fields_that_there_are() -> None:
    fields: dict[str, set[str]] = {}
    for struct in all_structs():
        fields.setdefault(struct.__name__, set()).update(fields_of(struct))
    for name, references in REFERENCES.items():
        for each in references:
            wanted = {each.field, each.kind_field, each.namespace_field, each.key_field} - {None}
            assert wanted <= fields[name], name


@pytest.mark.parametrize(
    ("rule", "file", "title", "path", "value", "said"),
    [
        (
            "missing-object",
            "nginx",
            "Deployment/web",
            "spec.template.spec.volumes[0].configMap.name",
            "web-page",
            "write web-pages",
        ),
        (
            "missing-object",
            "nginx",
            "Deployment/web",
            "spec.template.spec.imagePullSecrets[0].name",
            "registri",
            "write registry",
        ),
        (
            "missing-object",
            "nginx",
            "Deployment/web",
            "spec.template.spec.serviceAccountName",
            "web",
            "refuses the pods",
        ),
        (
            "missing-object",
            "nginx",
            "HorizontalPodAutoscaler/worker",
            "spec.scaleTargetRef.name",
            "workers",
            "write worker",
        ),
        ("missing-object", "postgres", "StatefulSet/postgres", "spec.serviceName", "postgress", "write postgres"),
        (
            "missing-object",
            "postgres",
            "StatefulSet/postgres",
            f"{CONTAINER}.env[0].valueFrom.secretKeyRef.name",
            "pg",
            "Secret",
        ),
        (
            "missing-object",
            "postgres",
            "CronJob/backup",
            f"{BACKUP}.volumes[0].persistentVolumeClaim.claimName",
            "backup",
            "write backups",
        ),
        ("missing-object", "postgres", "RoleBinding/postgres", "roleRef.name", "leader", "grants nothing"),
        ("missing-object", "postgres", "RoleBinding/postgres", "subjects[0].name", "postgre", "write postgres"),
        (
            "missing-object",
            "nginx",
            "Ingress/web",
            "spec.rules[0].http.paths[0].backend.service.name",
            "webb",
            "write web",
        ),
        (
            "missing-object",
            "canary",
            "HTTPRoute/shop",
            "spec.rules[0].backendRefs[1].name",
            "shop-canari",
            "write shop-canary",
        ),
        (
            "missing-object",
            "canary",
            "ScaledObject/shop",
            "spec.triggers[0].authenticationRef.name",
            "shops",
            "write shop",
        ),
        (
            "missing-in-namespace",
            "postgres",
            "Secret/postgres",
            "metadata.namespace",
            "default",
            "is in namespace default",
        ),
        (
            "missing-in-namespace",
            "postgres",
            "RoleBinding/postgres",
            "subjects[0].namespace",
            "other",
            "is in namespace data",
        ),
        (
            "missing-key",
            "postgres",
            "StatefulSet/postgres",
            f"{CONTAINER}.env[0].valueFrom.secretKeyRef.key",
            "pasword",
            "write password",
        ),
        (
            "missing-key",
            "nginx",
            "Deployment/web",
            "spec.template.spec.volumes[1].projected.sources[0].configMap.items[0].key",
            "nginx",
            "nginx.conf",
        ),
        (
            "target-kind",
            "nginx",
            "HorizontalPodAutoscaler/worker",
            "spec.scaleTargetRef.kind",
            "StatefulSet",
            "write Deployment",
        ),
        (
            "target-kind",
            "nginx",
            "HorizontalPodAutoscaler/worker",
            "spec.scaleTargetRef.apiVersion",
            "v1",
            "write apps/v1",
        ),
        (
            "backend-port",
            "nginx",
            "Ingress/web",
            "spec.rules[0].http.paths[1].backend.service.port.number",
            8080,
            "80 (http)",
        ),
        (
            "backend-port",
            "nginx",
            "Ingress/web",
            "spec.rules[0].http.paths[0].backend.service.port.name",
            "web",
            "80 (http)",
        ),
        ("backend-port", "canary", "HTTPRoute/shop", "spec.rules[0].backendRefs[0].port", 8080, "its ports are 80"),
        ("backend-port", "canary", "HTTPRoute/shop", "spec.rules[0].backendRefs[0].port", GONE, "needs a port"),
        (
            "foreign-backend",
            "canary",
            "HTTPRoute/shop",
            "spec.rules[0].backendRefs[0].namespace",
            "shops",
            "ReferenceGrant",
        ),
        ("missing-volume", "nginx", "Deployment/web", f"{CONTAINER}.volumeMounts[1].name", "config", "write conf"),
        (
            "unused-volume",
            "nginx",
            "Deployment/web",
            f"{CONTAINER}.volumeMounts[1]",
            GONE,
            "no container of the pod mounts it",
        ),
        (
            "subpath-without-key",
            "nginx",
            "Deployment/web",
            f"{CONTAINER}.volumeMounts[0].subPath",
            "index.htm",
            "write index.html",
        ),
        (
            "missing-container",
            "postgres",
            "StatefulSet/postgres",
            f"{CONTAINER}.env[1].valueFrom.resourceFieldRef.containerName",
            "db",
            "refuses",
        ),
        (
            "missing-container",
            "nginx",
            "Deployment/worker",
            "spec.template.metadata.annotations.`kubectl.kubernetes.io/default-container`",
            "main",
            "kubectl logs",
        ),
        (
            "missing-container",
            "nginx",
            "HorizontalPodAutoscaler/worker",
            "spec.metrics[0].containerResource.container",
            "main",
            "nothing scales",
        ),
        (
            "container-name-twice",
            "postgres",
            "StatefulSet/postgres",
            "spec.template.spec.initContainers[0].name",
            "postgres",
            "change one",
        ),
        (
            "undefined-variable",
            "nginx",
            "Deployment/web",
            f"{CONTAINER}.env[2].value",
            "$(HOTS) waits",
            "write $(HOST)",
        ),
        (
            "undefined-variable",
            "nginx",
            "Deployment/web",
            f"{CONTAINER}.env[0]",
            {"name": "A", "value": "$(WORKERS)"},
            "set only after this",
        ),
        ("undefined-variable", "nginx", "Deployment/worker", f"{CONTAINER}.envFrom", GONE, "add QUEUE to env"),
        ("variable-twice", "nginx", "Deployment/web", f"{CONTAINER}.env[1].name", "HOST", "is lost"),
    ],
)
def test_finds_what_is_named_and_is_not_there(
    rule: str, file: str, title: str, path: str, value: Any, said: str
) -> None:
    matching = [each for each in found(changed(file, title, (path, value))) if each.rule == rule]

    assert matching
    assert any(said in f"{each.why}; {each.remedy}" for each in matching), matching


@pytest.mark.parametrize(
    ("file", "title", "edits"),
    [
        ("nginx", "Deployment/web", [("spec.template.spec.serviceAccountName", "default")]),
        ("nginx", "Deployment/web", [("spec.template.spec.priorityClassName", "system-cluster-critical")]),
        ("nginx", "Deployment/web", [("spec.template.spec.runtimeClassName", "gvisor")]),
        (
            "nginx",
            "Deployment/web",
            [
                ("metadata.annotations", {"deploykit/needs": "serviceaccount/w, secret/x"}),
                ("spec.template.spec.serviceAccountName", "w"),
                ("spec.template.spec.imagePullSecrets[0].name", "x"),
            ],
        ),
        (
            "nginx",
            "Deployment/web",
            [
                ("spec.template.spec.volumes[0].configMap", {"name": "kube-root-ca.crt"}),
                (f"{CONTAINER}.volumeMounts[0]", {"name": "pages", "mountPath": "/ca"}),
            ],
        ),
        ("postgres", "ClusterRoleBinding/postgres-view", [("roleRef.name", "system:auth-delegator")]),
        ("postgres", "CronJob/backup", [(f"{BACKUP}.volumes[0].persistentVolumeClaim.claimName", "data-postgres-0")]),
        ("nginx", "Deployment/web", [(f"{CONTAINER}.env[1].value", "$(SEARCH_SERVICE_HOST)")]),
    ],
)
def test_leaves_alone_what_is_there_in_another_way(file: str, title: str, edits: list[tuple[str, Any]]) -> None:
    rules = {"missing-object", "missing-key", "undefined-variable", "subpath-without-key", "missing-in-namespace"}
    assert [each for each in found(changed(file, title, *edits)) if each.rule in rules] == []


def test_what_may_be_in_the_cluster_is_a_warning_and_what_belongs_to_a_workload_an_error() -> None:
    bodies = [body for body in objects("postgres") if body["kind"] != "Secret"]
    assert {each.level for each in found(bodies) if each.rule == "missing-object"} == {"warning"}
    bodies = [body for body in objects("postgres") if body["kind"] != "ServiceAccount"]
    assert {each.level for each in found(bodies) if each.rule == "missing-object"} == {"error"}


def test_a_lone_object_may_name_what_other_files_have() -> None:
    lone = [body for body in objects("nginx") if body["metadata"]["name"] == "web" and body["kind"] == "Deployment"]
    assert {each.level for each in found(lone)} == {"warning"}


def test_finds_a_listener_that_the_gateway_does_not_have() -> None:
    listeners = [{"name": "https", "port": 443, "protocol": "HTTPS", "tls": {"mode": "Passthrough"}}]
    spec = {"gatewayClassName": "cloud", "listeners": listeners}
    metadata = {"name": "public", "namespace": "gateways"}
    gateway = {"apiVersion": "gateway.networking.k8s.io/v1", "kind": "Gateway", "metadata": metadata, "spec": spec}
    for name, rules in (("https", []), ("http", ["missing-listener"])):
        bodies = changed("canary", "HTTPRoute/shop", ("spec.parentRefs[0].sectionName", name))
        assert [each.rule for each in found([*bodies, gateway])] == rules
