"""The object by which GKE's ingress is told how to treat a Service.

https://cloud.google.com/kubernetes-engine/docs/how-to/ingress-configuration
"""

from dataclasses import dataclass
from typing import Any

from lightkube.models.meta_v1 import ObjectMeta


@dataclass(frozen=True, kw_only=True)
class BackendConfig:
    """How Google's load balancer asks and waits; a Service names it in an annotation."""

    metadata: ObjectMeta
    timeout: int
    """Seconds until a whole answer must have come; 30 where nothing is said, streams included."""
    draining: int
    """Seconds that open requests get once a pod is taken out."""
    path: str
    """What it asks whether a pod is well."""
    port: int

    def to_dict(self) -> dict[str, Any]:
        """Return it as plain values."""
        return {
            "apiVersion": "cloud.google.com/v1",
            "kind": "BackendConfig",
            "metadata": self.metadata.to_dict(),
            "spec": {
                "timeoutSec": self.timeout,
                "connectionDraining": {"drainingTimeoutSec": self.draining},
                "healthCheck": {"type": "HTTP", "requestPath": self.path, "port": self.port, "checkIntervalSec": 5},
            },
        }
