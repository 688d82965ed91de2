"""Rules on what probes do to a server: whether it lives through its start, and what it is killed for."""

import math
from collections.abc import Iterator, Mapping
from typing import Final

from deploykit.deploy.check.commands import parse
from deploykit.deploy.check.finding import Finding
from deploykit.deploy.check.manifests import Manifests
from deploykit.deploy.check.probing import Probe, probes, probes_of
from deploykit.deploy.check.workloads import (
    behind,
    called,
    servers,
    services_of,
)
from deploykit.deploy.facts import ModelFacts

_READY: Final[Mapping[str, tuple[str, ...]]] = {
    "serve": ("/v2/health/ready",), "gateway": ("/health",), "tritonserver": ("/v2/health/ready",),
}  # fmt: skip
"""Paths that turn red while the process itself is well."""
_LIVE: Final[Mapping[str, tuple[str, ...]]] = {"serve": ("/v2/health/live",), "gateway": ("/health/live",)}
"""Paths that are green before anything can be answered."""


def liveness_on_readiness(manifests: Manifests, _facts: ModelFacts | None) -> Iterator[Finding]:
    """A liveness probe of a path that is red while models load: recovering ends in being killed."""
    for probe in probes(manifests, "livenessProbe"):
        for target, server, name in probe.reached():
            if target.protocol != "http":
                continue
            path = target.path.partition("?")[0]
            if path not in _READY[server.kind] and not (name == "http" and path.endswith("/ready")):
                continue
            cause = "Triton is away or its models load" if server.kind == "gateway" else "models load again"
            yield probe.pods.resource.find(
                "liveness-on-readiness", target.path_field, target.path,
                f"{called(server)} answers 503 there whenever {cause}, and would be killed after {probe.window} s of "
                "it, which makes it take longer",
                f"write {'/health/live' if server.kind == 'gateway' else '/v2/health/live'}",
                level="warning" if server.kind == "tritonserver" else "error",
            )  # fmt: skip


def readiness_on_liveness(manifests: Manifests, _facts: ModelFacts | None) -> Iterator[Finding]:
    """A readiness probe of a path that is green before the models are there: callers come too early."""
    for probe in probes(manifests, "readinessProbe"):
        for target, server, _ in probe.reached():
            if target.protocol == "http" and target.path.partition("?")[0] in _LIVE.get(server.kind, ()):
                yield probe.pods.resource.find(
                    "readiness-on-liveness", target.path_field, target.path,
                    f"{called(server)} answers 200 there while models load and while they are away: the pod gets "
                    "requests that fail",
                    f"write {_READY[server.kind][0]}",
                )  # fmt: skip


def liveness_blind(manifests: Manifests, _facts: ModelFacts | None) -> Iterator[Finding]:
    """A liveness probe of Triton's own ports under `deploykit serve`: they stay green over a dead backend."""
    for probe in probes(manifests, "livenessProbe"):
        for target, server, name in probe.reached():
            if server.kind == "serve" and name in ("http", "grpc", "metrics"):
                yield probe.pods.resource.find(
                    "liveness-blind", target.port_field, target.shown,
                    "Triton's own health stays green when the process of its Python backend is dead or hangs; what "
                    f"deploykit serve knows of it is on port health ({server.ports.get('health', 'unknown')})",
                    "probe /v2/health/live of the port health", level="warning",
                )  # fmt: skip


def liveness_hasty(manifests: Manifests, _facts: ModelFacts | None) -> Iterator[Finding]:
    """A liveness probe that kills a model server for one late answer."""
    for probe in probes(manifests, "livenessProbe"):
        if probe.listeners and probe.number("failureThreshold") == 1:
            yield probe.pods.resource.find(
                "liveness-hasty", f"{probe.path}.failureThreshold", 1,
                f"one answer later than {probe.number('timeoutSeconds')} s, as on a busy node, ends all open "
                "streams", "write 3 or more",
                level="warning",
            )  # fmt: skip


def startup_too_short(manifests: Manifests, facts: ModelFacts | None) -> Iterator[Finding]:
    """Less time to start than the model takes to load: the container is killed again and again."""
    for probe in _guarding_start(manifests) if facts else ():
        assert facts is not None
        if probe.budget < 3 * facts.load_seconds:
            needed = math.ceil(3 * facts.load_seconds / probe.number("periodSeconds"))
            sure = probe.budget < facts.load_seconds
            yield probe.pods.resource.find(
                "startup-too-short", f"{probe.path}.failureThreshold", probe.number("failureThreshold"),
                f"the container is killed after {probe.arithmetic}, and the model takes {facts.load_seconds:.1f} s to "
                f"load {'as measured' if facts.load_measured else 'as estimated'}, longer on a busy node",
                f"write failureThreshold: {needed} (three times as "
                "long)" if probe.kind == "startupProbe" else "add a startupProbe",
                level="error" if sure else "warning",
            )  # fmt: skip


def startup_shorter_than_timeout(manifests: Manifests, _facts: ModelFacts | None) -> Iterator[Finding]:
    """A `--startup-timeout` beyond what the startup probe grants: the kubelet ends the start first."""
    for probe in probes(manifests, "startupProbe"):
        server = parse(probe.container)
        if server is None or server.startup_timeout is None or "--startup-timeout" not in server.options:
            continue
        if probe.budget < server.startup_timeout:
            yield probe.pods.resource.find(
                "startup-shorter-than-timeout", f"{probe.path}.failureThreshold", probe.number("failureThreshold"),
                f"the container is killed after {probe.arithmetic}, before --startup-timeout "
                f"{server.startup_timeout:g} s "
                "lets it say why it doesn't start",
                f"raise it to {math.ceil(server.startup_timeout / probe.number('periodSeconds'))}", level="warning",
            )  # fmt: skip


def startup_timeout_too_short(manifests: Manifests, facts: ModelFacts | None) -> Iterator[Finding]:
    """A `--startup-timeout` below the model's load time: the command gives up its own start."""
    for pods in manifests.pods() if facts else ():
        assert facts is not None
        for container, server in servers(pods, "serve"):
            given = server.startup_timeout
            if given is not None and given < 3 * facts.load_seconds:
                yield pods.resource.find(
                    "startup-timeout-too-short", f"{container.path}.{server.field('--startup-timeout')}",
                    f"{given:g} s",
                    f"deploykit serve gives up after it, and the model takes {facts.load_seconds:.1f} s to load",
                    f"write --startup-timeout={math.ceil(3 * facts.load_seconds)}",
                    level="error" if given < facts.load_seconds else "warning",
                )  # fmt: skip


def heartbeat_too_long(manifests: Manifests, _facts: ModelFacts | None) -> Iterator[Finding]:
    """A heartbeat timeout above its default: callers of an engine that hangs wait as long."""
    for pods in manifests.pods():
        for container, server in servers(pods, "serve"):
            if (server.heartbeat_timeout or 0) > 30:
                yield pods.resource.find(
                    "heartbeat-too-long", f"{container.path}.{server.field('--heartbeat-timeout')}",
                    f"{server.heartbeat_timeout:g} "
                    "s", "a backend that hangs is restarted only after it; callers wait as long",
                    "write 30 or less", level="warning",
                )  # fmt: skip


def no_readiness_probe(manifests: Manifests, _facts: ModelFacts | None) -> Iterator[Finding]:
    """A model server behind a Service without a readiness probe: it gets requests before it has loaded."""
    for pods in manifests.pods():
        if not services_of(manifests, pods):
            continue
        for container, server in servers(pods):
            if not container.body.get("readinessProbe"):
                yield pods.resource.find(
                    "no-readiness-probe", f"{container.path}.readinessProbe", None,
                    f"a container without one counts as ready when it starts, and {called(server)} loads its model "
                    "first: a Service sends it requests that fail",
                    "add one", level="warning",
                )  # fmt: skip


def unready_pods_served(manifests: Manifests, _facts: ModelFacts | None) -> Iterator[Finding]:
    """A Service that sends to model servers before they are ready."""
    for service in manifests.of_kind("Service"):
        if service.spec.get("publishNotReadyAddresses") is not True:
            continue
        if any(any(servers(pods)) for pods in behind(manifests, service)):
            why = "pods get requests while they load and while they end: those fail"
            field = "spec.publishNotReadyAddresses"
            yield service.find("unready-pods-served", field, True, why, "take it out", level="warning")


def _guarding_start(manifests: Manifests) -> Iterator[Probe]:
    """Yield the probes that end a start of what loads the model: the startup probe, else a liveness probe."""
    for pods in manifests.pods():
        for container, server in servers(pods, "serve", "tritonserver"):
            first = next(
                probes_of(pods, container, "startupProbe"), next(probes_of(pods, container, "livenessProbe"), None)
            )
            if first is None or not first.listeners:
                continue
            target = first.target
            # What deploykit serve says of its own life is green while it loads.
            patient = server.kind == "serve" and target is not None and target.path.startswith("/v2/health/live")
            if not (patient and all(name == "health" for _, name in first.listeners)):
                yield first


RULES: Final = (
    liveness_on_readiness, readiness_on_liveness, liveness_blind, liveness_hasty, startup_too_short,
    startup_shorter_than_timeout, startup_timeout_too_short, heartbeat_too_long, no_readiness_probe,
    unready_pods_served,
)  # fmt: skip
