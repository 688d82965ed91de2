"""Rules on probes: whether they can pass, and whether they fail when they should."""

import re
from collections.abc import Iterator
from typing import Final

from deploykit.deploy.check.amounts import whole
from deploykit.deploy.check.commands import parse
from deploykit.deploy.check.finding import Finding, Level
from deploykit.deploy.check.manifests import Manifests, mapping, sequence
from deploykit.deploy.check.probing import DEFAULTS, Probe, Target, probes
from deploykit.deploy.check.workloads import (
    called,
    declared,
    is_open,
    is_sidecar,
    named_port,
    says_its_ports,
    stays,
)
from deploykit.deploy.facts import ModelFacts

_LOOPBACK: Final = ("localhost", "127.0.0.1", "::1")


def probe_numbers(manifests: Manifests, _facts: ModelFacts | None) -> Iterator[Finding]:
    """A negative number in a probe, which the API server refuses, or a 0, which it takes for the default."""
    for probe in probes(manifests):
        for field, default in DEFAULTS.items():
            value = whole(probe.body.get(field))
            where = f"{probe.path}.{field}"
            if value is not None and value < 0:
                why = "the API server refuses a negative number"
                yield probe.pods.resource.find("probe-numbers", where, value, why, f"write {default or 0} or more")
            elif value == 0 and default:
                why = f"0 counts as not given, so that {default} holds"
                remedy = f"write {default}, or what is meant"
                yield probe.pods.resource.find("probe-numbers", where, value, why, remedy, level="warning")


def probe_success_threshold(manifests: Manifests, _facts: ModelFacts | None) -> Iterator[Finding]:
    """A startup or liveness probe that wants more than one success: the API server refuses it."""
    for probe in probes(manifests, "startupProbe", "livenessProbe"):
        if probe.number("successThreshold") > 1:
            yield probe.pods.resource.find(
                "probe-success-threshold", f"{probe.path}.successThreshold", probe.body["successThreshold"],
                f"the API server takes nothing but 1 for a {probe.kind}", "write 1, or take it out",
            )  # fmt: skip


def probe_timeout(manifests: Manifests, _facts: ModelFacts | None) -> Iterator[Finding]:
    """A probe that may take longer than its period: failures are counted later than the numbers say."""
    for probe in probes(manifests):
        timeout, period = probe.number("timeoutSeconds"), probe.number("periodSeconds")
        if timeout > period:
            yield probe.pods.resource.find(
                "probe-timeout", f"{probe.path}.timeoutSeconds", timeout,
                f"one answer may take longer than periodSeconds = {period}: the next probe waits for it, and "
                f"{probe.number('failureThreshold')} failures take up to {timeout * probe.number('failureThreshold')} "
                "s",
                f"write {period} at most", level="warning",
            )  # fmt: skip


def probe_grace(manifests: Manifests, _facts: ModelFacts | None) -> Iterator[Finding]:
    """A probe's own grace period where there can be none: the API server refuses it."""
    for probe in probes(manifests):
        grace = whole(probe.body.get("terminationGracePeriodSeconds"))
        if grace is None or (grace > 0 and probe.kind != "readinessProbe"):
            continue
        why = "a readiness probe ends nothing, so it has none" if grace > 0 else "it must be more than 0"
        field = f"{probe.path}.terminationGracePeriodSeconds"
        yield probe.pods.resource.find("probe-grace", field, grace, f"{why}; the API server refuses it", "take it out")


def probe_on_init_container(manifests: Manifests, _facts: ModelFacts | None) -> Iterator[Finding]:
    """A probe of an init container that ends before the others begin: the API server refuses it."""
    for probe in probes(manifests):
        if not stays(probe.container):
            yield probe.pods.resource.find(
                "probe-on-init-container", probe.path, probe.container.name,
                "an init container ends before the others start, and may have no probes unless its restartPolicy is "
                "Always; the API server refuses it",
                "take it out",
            )  # fmt: skip


def probe_port_name(manifests: Manifests, _facts: ModelFacts | None) -> Iterator[Finding]:
    """A probe that names a port which its own container doesn't declare: it fails for ever."""
    for probe in probes(manifests):
        for handler in ("httpGet", "tcpSocket"):
            value = mapping(probe.body.get(handler)).get("port")
            if not isinstance(value, str) or named_port(probe.container, value) is not None:
                continue
            names = ", ".join(str(port["name"]) for port in declared(probe.container) if port.get("name")) or "none"
            field = f"{probe.path}.{handler}.port"
            if value.isdigit():
                why = "in quotes it is a name, which must hold a letter; the API server refuses it"
                yield probe.pods.resource.find(
                    "probe-port-name", field, f'"{value}"', why, f"write {value} without quotes"
                )
            else:
                why = (
                    f"container {probe.container.name!r} declares no port of that name (it has: {names}), so the "
                    "probe fails"
                )
                yield probe.pods.resource.find("probe-port-name", field, value, why, "name one of its ports")


def probe_port_range(manifests: Manifests, _facts: ModelFacts | None) -> Iterator[Finding]:
    """A probe's port outside 1 to 65535: the API server refuses it."""
    for probe in probes(manifests):
        target = probe.target
        if target and isinstance(target.shown, int) and not 1 <= target.port <= 65535:
            why = "ports are 1 to 65535; the API server refuses it"
            yield probe.pods.resource.find(
                "probe-port-range", target.port_field, target.port, why, "write the server's port"
            )


def probe_port_closed(manifests: Manifests, _facts: ModelFacts | None) -> Iterator[Finding]:
    """A probe of a port on which the container's command doesn't listen: it fails for ever."""
    for probe in probes(manifests):
        target, server = probe.target, parse(probe.container)
        if (
            target is None
            or server is None
            or not says_its_ports(server)
            or probe.listeners
            or _elsewhere(probe, target)
        ):
            continue
        ports = ", ".join(f"{name} {number}" for name, number in server.ports.items())
        level: Level = "warning" if is_open(probe.pods) else "error"
        yield probe.pods.resource.find(
            "probe-port-closed", target.port_field, target.shown,
            f"nothing listens on {target.port}: {called(server)} listens on {ports}, so the probe fails",
            "name the port that answers the path", level=level,
        )  # fmt: skip


def probe_path(manifests: Manifests, _facts: ModelFacts | None) -> Iterator[Finding]:
    """A probe of a path that the port doesn't answer: every answer is 404 or 401."""
    for probe in probes(manifests):
        for target, server, name in probe.reached():
            if target.protocol != "http" or name == "grpc" or name not in server.paths:
                continue
            guarded = any(target.path.partition("?")[0] == path for path in server.guarded)
            if server.answers(name, target.path) and not (guarded and not _has_key(probe)):
                continue
            status = "401, for want of a key" if server.answers(name, target.path) else "404"
            paths = " and ".join(path for path in server.paths[name] if "*" not in path and path not in server.guarded)
            yield probe.pods.resource.find(
                "probe-path", target.path_field, target.path,
                f"{called(server)} answers it with {status} on its port {name} ({target.port}), so the probe fails",
                f"write one of its own: {paths}",
            )  # fmt: skip


def probe_protocol(manifests: Manifests, _facts: ModelFacts | None) -> Iterator[Finding]:
    """A probe in a protocol that the port doesn't speak: HTTP to gRPC, gRPC to HTTP, or TLS."""
    for probe in probes(manifests):
        for target, server, name in probe.reached():
            speaks = "gRPC" if name == "grpc" else "HTTP"
            wants = {"http": "HTTP", "grpc": "gRPC", "tcp": speaks}[target.protocol]
            tls = target.scheme == "HTTPS" and target.protocol == "http" and name != "grpc"
            if wants == speaks and not tls:
                continue
            field = f"{probe.path}.httpGet.scheme" if tls else target.port_field
            asked = "HTTPS" if tls else wants
            yield probe.pods.resource.find(
                "probe-protocol", field, "HTTPS" if tls else target.shown,
                f"the probe speaks {asked}, and {called(server)} speaks plain {speaks} on its port {name} "
                f"({target.port}), so it fails",
                f"write {'scheme: HTTP' if tls else 'the port that speaks ' + wants}",
            )  # fmt: skip


def probe_host(manifests: Manifests, _facts: ModelFacts | None) -> Iterator[Finding]:
    """A probe with a loopback host: the kubelet knocks at the node itself, not at the pod."""
    for probe in probes(manifests):
        target = probe.target
        if target is None or "exec" in probe.handlers or probe.pods.spec.get("hostNetwork") is True:
            continue
        if target.host in _LOOPBACK:
            field = target.port_field.removesuffix("port") + "host"
            yield probe.pods.resource.find(
                "probe-host", field, target.host,
                "the kubelet knocks at that address of the node, where this pod doesn't "
                "listen", "take it out: the pod's address is the default",
                level="error" if parse(probe.container) else "warning",
            )  # fmt: skip


def probe_reaches_loopback(manifests: Manifests, _facts: ModelFacts | None) -> Iterator[Finding]:
    """A probe of a server that listens on the pod's loopback alone: the kubelet can't reach it."""
    for probe in probes(manifests):
        target = probe.target
        if target is None or "exec" in probe.handlers or target.host in _LOOPBACK or probe.pods.spec.get("hostNetwork"):
            continue
        for server, name in probe.listeners:
            if server.hosts.get(name) in _LOOPBACK:
                yield probe.pods.resource.find(
                    "probe-reaches-loopback", target.port_field, target.shown,
                    f"{called(server)} listens on {server.hosts[name]}"
                    f"{'' if '--host' in server.options else ' (its default)'}, and the kubelet knocks at the pod's "
                    "address: the probe fails",
                    "add --host=0.0.0.0 to the command",
                )  # fmt: skip


def probe_command(manifests: Manifests, _facts: ModelFacts | None) -> Iterator[Finding]:
    """A probe's command that can't be run: nothing at all, or a whole line as one word, with no shell to split it."""
    for probe in probes(manifests):
        body = probe.body.get("exec")
        if body is None:
            continue
        words = sequence(mapping(body).get("command"))
        field = f"{probe.path}.exec.command"
        if not words:
            yield probe.pods.resource.find("probe-command", field, None, "the API server wants a command", "write one")
        elif len(words) == 1 and re.search(r"\S\s+\S", str(words[0])):
            why = "no shell splits it, and there is no program of that name: the probe fails"
            yield probe.pods.resource.find(
                "probe-command", field, words[0], why, "write each word by itself, or [sh, -c, …]"
            )


def _elsewhere(probe: Probe, target: Target) -> bool:
    """Return whether another container of the pod declares the port, or the probe knocks at another host."""
    if target.host and target.host not in _LOOPBACK:
        return True
    return any(
        port.get("containerPort") == target.port
        for other in probe.pods.containers
        if other.path != probe.container.path and (stays(other) or is_sidecar(other)) and parse(other) is None
        for port in declared(other)
    )


def _has_key(probe: Probe) -> bool:
    headers = sequence(mapping(probe.body.get("httpGet")).get("httpHeaders"))
    return "exec" in probe.handlers or any(
        str(mapping(each).get("name")).lower() == "authorization" for each in headers
    )


RULES: Final = (
    probe_numbers, probe_success_threshold, probe_timeout, probe_grace, probe_on_init_container,
    probe_port_name, probe_port_range, probe_port_closed, probe_path, probe_protocol, probe_host,
    probe_reaches_loopback, probe_command,
)  # fmt: skip
