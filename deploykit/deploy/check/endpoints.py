"""What a server in a pod asks of others: host and port, from flags and variables."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from deploykit.deploy.check.commands import parse
from deploykit.deploy.check.manifests import Container, Manifests, Pods, Resource, mapping, sequence
from deploykit.listening import is_loopback

_URL: Final = re.compile(
    r"(?P<scheme>[a-z][a-z0-9+.-]*)://+(?:[^/@\s]*@)?(?P<host>\[[^\]]+\]|[^/:\s?#]+)(?::(?P<port>\d{1,5}))?(?:[/?#]|$)"
)
_PORTS: Final = {"http": 80, "https": 443, "s3": 443, "grpc": 50051}
_VARIABLES: Final = (
    "OTEL_EXPORTER_OTLP_ENDPOINT",
    "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT",
    "AWS_ENDPOINT_URL",
    "AWS_ENDPOINT_URL_S3",
)


@dataclass(frozen=True, kw_only=True)
class Endpoint:
    """A place that a container connects to."""

    pods: Pods
    container: Container
    field: str
    host: str
    port: int | None
    text: str
    """As it is written."""

    @property
    def is_own(self) -> bool:
        """Return whether it is the pod itself."""
        return is_loopback(self.host.strip("[]"))

    @property
    def is_name(self) -> bool:
        """Return whether DNS has to be asked for it."""
        return not re.fullmatch(r"[0-9.]+|\[.*\]", self.host) and not self.is_own


def endpoints(manifests: Manifests) -> Iterator[Endpoint]:
    """Yield what deploykit's containers connect to, as far as it can be told."""
    for pods in manifests.pods():
        for container in pods.containers:
            server = parse(container)
            if server is None or server.kind == "tritonserver":
                continue
            if server.triton:
                field = f"{container.path}.{server.field('--triton')}"
                yield from _endpoint(pods, container, field, server.triton)
            if server.kind == "pull" and server.models and server.models[0].startswith("s3://"):
                yield Endpoint(
                    pods=pods, container=container, field=f"{container.path}.args", host="an object store", port=None,
                    text=server.models[0],
                )  # fmt: skip
            for index, entry in enumerate(map(mapping, sequence(container.body.get("env")))):
                if entry.get("name") in _VARIABLES and isinstance(entry.get("value"), str):
                    yield from _endpoint(pods, container, f"{container.path}.env[{index}].value", entry["value"])


def service_named(manifests: Manifests, host: str, namespace: str) -> Resource | None:
    """Return the Service of the set that a pod of a namespace means by `name`, `name.namespace.svc` and so on."""
    name, _, rest = host.partition(".")
    where, _, tail = rest.partition(".")
    if tail not in ("", "svc", "svc.cluster.local", "svc.cluster.local."):
        return None
    return manifests.find("Service", name, where or namespace)


def _endpoint(pods: Pods, container: Container, field: str, text: str) -> Iterator[Endpoint]:
    found = _URL.match(text) or re.fullmatch(r"(?P<host>\[[^\]]+\]|[^/:\s]+)(?::(?P<port>\d{1,5}))?", text)
    if found:
        scheme = found.groupdict().get("scheme") or ""
        port = int(found["port"]) if found["port"] else _PORTS.get(scheme)
        yield Endpoint(pods=pods, container=container, field=field, host=found["host"], port=port, text=text)
