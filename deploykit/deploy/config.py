"""What a user can choose of a deployment."""

import re
from dataclasses import dataclass
from typing import Final, Literal, get_args

from deploykit.config import EngineConfig, GatewayConfig, ServeConfig
from deploykit.errors import ConfigError

Delivery = Literal["image", "pvc", "s3", "volume"]
Scaling = Literal["hpa", "keda", "none"]

_NAME: Final = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?")
"""A DNS label (RFC 1123), which the names of namespaces and of most objects are."""
_IMAGE: Final = re.compile(r"[a-z0-9][a-z0-9._/:-]*?(@sha256:[0-9a-f]{64}|:[A-Za-z0-9_][A-Za-z0-9._-]{0,127})")
_MIG: Final = re.compile(r"[1-9]g\.[0-9]+gb")


@dataclass(frozen=True, kw_only=True)
class DeployConfig:
    """How a model is to run in a cluster."""

    image: str | None = None
    """The image that runs, `REPO@sha256:…` or `REPO:TAG`; `deploykit-NAME:VERSION`, as one builds it, where None."""
    namespace: str | None = None
    """A namespace that is there; one of the model's own, written beside the rest, where None."""
    delivery: Delivery = "image"
    """How the model's files get to the pod: `image` in the image that runs, `pvc` on a read-only claim, `s3` downloaded
    and checked by an init container, `volume` as an image mounted by itself (Kubernetes 1.35, or a feature gate)."""
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
        for name in ("replicas", "cpu", "pre_stop", "exit_timeout"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} must be at least 1, got {getattr(self, name)}")
        if self.scaling != "none" and self.replicas < 2:
            raise ConfigError(f"replicas must be at least 2 where {self.scaling} scales, got {self.replicas}")
        if self.max_replicas < self.replicas and self.scaling != "none":
            raise ConfigError(f"max_replicas must be at least replicas, got {self.max_replicas} < {self.replicas}")
        for name in ("namespace", "api_keys_secret", "monitoring_namespace"):
            value = getattr(self, name)
            if value is not None and not _NAME.fullmatch(value):
                raise ConfigError(f"{name} must be 1 to 63 of a-z, 0-9 and '-', as Kubernetes names are; got {value!r}")
        if self.image is not None and not _IMAGE.fullmatch(self.image):
            raise ConfigError(f"image must be REPO@sha256:DIGEST or REPO:TAG, got {self.image!r}")
        if not _MIG.fullmatch(self.mig_profile):
            raise ConfigError(f"mig_profile must be like 1g.10gb, got {self.mig_profile!r}")
        self._check_source()

    def _check_source(self) -> None:
        if (self.source is None) != (self.delivery == "image"):
            what = {"pvc": "a claim's name", "s3": "s3://BUCKET/PATH", "volume": "an image", "image": "no --source"}
            raise ConfigError(
                f"delivery {self.delivery} takes {what[self.delivery]}, got {self.source!r}; see --source"
            )
        if self.delivery == "pvc" and not _NAME.fullmatch(self.source or ""):
            raise ConfigError(f"source must be the name of a PersistentVolumeClaim, got {self.source!r}")
        if self.delivery == "s3" and not re.fullmatch(
            r"s3://[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]/[^\s]+", self.source or ""
        ):
            raise ConfigError(f"source must be s3://BUCKET/PATH, got {self.source!r}")
        if self.delivery == "volume" and not _IMAGE.fullmatch(self.source or ""):
            raise ConfigError(f"source must be an image, REPO@sha256:DIGEST or REPO:TAG, got {self.source!r}")


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
