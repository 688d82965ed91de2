"""Custom resources that often stand beside a model, as far as the linter understands their fields."""

from typing import Any, Final

from lightkube.models.meta_v1 import LabelSelector, ObjectMeta
from msgspec import Struct


class Open(Struct, rename="camel"):
    """A type with more fields than these."""


class Resource(Open):
    """What all of them have."""

    api_version: str
    kind: str
    metadata: ObjectMeta


class ScaleTarget(Open):
    """What a ScaledObject scales."""

    name: str
    api_version: str | None = None
    kind: str | None = None
    env_source_container_name: str | None = None


class AuthenticationRef(Open):
    """A TriggerAuthentication, or one of the whole cluster."""

    name: str
    kind: str | None = None


class Trigger(Open):
    """What a ScaledObject scales by."""

    type: str
    metadata: dict[str, Any]
    name: str | None = None
    metric_type: str | None = None
    use_cached_metrics: bool | None = None
    authentication_ref: AuthenticationRef | None = None


class Fallback(Open):
    """What counts while a trigger fails."""

    failure_threshold: int
    replicas: int
    behavior: str | None = None


class ScaledObjectSpec(Open):
    """https://keda.sh/docs/latest/reference/scaledobject-spec/."""

    scale_target_ref: ScaleTarget
    triggers: list[Trigger]
    polling_interval: int | None = None
    initial_cooldown_period: int | None = None
    cooldown_period: int | None = None
    idle_replica_count: int | None = None
    min_replica_count: int | None = None
    max_replica_count: int | None = None
    advanced: dict[str, Any] | None = None
    fallback: Fallback | None = None


class ScaledObject(Resource):
    """KEDA's scaler."""

    spec: ScaledObjectSpec


class SecretTarget(Open):
    """A key of a Secret that a trigger's parameter comes from."""

    parameter: str
    name: str
    key: str


class ConfigMapTarget(Open):
    """A key of a ConfigMap that a trigger's parameter comes from."""

    parameter: str
    name: str
    key: str


class TriggerAuthenticationSpec(Open):
    """https://keda.sh/docs/latest/concepts/authentication/."""

    secret_target_ref: list[SecretTarget] | None = None
    config_map_target_ref: list[ConfigMapTarget] | None = None
    env: list[dict[str, Any]] | None = None


class TriggerAuthentication(Resource):
    """Credentials of KEDA's triggers."""

    spec: TriggerAuthenticationSpec


class NamespaceSelector(Open):
    """The namespaces in which a monitor looks."""

    any: bool | None = None
    match_names: list[str] | None = None


class Endpoint(Open):
    """What Prometheus scrapes of a pod."""

    port: str | None = None
    port_number: int | None = None
    target_port: int | str | None = None
    path: str | None = None
    scheme: str | None = None
    interval: str | None = None
    scrape_timeout: str | None = None
    honor_labels: bool | None = None
    params: dict[str, Any] | None = None
    relabelings: list[Any] | None = None
    metric_relabelings: list[Any] | None = None


class PodMonitorSpec(Open):
    """Of monitoring.coreos.com/v1."""

    selector: LabelSelector
    pod_metrics_endpoints: list[Endpoint] | None = None
    namespace_selector: NamespaceSelector | None = None
    job_label: str | None = None
    pod_target_labels: list[str] | None = None


class PodMonitor(Resource):
    """Pods that Prometheus scrapes."""

    spec: PodMonitorSpec


class ServiceMonitorSpec(Open):
    """Of monitoring.coreos.com/v1."""

    endpoints: list[Endpoint]
    selector: LabelSelector
    namespace_selector: NamespaceSelector | None = None
    job_label: str | None = None
    target_labels: list[str] | None = None
    pod_target_labels: list[str] | None = None


class ServiceMonitor(Resource):
    """Services whose pods Prometheus scrapes."""

    spec: ServiceMonitorSpec


class PromRule(Open):
    """An alert, or a query that is recorded."""

    expr: str | int
    alert: str | None = None
    record: str | None = None
    labels: dict[str, Any] | None = None
    annotations: dict[str, Any] | None = None


class RuleGroup(Open):
    """Rules that are looked at together."""

    name: str
    rules: list[PromRule] | None = None
    interval: str | None = None
    limit: int | None = None


class PrometheusRuleSpec(Open):
    """Of monitoring.coreos.com/v1."""

    groups: list[RuleGroup] | None = None


class PrometheusRule(Resource):
    """Alerts."""

    spec: PrometheusRuleSpec


class ParentRef(Open):
    """The Gateway that a route hangs on."""

    name: str
    group: str | None = None
    kind: str | None = None
    namespace: str | None = None
    section_name: str | None = None
    port: int | None = None


class BackendRef(Open):
    """Where a route sends requests."""

    name: str
    group: str | None = None
    kind: str | None = None
    namespace: str | None = None
    port: int | None = None
    weight: int | None = None
    filters: list[Any] | None = None


class RouteRule(Open):
    """Requests, and where they go."""

    name: str | None = None
    matches: list[Any] | None = None
    filters: list[Any] | None = None
    backend_refs: list[BackendRef] | None = None
    timeouts: dict[str, Any] | None = None


class RouteSpec(Open):
    """Of gateway.networking.k8s.io/v1."""

    parent_refs: list[ParentRef] | None = None
    hostnames: list[str] | None = None
    rules: list[RouteRule] | None = None


class HTTPRoute(Resource):
    """Where HTTP requests go."""

    spec: RouteSpec


class GRPCRoute(Resource):
    """Where gRPC calls go."""

    spec: RouteSpec


class Certificate(Open):
    """A Secret with a certificate."""

    name: str
    group: str | None = None
    kind: str | None = None
    namespace: str | None = None


class GatewayTLS(Open):
    """How a listener ends TLS."""

    mode: str | None = None
    certificate_refs: list[Certificate] | None = None


class Listener(Open):
    """A port of a Gateway."""

    name: str
    port: int
    protocol: str
    hostname: str | None = None
    tls: GatewayTLS | None = None


class GatewaySpec(Open):
    """Of gateway.networking.k8s.io/v1."""

    gateway_class_name: str
    listeners: list[Listener]


class Gateway(Resource):
    """Where routes hang."""

    spec: GatewaySpec


class InferenceServiceSpec(Open):
    """Of serving.kserve.io/v1beta1."""

    predictor: dict[str, Any]
    transformer: dict[str, Any] | None = None
    explainer: dict[str, Any] | None = None


class InferenceService(Resource):
    """A model of KServe."""

    spec: InferenceServiceSpec


CUSTOM: Final[dict[tuple[str, str], type[Struct]]] = {
    ("keda.sh/v1alpha1", "ScaledObject"): ScaledObject,
    ("keda.sh/v1alpha1", "TriggerAuthentication"): TriggerAuthentication,
    ("keda.sh/v1alpha1", "ClusterTriggerAuthentication"): TriggerAuthentication,
    ("monitoring.coreos.com/v1", "PodMonitor"): PodMonitor,
    ("monitoring.coreos.com/v1", "ServiceMonitor"): ServiceMonitor,
    ("monitoring.coreos.com/v1", "PrometheusRule"): PrometheusRule,
    ("gateway.networking.k8s.io/v1", "HTTPRoute"): HTTPRoute,
    ("gateway.networking.k8s.io/v1beta1", "HTTPRoute"): HTTPRoute,
    ("gateway.networking.k8s.io/v1", "GRPCRoute"): GRPCRoute,
    ("gateway.networking.k8s.io/v1", "Gateway"): Gateway,
    ("gateway.networking.k8s.io/v1beta1", "Gateway"): Gateway,
    ("serving.kserve.io/v1beta1", "InferenceService"): InferenceService,
}
"""By apiVersion and kind."""
