"""Rules on what a container may do: contradictions, and Pod Security's level "restricted" where it counts."""

from collections.abc import Iterator, Mapping
from typing import Any, Final

from deploykit.deploy.check.amounts import whole
from deploykit.deploy.check.finding import Finding, Level
from deploykit.deploy.check.manifests import Container, Manifests, Pods, mapping, sequence
from deploykit.deploy.check.workloads import servers
from deploykit.deploy.facts import ModelFacts

_ENFORCE: Final = "pod-security.kubernetes.io/enforce"
_LEVELS: Final = ("privileged", "baseline", "restricted")
_VOLUMES: Final = (
    "configMap", "csi", "downwardAPI", "emptyDir", "ephemeral", "image", "persistentVolumeClaim", "projected", "secret",
)  # fmt: skip
"""Kinds of volume that "restricted" allows."""
_BASELINE_CAPABILITIES: Final = frozenset({
    "AUDIT_WRITE", "CHOWN", "DAC_OVERRIDE", "FOWNER", "FSETID", "KILL", "MKNOD", "NET_BIND_SERVICE", "SETFCAP",
    "SETGID", "SETPCAP", "SETUID", "SYS_CHROOT",
})  # fmt: skip
_SECCOMP: Final = ("RuntimeDefault", "Localhost")


def root_forbidden(manifests: Manifests, _facts: ModelFacts | None) -> Iterator[Finding]:
    """A container that must not be root and is told to be: it never starts."""
    for pods, container in _containers(manifests):
        user, field = _effective(pods, container, "runAsUser")
        if _effective(pods, container, "runAsNonRoot")[0] is True and whole(user) == 0:
            why = "runAsNonRoot is true: the kubelet refuses to start it"
            yield pods.resource.find("root-forbidden", field, 0, why, "write an ID above 0, such as 10001")


def ids_negative(manifests: Manifests, _facts: ModelFacts | None) -> Iterator[Finding]:
    """A user or group below 0: the API server refuses it."""
    for pods in manifests.pods():
        places = [(f"{pods.path}.securityContext", mapping(pods.spec.get("securityContext")))]
        places += [(f"{each.path}.securityContext", _own(each)) for each in pods.containers]
        for path, context in places:
            for name in ("runAsUser", "runAsGroup", "fsGroup"):
                if (value := whole(context.get(name))) is not None and value < 0:
                    why = "IDs are 0 and more; the API server refuses it"
                    yield pods.resource.find("ids-negative", f"{path}.{name}", value, why, "write 10001")


def privileged_without_escalation(manifests: Manifests, _facts: ModelFacts | None) -> Iterator[Finding]:
    """A container that is privileged, or has CAP_SYS_ADMIN, and must not escalate: the API server refuses it."""
    for pods, container in _containers(manifests):
        context, path = _own(container), f"{container.path}.securityContext"
        if context.get("allowPrivilegeEscalation") is not False:
            continue
        added = sequence(mapping(context.get("capabilities")).get("add"))
        if context.get("privileged") is True or "CAP_SYS_ADMIN" in added:
            why = f"{'privileged is true' if context.get('privileged') else 'CAP_SYS_ADMIN is added'}, which is more; "
            why += "the API server refuses both at once"
            field = f"{path}.allowPrivilegeEscalation"
            yield pods.resource.find("privileged-without-escalation", field, False, why, "take one of them out")


def capability_both_ways(manifests: Manifests, _facts: ModelFacts | None) -> Iterator[Finding]:
    """A capability that is added and dropped, or written in a way that no runtime knows."""
    for pods, container in _containers(manifests):
        capabilities = mapping(_own(container).get("capabilities"))
        dropped = sequence(capabilities.get("drop"))
        for index, name in enumerate(sequence(capabilities.get("add"))):
            field = f"{container.path}.securityContext.capabilities.add[{index}]"
            if name in dropped:
                why = "it is dropped as well, and who wins is the runtime's choice"
                yield pods.resource.find("capability-both-ways", field, name, why, "keep one", level="warning")
        for index, name in enumerate(dropped):
            if isinstance(name, str) and (name.startswith("CAP_") or name.upper() != name):
                why = "Pod Security wants names in capitals and without CAP_: it doesn't count this one"
                field = f"{container.path}.securityContext.capabilities.drop[{index}]"
                remedy = f"write {name.upper().removeprefix('CAP_')}"
                yield pods.resource.find("capability-both-ways", field, name, why, remedy, level="warning")


def seccomp_profile(manifests: Manifests, _facts: ModelFacts | None) -> Iterator[Finding]:
    """A seccomp profile of a file without its name, or with a name and no file: the API server refuses it."""
    for pods in manifests.pods():
        places = [(f"{pods.path}.securityContext", mapping(pods.spec.get("securityContext")))]
        places += [(f"{each.path}.securityContext", _own(each)) for each in pods.containers]
        for path, context in places:
            profile = mapping(context.get("seccompProfile"))
            if profile and (profile.get("type") == "Localhost") != bool(profile.get("localhostProfile")):
                why = (
                    "type Localhost and localhostProfile belong together; the API server refuses one without the other"
                )
                field = f"{path}.seccompProfile.localhostProfile"
                yield pods.resource.find(
                    "seccomp-profile", field, profile.get("localhostProfile"), why, "write RuntimeDefault"
                )


def pod_security(manifests: Manifests, _facts: ModelFacts | None) -> Iterator[Finding]:
    """What Pod Security's level "restricted" refuses, where a namespace enforces it or a model server runs."""
    for pods, level in _judged(manifests, "restricted"):
        for field, value, why, remedy in (*_pod_faults(pods), *_user_faults(pods), *_container_faults(pods)):
            whose = (
                "the namespace enforces the level restricted, and the pods are refused: " if level == "error" else ""
            )
            yield pods.resource.find("pod-security", field, value, f"{whose}{why}", remedy, level=level)


def pod_security_baseline(manifests: Manifests, _facts: ModelFacts | None) -> Iterator[Finding]:
    """What Pod Security's level "baseline" refuses, where a namespace enforces it."""
    for pods, _ in _judged(manifests, "baseline"):
        for field, value, why, remedy in (*_pod_faults(pods, baseline=True), *_container_faults(pods, baseline=True)):
            whose = "the namespace enforces the level baseline, and the pods are refused: "
            yield pods.resource.find("pod-security-baseline", field, value, f"{whose}{why}", remedy)


def pod_security_level(manifests: Manifests, _facts: ModelFacts | None) -> Iterator[Finding]:
    """A level of Pod Security that doesn't exist: the API server refuses the namespace."""
    for space in manifests.of_kind("Namespace"):
        for key, value in mapping(mapping(space.body.get("metadata")).get("labels")).items():
            mode = str(key).partition("pod-security.kubernetes.io/")[2]
            if mode in ("enforce", "audit", "warn") and value not in _LEVELS:
                why = f"levels are {', '.join(_LEVELS)}"
                yield space.find("pod-security-level", f"metadata.labels.{key}", value, why, "write restricted")


def service_account_token(manifests: Manifests, _facts: ModelFacts | None) -> Iterator[Finding]:
    """A model server with a token for the cluster's API, which it never calls."""
    for pods in manifests.pods():
        name = str(pods.spec.get("serviceAccountName") or "default")
        account = manifests.find("ServiceAccount", name, pods.resource.namespace)
        given = pods.spec.get("automountServiceAccountToken")
        given = account.body.get("automountServiceAccountToken") if given is None and account is not None else given
        if any(servers(pods)) and given is not False:
            yield pods.resource.find(
                "service-account-token", f"{pods.path}.automountServiceAccountToken", given,
                "whoever takes over the server may then call the cluster's API with it, and the server never does",
                "write false", level="warning",
            )  # fmt: skip


_Fault = tuple[str, object, str, str]


def _judged(manifests: Manifests, wanted: str) -> Iterator[tuple[Pods, Level]]:
    """Yield the pods that a level counts for, as errors where their namespace enforces it."""
    for pods in manifests.pods():
        space = next((each for each in manifests.of_kind("Namespace") if each.name == pods.resource.namespace), None)
        labels = mapping(mapping(space.body.get("metadata")).get("labels")) if space is not None else {}
        if labels.get(_ENFORCE) == wanted:
            yield pods, "error"
        elif wanted == "restricted" and _ENFORCE not in labels and any(servers(pods)):
            yield pods, "warning"


def _pod_faults(pods: Pods, *, baseline: bool = False) -> Iterator[_Fault]:
    for name in ("hostNetwork", "hostPID", "hostIPC"):
        if pods.spec.get(name) is True:
            yield f"{pods.path}.{name}", True, "pods must keep to namespaces of their own", "take it out"
    for index, volume in enumerate(map(mapping, sequence(pods.spec.get("volumes")))):
        kind = next((key for key in volume if key != "name"), "emptyDir")
        if kind == "hostPath" or (kind not in _VOLUMES and not baseline):
            remedy = "use a claim or an emptyDir"
            yield f"{pods.path}.volumes[{index}].{kind}", "", f"volumes of kind {kind} aren't allowed", remedy


def _user_faults(pods: Pods) -> Iterator[_Fault]:
    for container in pods.containers:
        root, root_field = _effective(pods, container, "runAsNonRoot")
        user, user_field = _effective(pods, container, "runAsUser")
        seccomp, seccomp_field = _effective(pods, container, "seccompProfile")
        if root is not True:
            yield root_field, root, "runAsNonRoot must be true", "write true"
        if whole(user) == 0:
            yield user_field, user, "runAsUser must not be 0", "write 10001"
        if mapping(seccomp).get("type") not in _SECCOMP:
            why = "seccompProfile.type must be RuntimeDefault or Localhost"
            yield f"{seccomp_field}.type", mapping(seccomp).get("type"), why, "write RuntimeDefault"


def _container_faults(pods: Pods, *, baseline: bool = False) -> Iterator[_Fault]:
    for container in pods.containers:
        context, path = _own(container), f"{container.path}.securityContext"
        capabilities = mapping(context.get("capabilities"))
        if context.get("privileged") is True:
            yield f"{path}.privileged", True, "containers must not be privileged", "take it out"
        for index, port in enumerate(map(mapping, sequence(container.body.get("ports")))):
            if port.get("hostPort"):
                field = f"{container.path}.ports[{index}].hostPort"
                yield field, port["hostPort"], "ports of the node aren't allowed", "use a Service"
        allowed = _BASELINE_CAPABILITIES if baseline else frozenset({"NET_BIND_SERVICE"})
        for index, name in enumerate(sequence(capabilities.get("add"))):
            if name not in allowed:
                yield f"{path}.capabilities.add[{index}]", name, "this capability isn't allowed", "take it out"
        if not baseline:
            yield from _strict_faults(context, path)


def _strict_faults(context: Mapping[str, Any], path: str) -> Iterator[_Fault]:
    drop = sequence(mapping(context.get("capabilities")).get("drop"))
    if context.get("allowPrivilegeEscalation") is not False:
        field, value = f"{path}.allowPrivilegeEscalation", context.get("allowPrivilegeEscalation")
        yield field, value, "allowPrivilegeEscalation must be false", "write false"
    if "ALL" not in drop:
        shown = ", ".join(map(str, drop)) or None
        yield f"{path}.capabilities.drop", shown, "ALL capabilities must be dropped", "write drop: [ALL]"


def _own(container: Container) -> Mapping[str, Any]:
    return mapping(container.body.get("securityContext"))


def _effective(pods: Pods, container: Container, name: str) -> tuple[Any, str]:
    """Return what holds for a container, its own word or the pod's, and where it stands or would stand."""
    if name in _own(container):
        return _own(container)[name], f"{container.path}.securityContext.{name}"
    pod = mapping(pods.spec.get("securityContext"))
    if name in pod:
        return pod[name], f"{pods.path}.securityContext.{name}"
    return None, f"{container.path}.securityContext.{name}"


def _containers(manifests: Manifests) -> Iterator[tuple[Pods, Container]]:
    for pods in manifests.pods():
        for container in pods.containers:
            yield pods, container


RULES: Final = (
    root_forbidden, ids_negative, privileged_without_escalation, capability_both_ways, seccomp_profile, pod_security,
    pod_security_baseline, pod_security_level, service_account_token,
)  # fmt: skip
