"""What the API says in words alone: versions that are gone, values that a field takes, fields that exclude others."""

from collections.abc import Mapping
from typing import Final

REMOVED: Final[Mapping[str, tuple[str, str]]] = {
    "extensions/v1beta1": ("1.16, the last of it 1.22", "apps/v1, networking.k8s.io/v1"),
    "apps/v1beta1": ("1.16", "apps/v1"),
    "apps/v1beta2": ("1.16", "apps/v1"),
    "admissionregistration.k8s.io/v1beta1": ("1.22", "admissionregistration.k8s.io/v1"),
    "apiextensions.k8s.io/v1beta1": ("1.22", "apiextensions.k8s.io/v1"),
    "apiregistration.k8s.io/v1beta1": ("1.22", "apiregistration.k8s.io/v1"),
    "authentication.k8s.io/v1beta1": ("1.22", "authentication.k8s.io/v1"),
    "authorization.k8s.io/v1beta1": ("1.22", "authorization.k8s.io/v1"),
    "certificates.k8s.io/v1beta1": ("1.22", "certificates.k8s.io/v1"),
    "coordination.k8s.io/v1beta1": ("1.22", "coordination.k8s.io/v1"),
    "networking.k8s.io/v1beta1": ("1.22", "networking.k8s.io/v1"),
    "rbac.authorization.k8s.io/v1alpha1": ("1.22", "rbac.authorization.k8s.io/v1"),
    "rbac.authorization.k8s.io/v1beta1": ("1.22", "rbac.authorization.k8s.io/v1"),
    "scheduling.k8s.io/v1beta1": ("1.22", "scheduling.k8s.io/v1"),
    "storage.k8s.io/v1beta1": ("1.22, the last of it 1.27", "storage.k8s.io/v1"),
    "batch/v2alpha1": ("1.21", "batch/v1"),
    "batch/v1beta1": ("1.25", "batch/v1"),
    "discovery.k8s.io/v1beta1": ("1.25", "discovery.k8s.io/v1"),
    "events.k8s.io/v1beta1": ("1.25", "events.k8s.io/v1"),
    "node.k8s.io/v1beta1": ("1.25", "node.k8s.io/v1"),
    "policy/v1beta1": (
        "1.25",
        "policy/v1 (of a PodSecurityPolicy: labels pod-security.kubernetes.io/* of a namespace)",
    ),
    "autoscaling/v2beta1": ("1.25", "autoscaling/v2"),
    "autoscaling/v2beta2": ("1.26", "autoscaling/v2"),
    "flowcontrol.apiserver.k8s.io/v1beta1": ("1.26", "flowcontrol.apiserver.k8s.io/v1"),
    "flowcontrol.apiserver.k8s.io/v1beta2": ("1.29", "flowcontrol.apiserver.k8s.io/v1"),
    "flowcontrol.apiserver.k8s.io/v1beta3": ("1.32", "flowcontrol.apiserver.k8s.io/v1"),
    "storage.k8s.io/v1alpha1": ("1.32", "storage.k8s.io/v1"),
    "resource.k8s.io/v1alpha2": ("1.31", "resource.k8s.io/v1"),
}
"""Release that stopped serving a version, and its successor (kubernetes.io/docs/reference/using-api/deprecation-guide).
Kinds that came to such a version later, and are there still, are known by their types."""

_PROTOCOLS: Final = ("TCP", "UDP", "SCTP")
_POLICIES: Final = ("Always", "IfNotPresent", "Never")
_OPERATORS: Final = ("In", "NotIn", "Exists", "DoesNotExist")
_AFFINITY: Final = ("Honor", "Ignore")
_ACCESS: Final = ("ReadWriteOnce", "ReadOnlyMany", "ReadWriteMany", "ReadWriteOncePod")

CHOICES: Final[Mapping[tuple[str, str], tuple[str, ...]]] = {
    ("PodSpec", "restartPolicy"): ("Always", "OnFailure", "Never"),
    ("PodSpec", "dnsPolicy"): ("ClusterFirst", "ClusterFirstWithHostNet", "Default", "None"),
    ("PodSpec", "preemptionPolicy"): ("Never", "PreemptLowerPriority"),
    ("PodOS", "name"): ("linux", "windows"),
    ("Container", "imagePullPolicy"): _POLICIES,
    ("Container", "restartPolicy"): ("Always", "OnFailure", "Never"),
    ("Container", "terminationMessagePolicy"): ("File", "FallbackToLogsOnError"),
    ("ContainerResizePolicy", "restartPolicy"): ("NotRequired", "RestartContainer"),
    ("ContainerPort", "protocol"): _PROTOCOLS,
    ("HTTPGetAction", "scheme"): ("HTTP", "HTTPS"),
    ("VolumeMount", "mountPropagation"): ("None", "HostToContainer", "Bidirectional"),
    ("VolumeMount", "recursiveReadOnly"): ("Disabled", "IfPossible", "Enabled"),
    ("SecurityContext", "procMount"): ("Default", "Unmasked"),
    ("SeccompProfile", "type"): ("RuntimeDefault", "Localhost", "Unconfined"),
    ("AppArmorProfile", "type"): ("RuntimeDefault", "Localhost", "Unconfined"),
    ("PodSecurityContext", "fsGroupChangePolicy"): ("OnRootMismatch", "Always"),
    ("PodSecurityContext", "supplementalGroupsPolicy"): ("Merge", "Strict"),
    ("PodSecurityContext", "seLinuxChangePolicy"): ("Recursive", "MountOption"),
    ("EmptyDirVolumeSource", "medium"): ("", "Memory", "HugePages", "HugePages-1Gi", "HugePages-2Mi"),
    ("HostPathVolumeSource", "type"): ("", "DirectoryOrCreate", "Directory", "FileOrCreate", "File", "Socket",
                                       "CharDevice", "BlockDevice"),
    ("ImageVolumeSource", "pullPolicy"): _POLICIES,
    ("Toleration", "operator"): ("Exists", "Equal", "Lt", "Gt"),
    ("Toleration", "effect"): ("NoSchedule", "PreferNoSchedule", "NoExecute", ""),
    ("Taint", "effect"): ("NoSchedule", "PreferNoSchedule", "NoExecute"),
    ("NodeSelectorRequirement", "operator"): (*_OPERATORS, "Gt", "Lt"),
    ("LabelSelectorRequirement", "operator"): _OPERATORS,
    ("TopologySpreadConstraint", "whenUnsatisfiable"): ("DoNotSchedule", "ScheduleAnyway"),
    ("TopologySpreadConstraint", "nodeAffinityPolicy"): _AFFINITY,
    ("TopologySpreadConstraint", "nodeTaintsPolicy"): _AFFINITY,
    ("DeploymentStrategy", "type"): ("RollingUpdate", "Recreate"),
    ("StatefulSetUpdateStrategy", "type"): ("RollingUpdate", "OnDelete"),
    ("DaemonSetUpdateStrategy", "type"): ("RollingUpdate", "OnDelete"),
    ("StatefulSetSpec", "podManagementPolicy"): ("OrderedReady", "Parallel"),
    ("StatefulSetPersistentVolumeClaimRetentionPolicy", "whenDeleted"): ("Retain", "Delete"),
    ("StatefulSetPersistentVolumeClaimRetentionPolicy", "whenScaled"): ("Retain", "Delete"),
    ("JobSpec", "completionMode"): ("NonIndexed", "Indexed"),
    ("JobSpec", "podReplacementPolicy"): ("TerminatingOrFailed", "Failed"),
    ("PodFailurePolicyRule", "action"): ("FailJob", "FailIndex", "Ignore", "Count"),
    ("CronJobSpec", "concurrencyPolicy"): ("Allow", "Forbid", "Replace"),
    ("ServiceSpec", "type"): ("ClusterIP", "NodePort", "LoadBalancer", "ExternalName"),
    ("ServiceSpec", "sessionAffinity"): ("None", "ClientIP"),
    ("ServiceSpec", "externalTrafficPolicy"): ("Cluster", "Local"),
    ("ServiceSpec", "internalTrafficPolicy"): ("Cluster", "Local"),
    ("ServiceSpec", "ipFamilyPolicy"): ("SingleStack", "PreferDualStack", "RequireDualStack"),
    ("ServiceSpec", "ipFamilies"): ("IPv4", "IPv6"),
    ("ServicePort", "protocol"): _PROTOCOLS,
    ("PersistentVolumeClaimSpec", "accessModes"): _ACCESS,
    ("PersistentVolumeClaimSpec", "volumeMode"): ("Filesystem", "Block"),
    ("PersistentVolumeSpec", "accessModes"): _ACCESS,
    ("PersistentVolumeSpec", "volumeMode"): ("Filesystem", "Block"),
    ("PersistentVolumeSpec", "persistentVolumeReclaimPolicy"): ("Retain", "Delete", "Recycle"),
    ("StorageClass", "reclaimPolicy"): ("Retain", "Delete"),
    ("StorageClass", "volumeBindingMode"): ("Immediate", "WaitForFirstConsumer"),
    ("PriorityClass", "preemptionPolicy"): ("Never", "PreemptLowerPriority"),
    ("NetworkPolicySpec", "policyTypes"): ("Ingress", "Egress"),
    ("NetworkPolicyPort", "protocol"): _PROTOCOLS,
    ("HTTPIngressPath", "pathType"): ("Exact", "Prefix", "ImplementationSpecific"),
    ("PodDisruptionBudgetSpec", "unhealthyPodEvictionPolicy"): ("IfHealthyBudget", "AlwaysAllow"),
    ("MetricSpec", "type"): ("Resource", "ContainerResource", "Pods", "Object", "External"),
    ("MetricTarget", "type"): ("Utilization", "Value", "AverageValue"),
    ("HPAScalingRules", "selectPolicy"): ("Max", "Min", "Disabled"),
    ("HPAScalingPolicy", "type"): ("Pods", "Percent"),
    ("Subject", "kind"): ("User", "Group", "ServiceAccount"),
    ("RoleRef", "kind"): ("Role", "ClusterRole"),
    ("LimitRangeItem", "type"): ("Pod", "Container", "PersistentVolumeClaim"),
    ("Trigger", "metricType"): ("AverageValue", "Value", "Utilization"),
    ("AuthenticationRef", "kind"): ("TriggerAuthentication", "ClusterTriggerAuthentication"),
    ("Fallback", "behavior"): ("static", "currentReplicas", "currentReplicasIfHigher", "currentReplicasIfLower"),
    ("GatewayTLS", "mode"): ("Terminate", "Passthrough"),
    ("MutatingWebhook", "failurePolicy"): ("Fail", "Ignore"),
    ("ValidatingWebhook", "failurePolicy"): ("Fail", "Ignore"),
}  # fmt: skip
"""Values that a field may have, by its type and name."""

_HANDLERS: Final = ("exec", "httpGet", "tcpSocket")
_VOLUMES: Final = (
    "awsElasticBlockStore", "azureDisk", "azureFile", "cephfs", "cinder", "configMap", "csi", "downwardAPI",
    "emptyDir", "ephemeral", "fc", "flexVolume", "flocker", "gcePersistentDisk", "gitRepo", "glusterfs",
    "hostPath", "image", "iscsi", "nfs", "persistentVolumeClaim", "photonPersistentDisk", "portworxVolume",
    "projected", "quobyte", "rbd", "scaleIO", "secret", "storageos", "vsphereVolume",
)  # fmt: skip

EXACTLY_ONE: Final[Mapping[str, tuple[str, ...]]] = {
    "Volume": _VOLUMES,
    "Probe": (*_HANDLERS, "grpc"),
    "LifecycleHandler": (*_HANDLERS, "sleep"),
    "EnvVarSource": ("fieldRef", "resourceFieldRef", "configMapKeyRef", "secretKeyRef", "fileKeyRef"),
    "EnvFromSource": ("configMapRef", "secretRef"),
    "VolumeProjection": (
        "clusterTrustBundle",
        "configMap",
        "downwardAPI",
        "podCertificate",
        "secret",
        "serviceAccountToken",
    ),
    "DownwardAPIVolumeFile": ("fieldRef", "resourceFieldRef"),
    "IngressBackend": ("service", "resource"),
    "ServiceBackendPort": ("name", "number"),
    "ContainerRestartRule": ("exitCodes",),
    "PromRule": ("alert", "record"),
}
"""Of these fields of a type one must be there, and no second one."""

AT_MOST_ONE: Final[Mapping[str, tuple[tuple[str, ...], ...]]] = {
    "EnvVar": (("value", "valueFrom"),),
    "PodDisruptionBudgetSpec": (("minAvailable", "maxUnavailable"),),
    "NetworkPolicyPeer": (("ipBlock", "podSelector"), ("ipBlock", "namespaceSelector")),
    "VolumeMount": (("subPath", "subPathExpr"),),
    "MetricTarget": (("value", "averageValue", "averageUtilization"),),
}
"""Of these fields of a type one may be there."""

OTHER_KINDS: Final[Mapping[str, frozenset[str]]] = {
    "monitoring.coreos.com": frozenset(
        {"Alertmanager", "AlertmanagerConfig", "Probe", "Prometheus", "PrometheusAgent", "ScrapeConfig", "ThanosRuler"}
    ),
    "keda.sh": frozenset({"ScaledJob"}),
    "gateway.networking.k8s.io": frozenset(
        {"GatewayClass", "ReferenceGrant", "TCPRoute", "TLSRoute", "UDPRoute", "BackendTLSPolicy", "ListenerSet"}
    ),
    "serving.kserve.io": frozenset(
        {"ServingRuntime", "ClusterServingRuntime", "InferenceGraph", "TrainedModel", "LLMInferenceService"}
    ),
}
"""Kinds of custom groups that are real, and whose fields the linter doesn't know."""

DEFAULTED: Final = frozenset({("RoleRef", "apiGroup")})
"""Fields that the schema calls required, and that the API server fills in where they are missing."""

WIDE: Final = frozenset(
    {"activeDeadlineSeconds", "capacity", "count", "defaultUser", "deletionGracePeriodSeconds", "expirationSeconds",
     "fsGroup", "generation", "gid", "gracePeriodSeconds", "limit", "maxItems", "maxLength", "maxProperties",
     "minItems", "minLength", "minProperties", "nodeAllocatableUpdatePeriodSeconds", "observedGeneration",
     "remainingItemCount", "resourceSliceCount", "revision", "runAsGroup", "runAsUser", "seconds", "sizeBytes",
     "startingDeadlineSeconds", "supplementalGroups", "terminationGracePeriodSeconds", "tolerationSeconds", "uid",
     "user"}
)  # fmt: skip
"""Whole numbers of 64 bits; all others of Kubernetes' own have 32."""

KEYS: Final[Mapping[tuple[str, str], tuple[str, ...]]] = {
    ("PodSpec", "volumes"): ("name",),
    ("PodSpec", "hostAliases"): ("ip",),
    ("PodSpec", "topologySpreadConstraints"): ("topologyKey", "whenUnsatisfiable"),
    ("Container", "volumeMounts"): ("mountPath",),
    ("Container", "volumeDevices"): ("devicePath",),
    ("ServiceSpec", "ports"): ("port", "protocol"),
    ("NetworkPolicySpec", "policyTypes"): (),
    ("PersistentVolumeClaimSpec", "accessModes"): (),
    ("Capabilities", "add"): (),
    ("Capabilities", "drop"): (),
    ("GatewaySpec", "listeners"): ("name",),
    ("PrometheusRuleSpec", "groups"): ("name",),
}
"""Lists whose items differ in these fields; in themselves where there are none."""

DEFAULTS: Final[Mapping[str, str]] = {"protocol": "TCP", "hostIP": "", "hostPort": ""}
"""What counts where such a field isn't there."""
