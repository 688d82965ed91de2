"""Pod Security's profile "restricted", field by field: our pods pass, and each field is looked at."""

import copy
from typing import Any

import pytest
from deployments import OVERLAYS, Object, pod_of
from pod_security import violations


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_every_overlay_is_restricted(overlays: dict[str, list[Object]], overlay: str) -> None:
    assert violations(pod_of(overlays[overlay])) == []


def changed(pod: Object, path: str, value: Any) -> Object:
    """Return a pod with another value at a path; at one of its containers, where that begins with `*`."""
    pod = copy.deepcopy(pod)
    *keys, last = path.removeprefix("*.").split(".")
    place = pod["containers"][0] if path.startswith("*") else pod
    for key in keys:
        place = place.setdefault(key, {})
    if value is None:
        del place[last]
    else:
        place[last] = value
    return pod


@pytest.mark.parametrize(
    ("path", "value", "field"),
    [
        ("hostNetwork", True, "hostNetwork"),
        ("hostPID", True, "hostPID"),
        ("hostIPC", True, "hostIPC"),
        ("volumes", [{"name": "a", "hostPath": {"path": "/"}}], "volumes: hostPath"),
        ("volumes", [{"name": "a", "nfs": {}}], "volumes: nfs"),
        ("securityContext.sysctls", [{"name": "kernel.msgmax", "value": "1"}], "sysctls: kernel.msgmax"),
        ("securityContext.runAsUser", 0, "runAsUser"),
        ("securityContext.seccompProfile", {"type": "Unconfined"}, "seccompProfile"),
        ("securityContext.appArmorProfile", {"type": "Unconfined"}, "appArmorProfile"),
        ("securityContext.seLinuxOptions", {"type": "spc_t"}, "seLinuxOptions"),
        ("securityContext.seLinuxOptions", {"user": "root"}, "seLinuxOptions"),
        ("securityContext.windowsOptions", {"hostProcess": True}, "windowsOptions.hostProcess"),
        ("*.securityContext.privileged", True, "gateway: privileged"),
        ("*.securityContext.allowPrivilegeEscalation", None, "gateway: allowPrivilegeEscalation"),
        ("*.securityContext.allowPrivilegeEscalation", True, "gateway: allowPrivilegeEscalation"),
        ("*.securityContext.capabilities", None, "gateway: capabilities.drop"),
        ("*.securityContext.capabilities", {"drop": ["KILL"]}, "gateway: capabilities.drop"),
        ("*.securityContext.capabilities", {"drop": ["ALL"], "add": ["SYS_PTRACE"]}, "gateway: capabilities.add"),
        ("*.securityContext.procMount", "Unmasked", "gateway: procMount"),
        ("*.securityContext.runAsNonRoot", False, "gateway: runAsNonRoot"),
        ("*.securityContext.runAsUser", 0, "gateway: runAsUser"),
        ("*.securityContext.seccompProfile", {"type": "Unconfined"}, "gateway: seccompProfile"),
        ("*.ports", [{"containerPort": 1, "hostPort": 1}], "gateway: hostPort 1"),
        ("*.livenessProbe.httpGet.host", "10.0.0.1", "gateway: httpGet.host"),
        ("*.lifecycle.preStop.tcpSocket", {"host": "10.0.0.1", "port": 1}, "gateway: tcpSocket.host"),
    ],
)
def test_a_field_that_is_not_restricted_is_noticed(everything: list[Object], path: str, value: Any, field: str) -> None:
    assert pod_of(everything)["containers"][0]["name"] == "gateway"
    assert field in violations(changed(pod_of(everything), path, value))


@pytest.mark.parametrize("missing", ["runAsNonRoot", "seccompProfile"])
def test_what_a_pod_says_for_its_containers_counts(everything: list[Object], missing: str) -> None:
    once = changed(pod_of(everything), f"*.securityContext.{missing}", None)
    assert violations(once) == []
    assert violations(changed(once, f"securityContext.{missing}", None)) == [f"gateway: {missing}"]
