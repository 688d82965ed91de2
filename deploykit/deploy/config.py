"""What a user can choose of a deployment."""

from dataclasses import dataclass
from typing import Final, Literal, get_args

from deploykit.config import EngineConfig, GatewayConfig, ServeConfig
from deploykit.deploy.grammar import (
    MIG,
    check_address,
    check_image,
    check_label,
    check_name,
    check_object,
    check_store,
)
from deploykit.errors import ConfigError

Delivery = Literal["image", "pvc", "s3", "volume"]
Scaling = Literal["hpa", "keda", "none"]

_BOUNDS: Final = {
    "replicas": (1, 10_000),
    "max_replicas": (1, 10_000),
    "cpu": (1, 256),
    "pre_stop": (1, 600),
    "exit_timeout": (1, 3600),
}
"""The least and the most of a number: beyond that no cluster has the nodes, or no one waits for a pod to end."""


@dataclass(frozen=True, kw_only=True)
class DeployConfig:
    """How a model is to run in a cluster."""

    image: str | None = None
    """The image that runs, `REPO@sha256:…` or `REPO:TAG`; `deploykit-NAME:VERSION`, as one builds it, where None."""
    image_pull_secret: str | None = None
    """The Secret with which nodes get images from a private registry; theirs is the right to do so where None."""
    namespace: str | None = None
    """A namespace that is there; one of the model's own, written beside the rest, where None."""
    delivery: Delivery = "image"
    """How the model's files get to the pod: `image` in the image that runs, `pvc` on a read-only claim, `s3` downloaded
    and checked by an init container, `volume` as an image mounted by itself (Kubernetes 1.33
    with the feature gate ImageVolume, 1.35 without)."""
    source: str | None = None
    """Where from: the claim's name for `pvc`, `s3://BUCKET/PATH` for `s3`, an image for `volume`."""
    scaling: Scaling = "none"
    """Who sets the number of pods: a HorizontalPodAutoscaler, KEDA, or nobody."""
    replicas: int = 2
    """Pods, or the fewest of them where something scales."""
    max_replicas: int = 8
    """The most pods where something scales."""
    monitoring: bool = False
    """Whether a PodMonitor, alerts and a dashboard are part of it."""
    gateway: bool = False
    """Whether a container with OpenAI's API stands beside Triton."""
    api_keys_secret: str | None = None
    """The Secret whose key `keys` holds the gateway's API keys; `NAME-api-keys` where None."""
    cpu: int = 2
    """Cores of the container that serves; ONNX Runtime gets as many threads."""
    engine: EngineConfig = EngineConfig()
    """Rows, context, cache and the like; `threads` follows `cpu`."""
    pre_stop: int = 15
    """Seconds that a pod serves on after it was asked to end, so that the cluster stops sending first."""
    exit_timeout: int = 30
    """Seconds that open streams get after that."""
    gpu_product: str | None = None
    """The value of the node label `nvidia.com/gpu.product` in overlays with a GPU; any where None."""
    mig_profile: str = "1g.10gb"
    """The slice of a GPU in the overlay `mig`."""
    runtime_class: str | None = None
    """The RuntimeClass in overlays with a GPU; the cluster's own choice where None."""
    monitoring_namespace: str = "monitoring"
    """Where Prometheus runs: it alone may read metrics."""
    prometheus: str = "http://prometheus-operated.monitoring.svc:9090"
    """Where KEDA asks for them."""

    def __post_init__(self) -> None:
        _one_of("delivery", self.delivery, Delivery)
        _one_of("scaling", self.scaling, Scaling)
        for name, (least, most) in _BOUNDS.items():
            if not least <= getattr(self, name) <= most:
                raise ConfigError(f"{name} must be {least} to {most:,}, got {getattr(self, name):,}")
        if self.scaling != "none" and self.replicas < 2:
            raise ConfigError(f"replicas must be at least 2 where {self.scaling} scales, got {self.replicas}")
        if self.max_replicas < self.replicas and self.scaling != "none":
            raise ConfigError(f"max_replicas must be at least replicas, got {self.max_replicas} < {self.replicas}")
        check_name("namespace", self.namespace)
        check_name("monitoring_namespace", self.monitoring_namespace)
        check_object("api_keys_secret", self.api_keys_secret)
        check_object("image_pull_secret", self.image_pull_secret)
        check_object("runtime_class", self.runtime_class)
        check_label("gpu_product", self.gpu_product)
        check_image("image", self.image)
        check_address("prometheus", self.prometheus)
        if not MIG.fullmatch(self.mig_profile):
            raise ConfigError(f"mig_profile must be like 1g.10gb, got {self.mig_profile!r}")
        self._check_used()
        self._check_source()

    def _check_used(self) -> None:
        """Refuse choices that would change nothing, since whoever makes them expects otherwise."""
        if self.scaling == "none":
            for name in ("max_replicas", "prometheus"):
                if getattr(self, name) != getattr(DeployConfig, name):
                    raise ConfigError(f"{name} is for what scales: leave it out, or choose --scaling hpa or keda")
        if self.api_keys_secret is not None and not self.gateway:
            raise ConfigError("api_keys_secret is for the gateway: leave it out, or ask for --gateway")

    def _check_source(self) -> None:
        if self.delivery == "image":
            if self.source is not None:
                raise ConfigError("delivery image takes no source, since the model is in the image; leave it out")
            return
        what = {"pvc": "a claim's name", "s3": "s3://BUCKET/PATH", "volume": "an image"}[self.delivery]
        if self.source is None:
            raise ConfigError(f"delivery {self.delivery} takes {what}: give it as --source")
        check = {"pvc": check_object, "s3": check_store, "volume": check_image}[self.delivery]
        check("source", self.source)


def _one_of(name: str, value: str, choices: object) -> None:
    if value not in get_args(choices):
        raise ConfigError(f"{name} must be one of {', '.join(get_args(choices))}; got {value!r}")


HTTP_PORT: Final = ServeConfig.http_port
GRPC_PORT: Final = ServeConfig.grpc_port
METRICS_PORT: Final = ServeConfig.metrics_port
HEALTH_PORT: Final = ServeConfig.health_port
GATEWAY_PORT: Final = GatewayConfig.port
MODELS: Final = "/models"
"""Where the model repository lies in a container."""
