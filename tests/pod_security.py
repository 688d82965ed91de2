"""Kubernetes' Pod Security Standards, profile "restricted" with all of "baseline", as admission applies them.

https://kubernetes.io/docs/concepts/security/pod-security-standards/, of Linux pods, version 1.37.
"""

from collections.abc import Iterator, Mapping
from typing import Any

_VOLUMES = {
    "configMap", "csi", "downwardAPI", "emptyDir", "ephemeral", "persistentVolumeClaim", "projected", "secret",
    # Since 1.33 (kubernetes/kubernetes#130394).
    "image",
}  # fmt: skip
_SELINUX = {"", "container_t", "container_init_t", "container_kvm_t", "container_engine_t"}
_HANDLERS = ("startupProbe", "readinessProbe", "livenessProbe")
_SYSCTLS = {
    "kernel.shm_rmid_forced", "net.ipv4.ip_local_port_range", "net.ipv4.ip_unprivileged_port_start",
    "net.ipv4.tcp_syncookies", "net.ipv4.ping_group_range", "net.ipv4.ip_local_reserved_ports",
    "net.ipv4.tcp_keepalive_time", "net.ipv4.tcp_fin_timeout", "net.ipv4.tcp_keepalive_intvl",
    "net.ipv4.tcp_keepalive_probes", "net.ipv4.tcp_rmem", "net.ipv4.tcp_wmem",
}  # fmt: skip


def violations(pod: Mapping[str, Any]) -> list[str]:
    """Return the fields of a pod's spec that "restricted" refuses."""
    return [*_of_pod(pod), *(f"{body['name']}: {field}" for body in _bodies(pod) for field in _of_container(body, pod))]


def _bodies(pod: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    for kind in ("initContainers", "containers", "ephemeralContainers"):
        yield from pod.get(kind, [])


def _of_pod(pod: Mapping[str, Any]) -> Iterator[str]:
    yield from (field for field in ("hostNetwork", "hostPID", "hostIPC") if pod.get(field))
    for volume in pod.get("volumes", []):
        yield from (f"volumes: {kind}" for kind in volume.keys() - {"name"} - _VOLUMES)
    context = pod.get("securityContext", {})
    yield from (f"sysctls: {each['name']}" for each in context.get("sysctls", []) if each["name"] not in _SYSCTLS)
    yield from _shared(context)


def _of_container(body: Mapping[str, Any], pod: Mapping[str, Any]) -> Iterator[str]:
    context, above = body.get("securityContext", {}), pod.get("securityContext", {})
    capabilities = context.get("capabilities", {})
    if context.get("privileged"):
        yield "privileged"
    if context.get("allowPrivilegeEscalation") is not False:
        yield "allowPrivilegeEscalation"
    if "ALL" not in capabilities.get("drop", []):
        yield "capabilities.drop"
    if set(capabilities.get("add", [])) - {"NET_BIND_SERVICE"}:
        yield "capabilities.add"
    if context.get("procMount", "Default") != "Default":
        yield "procMount"
    if context.get("runAsNonRoot", above.get("runAsNonRoot")) is not True:
        yield "runAsNonRoot"
    if context.get("seccompProfile", above.get("seccompProfile", {})).get("type") not in (
        "RuntimeDefault",
        "Localhost",
    ):
        yield "seccompProfile"
    yield from _shared(context)
    yield from (f"hostPort {port['hostPort']}" for port in body.get("ports", []) if port.get("hostPort"))
    handlers = [*(body.get(each, {}) for each in _HANDLERS), *body.get("lifecycle", {}).values()]
    for handler in handlers:
        yield from (f"{kind}.host" for kind in ("httpGet", "tcpSocket") if handler.get(kind, {}).get("host"))


def _shared(context: Mapping[str, Any]) -> Iterator[str]:
    """Yield what is wrong in a pod's context and in a container's alike."""
    if context.get("runAsUser") == 0:
        yield "runAsUser"
    if context.get("windowsOptions", {}).get("hostProcess"):
        yield "windowsOptions.hostProcess"
    if context.get("seccompProfile", {}).get("type") == "Unconfined":
        yield "seccompProfile"
    if context.get("appArmorProfile", {}).get("type") == "Unconfined":
        yield "appArmorProfile"
    options = context.get("seLinuxOptions", {})
    if options.get("type", "") not in _SELINUX or options.get("user") or options.get("role"):
        yield "seLinuxOptions"
