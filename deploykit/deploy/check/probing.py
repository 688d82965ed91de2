"""Probes as the kubelet reads them: numbers with their defaults, and where they knock."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal

from deploykit.deploy.check.amounts import whole
from deploykit.deploy.check.commands import Server
from deploykit.deploy.check.manifests import Container, Manifests, Pods, mapping, sequence
from deploykit.deploy.check.workloads import listeners, named_port

KINDS: Final = ("startupProbe", "readinessProbe", "livenessProbe")
HANDLERS: Final = ("httpGet", "tcpSocket", "grpc", "exec")
DEFAULTS: Final[Mapping[str, int]] = {
    "initialDelaySeconds": 0, "periodSeconds": 10, "timeoutSeconds": 1, "successThreshold": 1, "failureThreshold": 3,
}  # fmt: skip
"""What the API server writes where nothing stands, or 0."""
_OWN_URL: Final = re.compile(
    r"(?P<scheme>https?)://(?:localhost|127\.0\.0\.1|\[::1\]|0\.0\.0\.0):(?P<port>\d{1,5})(?P<path>/[^\s'\"|;&]*)?"
)


@dataclass(frozen=True, kw_only=True)
class Target:
    """Where a probe knocks."""

    protocol: Literal["http", "tcp", "grpc"]
    port: int
    path: str
    host: str
    scheme: str
    port_field: str
    path_field: str
    shown: object
    """The port as it is written."""


@dataclass(frozen=True, kw_only=True)
class Probe:
    """A probe of a container."""

    pods: Pods
    container: Container
    kind: str
    body: Mapping[str, Any]

    @property
    def path(self) -> str:
        """Path of the probe in its object."""
        return f"{self.container.path}.{self.kind}"

    @property
    def handlers(self) -> list[str]:
        """Return the kinds of handler that it has."""
        return [name for name in HANDLERS if self.body.get(name) is not None]

    def number(self, field: str) -> int:
        """Return one of its numbers, the API's default where there is none."""
        return whole(self.body.get(field)) or DEFAULTS[field]

    @property
    def budget(self) -> int:
        """Seconds from the container's start to the failure that counts."""
        return self.number("initialDelaySeconds") + self.window

    @property
    def window(self) -> int:
        """Seconds from the first failure in a row to the one that counts."""
        return self.number("periodSeconds") * self.number("failureThreshold")

    @property
    def arithmetic(self) -> str:
        """How the budget comes about."""
        delay = self.number("initialDelaySeconds")
        times = f"{self.number('periodSeconds')} s x {self.number('failureThreshold')} = {self.budget} s"
        return f"{delay} s + {times}" if delay else times

    @property
    def target(self) -> Target | None:
        """Where it knocks in its own pod; None where it can't be told."""
        name = next(iter(self.handlers), "")
        return self._of_command() if name == "exec" else self._of_handler(name) if name else None

    def _of_handler(self, name: str) -> Target | None:
        body = mapping(self.body.get(name))
        value = body.get("port")
        declared = named_port(self.container, value) if isinstance(value, str) else None
        port = whole(declared.get("containerPort")) if declared is not None else whole(value)
        if port is None:
            return None
        return Target(
            protocol={"httpGet": "http", "grpc": "grpc"}.get(name, "tcp"),  # type: ignore[arg-type]
            port=port,
            # The kubelet puts the first slash before a path that has none.
            path=f"/{str(body.get('path') or '').removeprefix('/')}",
            host=str(body.get("host") or ""),
            scheme=str(body.get("scheme") or "HTTP").upper(),
            port_field=f"{self.path}.{name}.port",
            path_field=f"{self.path}.{name}.path",
            shown=value,
        )

    def _of_command(self) -> Target | None:
        text = " ".join(str(word) for word in sequence(mapping(self.body.get("exec")).get("command")))
        found = _OWN_URL.search(text)
        field = f"{self.path}.exec.command"
        return found and Target(
            protocol="http",
            port=int(found["port"]),
            path=found["path"] or "/",
            host="localhost",
            scheme=found["scheme"].upper(),
            port_field=field,
            path_field=field,
            shown=found[0],
        )

    def reached(self) -> Iterator[tuple[Target, Server, str]]:
        """Yield where it knocks, with each of `listeners` there."""
        if target := self.target:
            yield from ((target, server, name) for server, name in self.listeners)

    @property
    def listeners(self) -> list[tuple[Server, str]]:
        """Return the known servers of the pod that listen where it knocks, with the port's name in their command."""
        target = self.target
        return [(server, name) for _, server, name in listeners(self.pods, target.port)] if target else []


def probes(manifests: Manifests, *kinds: str) -> Iterator[Probe]:
    """Yield every probe."""
    for pods in manifests.pods():
        for container in pods.containers:
            yield from probes_of(pods, container, *kinds)


def probes_of(pods: Pods, container: Container, *kinds: str) -> Iterator[Probe]:
    """Yield the probes of a container."""
    for kind in kinds or KINDS:
        body = container.body.get(kind)
        if isinstance(body, dict):
            yield Probe(pods=pods, container=container, kind=kind, body=body)
