"""Mistakes that people make when they edit what `deploykit deploy` wrote: one each, in one of four deployments."""

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from deployments import DIGEST, IMAGE

from deploykit.deploy.config import DeployConfig

Object = dict[str, Any]
Edit = Callable[[list[Object]], None]

BASES: Final[Mapping[str, DeployConfig]] = {
    "plain": DeployConfig(image=IMAGE),
    "full": DeployConfig(
        image=IMAGE, delivery="s3", source="s3://models/writer", scaling="keda", monitoring=True, gateway=True
    ),
    "claim": DeployConfig(image=IMAGE, delivery="pvc", source="models", scaling="hpa", monitoring=True),
    "volume": DeployConfig(
        image=IMAGE, delivery="volume", source=f"registry.example.com/team/model@{DIGEST}", gateway=True
    ),
}
"""What the mistakes are made in."""

POD: Final = "Deployment spec template spec"
TRITON: Final = f"{POD} containers triton"
GATEWAY: Final = f"{POD} containers gateway"
FETCH: Final = f"{POD} initContainers fetch"
LABELS: Final = "app.kubernetes.io/name", "app.kubernetes.io/instance"


@dataclass(frozen=True, kw_only=True)
class Mistake:
    """An edit that breaks something, and the field that a finding has to name."""

    name: str
    base: str
    edits: Sequence[Edit]
    field: str
    """A part of the finding's field."""
    object: str
    """The finding's object."""
    breaks: str
    level: str = "error"

    def made_in(self, objects: Sequence[Object]) -> list[Object]:
        """Return correct objects with the mistake in them."""
        changed = copy.deepcopy(list(objects))
        for edit in self.edits:
            edit(changed)
        return changed


def holder(objects: list[Object], path: str) -> tuple[Any, str | int]:
    """Return what holds the last part of a path, and that part as its key: `Kind/name key index item-name`."""
    first, *parts = path.split(" ")
    kind, _, name = first.partition("/")
    value: Any = next(each for each in objects if each["kind"] == kind and name in ("", each["metadata"]["name"]))
    for part in parts[:-1]:
        value = value[_key(value, part)] if not isinstance(value, dict) else value.setdefault(part, {})
    return value, _key(value, parts[-1])


def _key(value: Any, part: str) -> str | int:
    if not isinstance(value, list):
        return part
    if part.isdigit():
        return int(part)
    return next(i for i, each in enumerate(value) if part in (each.get("name"), each.get("alert")))


def put(path: str, value: object) -> Edit:
    """Return an edit that sets a field."""

    def edit(objects: list[Object]) -> None:
        holds, key = holder(objects, path)
        if isinstance(holds, list) and key == len(holds):
            holds.append(copy.deepcopy(value))
        else:
            holds[key] = copy.deepcopy(value)

    return edit


def drop(path: str) -> Edit:
    """Return an edit that takes a field away."""

    def edit(objects: list[Object]) -> None:
        holds, key = holder(objects, path)
        del holds[key]

    return edit


def rename(path: str, key: str) -> Edit:
    """Return an edit that gives a field another key."""

    def edit(objects: list[Object]) -> None:
        holds, old = holder(objects, path)
        holds[key] = holds.pop(old)

    return edit


def move(path: str, to: str) -> Edit:
    """Return an edit that puts a field elsewhere: an indentation that slipped."""

    def edit(objects: list[Object]) -> None:
        holds, key = holder(objects, path)
        value = holds.pop(key)
        holds, key = holder(objects, to)
        holds[key] = value

    return edit


def add(path: str, value: object) -> Edit:
    """Return an edit that appends to a list."""

    def edit(objects: list[Object]) -> None:
        holds, key = holder(objects, path)
        holds.setdefault(key, []).append(copy.deepcopy(value))

    return edit


def replace(path: str, old: str, new: str) -> Edit:
    """Return an edit of a part of a text, or of the word of a list that begins so."""

    def edit(objects: list[Object]) -> None:
        holds, key = holder(objects, path)
        value = holds[key]
        if isinstance(value, list):
            assert any(each.startswith(old) for each in value), (old, value)
            holds[key] = [new if each.startswith(old) else each for each in value if new or not each.startswith(old)]
        else:
            assert old in value, (old, value)
            holds[key] = value.replace(old, new)

    return edit


def lose(kind: str) -> Edit:
    """Return an edit that takes an object away."""

    def edit(objects: list[Object]) -> None:
        objects.remove(next(each for each in objects if each["kind"] == kind))

    return edit


def double(kind: str, **changes: Any) -> Edit:
    """Return an edit that copies an object, with another name or spec."""

    def edit(objects: list[Object]) -> None:
        again = copy.deepcopy(next(each for each in objects if each["kind"] == kind))
        for path, value in changes.items():
            again["metadata" if path in ("name", "namespace") else "spec"][path] = value
        objects.append(again)

    return edit


def m(
    base: str, name: str, field: str, breaks: str, *edits: Edit, on: str = "Deployment/writer-v2", **more: str
) -> Mistake:
    return Mistake(base=base, name=name, field=field, breaks=breaks, edits=edits, object=on, **more)


S = "Service/writer-v2"
H = "Service/writer-v2-headless"
NP = "NetworkPolicy/writer-v2"
PDB = "PodDisruptionBudget/writer-v2"
SO = "ScaledObject/writer-v2"
HPA = "HorizontalPodAutoscaler/writer-v2"
PM = "PodMonitor/writer-v2"
PR = "PrometheusRule/writer-v2"
D = "Deployment/writer-v2"
SA = "ServiceAccount/writer-v2"
NS = "Namespace/writer-v2"
SV = "Service/writer-v2 spec"
EDITED = [
    # kinds, versions, metadata
    m(
        "plain",
        "old api of the deployment",
        "apiVersion",
        "refused",
        put("Deployment apiVersion", "extensions/v1beta1"),
    ),
    m("plain", "apps written app", "apiVersion", "refused", put("Deployment apiVersion", "app/v1")),
    m(
        "plain",
        "budget of a removed version",
        "apiVersion",
        "refused since 1.25",
        put("PodDisruptionBudget apiVersion", "policy/v1beta1"),
        on=PDB,
    ),
    m(
        "plain",
        "policy of a removed version",
        "apiVersion",
        "refused",
        put("NetworkPolicy apiVersion", "extensions/v1beta1"),
        on=NP,
    ),
    m(
        "claim",
        "scaler of a removed version",
        "apiVersion",
        "refused since 1.26",
        put("HorizontalPodAutoscaler apiVersion", "autoscaling/v2beta2"),
        on=HPA,
    ),
    m(
        "claim",
        "scaler of the old version with metrics",
        "",
        "unknown field metrics in v1",
        put("HorizontalPodAutoscaler apiVersion", "autoscaling/v1"),
        on=HPA,
    ),
    m(
        "full",
        "monitor of another version",
        "apiVersion",
        "no such version",
        put("PodMonitor apiVersion", "monitoring.coreos.com/v1beta1"),
        on=PM,
        level="warning",
    ),
    m("plain", "service in apps", "apiVersion", "no such kind", put("Service apiVersion", "apps/v1"), on=S),
    m(
        "plain",
        "kind in lower case",
        "kind",
        "no such kind",
        put("Deployment kind", "deployment"),
        on="deployment/writer-v2",
    ),
    m(
        "plain",
        "kind misspelled",
        "kind",
        "no such kind",
        put("PodDisruptionBudget kind", "PodDisruptionBudgets"),
        on="PodDisruptionBudgets/writer-v2",
    ),
    m("plain", "no kind", "kind", "refused", drop("NetworkPolicy kind"), on="/writer-v2"),
    m("plain", "no name", "metadata.name", "refused", drop("Deployment metadata name"), on="Deployment/"),
    m(
        "plain",
        "name with underscore",
        "metadata.name",
        "refused",
        put("Deployment metadata name", "writer_v2"),
        on="Deployment/writer_v2",
    ),
    m(
        "plain",
        "name in capitals",
        "metadata.name",
        "refused",
        put("Service metadata name", "Writer"),
        on="Service/Writer",
    ),
    m(
        "plain",
        "service's name starts with a digit",
        "metadata.name",
        "DNS-1035",
        put("Service metadata name", "2writer"),
        on="Service/2writer",
    ),
    m(
        "plain",
        "service's name too long",
        "metadata.name",
        "63",
        put("Service metadata name", "w" * 64),
        on="Service/" + "w" * 64,
    ),
    m(
        "plain",
        "version as a number in labels",
        "metadata.labels",
        "refused: not a string",
        put("Deployment metadata labels app.kubernetes.io/version", 3),
    ),
    m(
        "plain",
        "label with spaces",
        "labels",
        "refused",
        put("Deployment spec template metadata labels team", "text models"),
    ),
    m(
        "plain",
        "annotation that is a boolean",
        "annotations",
        "refused",
        put("Deployment metadata annotations", {"deploykit/x": True}),
    ),
    m("plain", "label key with two slashes", "labels", "refused", put("Service metadata labels a/b/c", "x"), on=S),
    m("plain", "labels as a list", "metadata.labels", "refused", put("Deployment metadata labels", ["app=writer"])),
    # deployment
    m("plain", "replicas in quotes", "spec.replicas", "refused", put("Deployment spec replicas", "2")),
    m(
        "plain",
        "replicas under metadata",
        "replicas",
        "strict refuse/ignored",
        move("Deployment spec replicas", "Deployment metadata replicas"),
    ),
    m(
        "plain",
        "replicas in the template",
        "replicas",
        "ignored",
        move("Deployment spec replicas", "Deployment spec template spec replicas"),
    ),
    m("plain", "negative replicas", "spec.replicas", "refused", put("Deployment spec replicas", -1)),
    m(
        "plain",
        "no replicas at all",
        "spec.replicas",
        "serves nobody",
        put("Deployment spec replicas", 0),
        level="warning",
    ),
    m(
        "plain",
        "selector doesn't fit the template",
        "spec.selector",
        "refused",
        put("Deployment spec selector matchLabels app.kubernetes.io/instance", "writer"),
    ),
    m(
        "plain",
        "selector without matchLabels",
        "spec.selector",
        "refused",
        put("Deployment spec selector", {LABELS[0]: "deploykit"}),
    ),
    m("plain", "no selector", "spec.selector", "refused", drop("Deployment spec selector")),
    m(
        "plain",
        "template's label renamed",
        "selector",
        "refused",
        put("Deployment spec template metadata labels app.kubernetes.io/instance", "writer-v3"),
    ),
    m("plain", "template without labels", "spec", "refused", drop("Deployment spec template metadata")),
    m("plain", "recreate with rollingUpdate", "strategy", "refused", put("Deployment spec strategy type", "Recreate")),
    m("plain", "strategy misspelled", "strategy.type", "refused", put("Deployment spec strategy type", "Rolling")),
    m(
        "plain",
        "surge over as text",
        "maxSurge",
        "refused",
        put("Deployment spec strategy rollingUpdate maxSurge", "one"),
    ),
    m("plain", "strategy as a word", "spec.strategy", "refused", put("Deployment spec strategy", "RollingUpdate")),
    m(
        "plain",
        "minReadySeconds over the deadline",
        "progressDeadlineSeconds",
        "refused",
        put("Deployment spec progressDeadlineSeconds", 10),
    ),
    m(
        "plain",
        "deadline shorter than a start",
        "progressDeadlineSeconds",
        "rollout fails",
        put("Deployment spec progressDeadlineSeconds", 60),
        level="warning",
    ),
    m("plain", "restartPolicy Never", "restartPolicy", "refused", put(f"{POD} restartPolicy", "Never")),
    m(
        "plain",
        "containers under template",
        "spec.template",
        "refused",
        move(f"{POD} containers", "Deployment spec template containers"),
    ),
    m(
        "plain",
        "container as a mapping",
        "containers",
        "refused",
        put(f"{POD} containers", {"name": "triton", "image": "x"}),
    ),
    m(
        "plain",
        "two containers of one name",
        "containers[1]",
        "refused",
        add(f"{POD} containers", {"name": "triton", "image": "busybox:1.36"}),
    ),
    m("plain", "container name in capitals", "name", "refused", put(f"{TRITON} name", "Triton")),
    m(
        "plain",
        "service account that isn't there",
        "serviceAccountName",
        "no pod is made",
        put(f"{POD} serviceAccountName", "writer"),
    ),
    m(
        "plain",
        "service account in capitals",
        "serviceAccountName",
        "refused",
        put(f"{POD} serviceAccountName", "Writer_SA"),
    ),
    m("plain", "service account deleted", "serviceAccountName", "no pod is made", lose("ServiceAccount")),
    m(
        "plain",
        "grace too short",
        "terminationGracePeriodSeconds",
        "streams cut",
        put(f"{POD} terminationGracePeriodSeconds", 30),
    ),
    m(
        "plain",
        "grace in words",
        "terminationGracePeriodSeconds",
        "refused",
        put(f"{POD} terminationGracePeriodSeconds", "55s"),
    ),
    m(
        "plain",
        "grace in the container",
        "terminationGracePeriodSeconds",
        "refused/ignored",
        move(f"{POD} terminationGracePeriodSeconds", f"{TRITON} terminationGracePeriodSeconds"),
    ),
    m(
        "plain",
        "preStop longer than grace",
        "terminationGracePeriodSeconds",
        "killed",
        put(f"{TRITON} lifecycle preStop exec command 1", "90"),
    ),
    m(
        "plain",
        "preStop as a string",
        "lifecycle.preStop",
        "refused",
        put(f"{TRITON} lifecycle preStop exec command", "sleep 15"),
    ),
    m(
        "plain",
        "preStop in one word",
        "lifecycle.preStop",
        "fails each time",
        put(f"{TRITON} lifecycle preStop exec command", ["sleep 15"]),
    ),
    m(
        "plain",
        "preStop without exec",
        "lifecycle.preStop",
        "refused",
        put(f"{TRITON} lifecycle preStop", {"command": ["sleep", "15"]}),
    ),
    m(
        "plain",
        "preStop of a unit sleep knows not",
        "lifecycle.preStop",
        "fails",
        put(f"{TRITON} lifecycle preStop exec command 1", "15sec"),
    ),
    m(
        "plain",
        "postStart and preStop handlers both",
        "lifecycle.preStop",
        "refused",
        put(f"{TRITON} lifecycle preStop httpGet", {"path": "/", "port": 8003}),
    ),
    m("plain", "no preStop", "lifecycle", "requests lost", drop(f"{TRITON} lifecycle"), level="warning"),
    m(
        "plain",
        "spread that forbids with an unknown word",
        "whenUnsatisfiable",
        "refused",
        put(f"{POD} topologySpreadConstraints 0 whenUnsatisfiable", "Schedule"),
    ),
    m(
        "plain",
        "spread selects other pods",
        "topologySpreadConstraints",
        "spreads nothing",
        put(f"{POD} topologySpreadConstraints 1 labelSelector matchLabels app.kubernetes.io/instance", "writer"),
    ),
    m("plain", "maxSkew 0", "maxSkew", "refused", put(f"{POD} topologySpreadConstraints 0 maxSkew", 0)),
    m(
        "plain",
        "toleration with value and Exists",
        "tolerations",
        "refused",
        put(f"{POD} tolerations", [{"key": "gpu", "operator": "Exists", "value": "x"}]),
    ),
    m("plain", "nodeSelector with a boolean", "nodeSelector", "refused", put(f"{POD} nodeSelector", {"gpu": True})),
    m(
        "plain",
        "affinity without weight",
        "affinity",
        "refused",
        put(
            f"{POD} affinity",
            {
                "podAntiAffinity": {
                    "preferredDuringSchedulingIgnoredDuringExecution": [
                        {
                            "podAffinityTerm": {
                                "topologyKey": "kubernetes.io/hostname",
                                "labelSelector": {"matchLabels": {LABELS[1]: "writer-v2"}},
                            }
                        }
                    ]
                }
            },
        ),
    ),
    m(
        "plain",
        "antiaffinity without topologyKey",
        "affinity",
        "refused",
        put(
            f"{POD} affinity",
            {
                "podAntiAffinity": {
                    "requiredDuringSchedulingIgnoredDuringExecution": [
                        {"labelSelector": {"matchLabels": {LABELS[1]: "writer-v2"}}}
                    ]
                }
            },
        ),
    ),
    # image
    m("plain", "image with blank", "image", "refused", put(f"{TRITON} image", "deploykit-writer: 1")),
    m(
        "plain",
        "image in capitals",
        "image",
        "InvalidImageName",
        put(f"{TRITON} image", "registry.example.com/Team/Writer:1"),
    ),
    m(
        "plain",
        "digest too short",
        "image",
        "InvalidImageName",
        put(f"{TRITON} image", "registry.example.com/team/writer@sha256:1234"),
    ),
    m(
        "plain",
        "latest",
        "image",
        "unknown version",
        put(f"{TRITON} image", "registry.example.com/team/writer:latest"),
        level="warning",
    ),
    m(
        "plain",
        "image with a scheme",
        "image",
        "InvalidImageName",
        put(f"{TRITON} image", "https://registry.example.com/team/writer:1"),
    ),
    m("plain", "no image", "image", "refused", drop(f"{TRITON} image")),
    m(
        "plain",
        "pull policy misspelled",
        "imagePullPolicy",
        "refused",
        put(f"{TRITON} imagePullPolicy", "IfNotPresents"),
    ),
    m("plain", "pull secret as a word", "imagePullSecrets", "refused", put(f"{POD} imagePullSecrets", "regcred")),
    m(
        "plain",
        "pull secret that isn't there",
        "imagePullSecrets",
        "can't pull",
        put(f"{POD} imagePullSecrets", [{"name": "regcred"}]),
        level="warning",
    ),
    # args
    m("plain", "args as one string", "args", "refused", put(f"{TRITON} args", "serve /models --host=0.0.0.0")),
    m(
        "plain",
        "command and args in one word",
        "command",
        "no such file",
        put(f"{TRITON} command", ["deploykit serve"]),
    ),
    m("plain", "no serve", "args", "unknown command", drop(f"{TRITON} args 0")),
    m("plain", "serve misspelled", "args", "unknown command", put(f"{TRITON} args 0", "server")),
    m("plain", "unknown flag", "args", "exits", add(f"{TRITON} args", "--max-batch=8")),
    m("plain", "flag with underscore", "args", "exits", replace(f"{TRITON} args", "--max-rows", "--max_rows=16")),
    m("plain", "flag with a single dash", "args", "exits", replace(f"{TRITON} args", "--max-rows", "-max-rows=16")),
    m("plain", "flag and value in one word", "args", "exits", replace(f"{TRITON} args", "--max-rows", "--max-rows 16")),
    m("plain", "flag with no value at the end", "args", "exits", add(f"{TRITON} args", "--max-queue")),
    m("plain", "flag twice", "args", "the last wins", add(f"{TRITON} args", "--max-rows=64"), level="warning"),
    m("plain", "number as a number", "args", "refused", add(f"{TRITON} args", 16)),
    m("plain", "no number", "args", "exits", replace(f"{TRITON} args", "--max-rows", "--max-rows=many")),
    m("plain", "rows 0", "args", "exits", replace(f"{TRITON} args", "--max-rows", "--max-rows=0")),
    m("plain", "threads 0", "args", "exits", replace(f"{TRITON} args", "--threads", "--threads=0")),
    m("plain", "threads in millicores", "args", "exits", replace(f"{TRITON} args", "--threads", "--threads=2000m")),
    m(
        "plain",
        "cache in Kubernetes' units",
        "args",
        "exits",
        replace(f"{TRITON} args", "--cache-memory", "--cache-memory=16Mi"),
    ),
    m("plain", "mode misspelled", "args", "exits", add(f"{TRITON} args", "--mode=fast")),
    m(
        "plain",
        "timeout with unit",
        "args",
        "exits",
        replace(f"{TRITON} args", "--startup-timeout", "--startup-timeout=300s"),
    ),
    m(
        "plain",
        "two ports the same",
        "args",
        "bind fails",
        replace(f"{TRITON} args", "--metrics-port", "--metrics-port=8001"),
    ),
    m("plain", "port too high", "args", "exits", replace(f"{TRITON} args", "--grpc-port", "--grpc-port=80010")),
    m(
        "plain",
        "privileged port",
        "args",
        "permission",
        replace(f"{TRITON} args", "--http-port", "--http-port=80"),
        level="warning",
    ),
    m(
        "plain",
        "grpc port moved in the flags",
        "port",
        "containerPort is of another",
        replace(f"{TRITON} args", "--grpc-port", "--grpc-port=9001"),
        level="warning",
    ),
    m(
        "plain",
        "health port moved in the flags",
        "Probe",
        "probes fail",
        replace(f"{TRITON} args", "--health-port", "--health-port=8013"),
    ),
    m(
        "plain",
        "more threads than cores",
        "args",
        "throttled",
        replace(f"{TRITON} args", "--threads", "--threads=8"),
        level="warning",
    ),
    m(
        "plain",
        "rows beyond the memory",
        "memory",
        "OOM",
        replace(f"{TRITON} args", "--max-rows", "--max-rows=1024"),
        replace(f"{TRITON} args", "--cache-memory", "--cache-memory=1GiB"),
    ),
    m("plain", "a gateway in serve on triton's port", "args", "bind", add(f"{TRITON} args", "--openai-port=8000")),
    m("plain", "env as mapping", "env", "refused", put(f"{TRITON} env", {"HOME": "/tmp"})),
    m("plain", "env with number", "env", "refused", add(f"{TRITON} env", {"name": "OMP_NUM_THREADS", "value": 2})),
    m(
        "plain",
        "env twice",
        "env",
        "the last wins",
        add(f"{TRITON} env", {"name": "HOME", "value": "/"}),
        level="warning",
    ),
    m(
        "plain",
        "env of a secret that isn't there",
        "env",
        "CreateContainerConfigError",
        add(f"{TRITON} env", {"name": "T", "valueFrom": {"secretKeyRef": {"name": "tokens", "key": "t"}}}),
        level="warning",
    ),
    m(
        "plain",
        "env value and valueFrom",
        "env",
        "refused",
        put(f"{TRITON} env 0 valueFrom", {"fieldRef": {"fieldPath": "status.podIP"}}),
    ),
    m(
        "plain",
        "env from unknown field",
        "env",
        "refused",
        add(f"{TRITON} env", {"name": "IP", "valueFrom": {"fieldRef": {"fieldPath": "status.ip"}}}),
    ),
    m("plain", "env in Compose's form", "env", "refused", put(f"{TRITON} env", ["HOME=/tmp"])),
    # ports
    m(
        "plain",
        "port name too long",
        "ports",
        "15 characters",
        put(f"{TRITON} ports metrics name", "prometheus-metrics"),
    ),
    m("plain", "port in quotes", "containerPort", "refused", put(f"{TRITON} ports grpc containerPort", "8001")),
    m(
        "plain",
        "port renamed",
        "port",
        "targetPort finds nothing",
        put(f"{TRITON} ports grpc name", "grpc-triton"),
        on=S,
    ),
    m(
        "plain",
        "container port moved",
        "containerPort",
        "service sends where nobody listens",
        put(f"{TRITON} ports grpc containerPort", 9001),
        level="warning",
    ),
    m("plain", "two container ports with one name", "ports", "refused", put(f"{TRITON} ports http name", "grpc")),
    m(
        "plain",
        "containerport in lower case",
        "containerport",
        "refused",
        rename(f"{TRITON} ports grpc containerPort", "containerport"),
    ),
    m("plain", "ports one level up", "ports", "refused", move(f"{TRITON} ports", f"{POD} ports")),
    m("plain", "hostPort with two replicas", "hostPort", "one pod a node", put(f"{TRITON} ports grpc hostPort", 8001)),
    m("plain", "protocol tcp in lower case", "protocol", "refused", put(f"{TRITON} ports grpc protocol", "tcp")),
    m(
        "full",
        "gateway's port taken by triton",
        "ports",
        "bind fails",
        replace(f"{GATEWAY} args", "--port", "--port=8001"),
        level="warning",
    ),
    m(
        "full",
        "gateway asks the wrong port",
        "args",
        "never ready",
        replace(f"{GATEWAY} args", "--triton", "--triton=localhost:8000"),
    ),
    m(
        "full",
        "gateway asks another host's name",
        "args",
        "",
        replace(f"{GATEWAY} args", "--triton", "--triton=triton:8001"),
        level="warning",
    ),
    m(
        "full",
        "gateway with a scheme",
        "args",
        "",
        replace(f"{GATEWAY} args", "--triton", "--triton=http://localhost:8001"),
    ),
    m("full", "gateway's flag that only serve has", "args", "exits", add(f"{GATEWAY} args", "--health-port=8003")),
    m("full", "gateway's port moved", "port", "probe fails", replace(f"{GATEWAY} args", "--port", "--port=8080")),
    m("full", "gateway without model", "args", "exits", replace(f"{GATEWAY} args", "/models", "")),
    m("full", "gateway's mount removed", "args", "no model", drop(f"{GATEWAY} volumeMounts 1")),
    m(
        "full",
        "keys' path differs",
        "args",
        "exits",
        replace(f"{GATEWAY} args", "--api-keys", "--api-keys=/etc/deploykit/keys"),
    ),
    m(
        "full",
        "keys' secret renamed",
        "secretName",
        "stuck",
        put(f"{POD} volumes api-keys secret secretName", "writer-keys"),
    ),
    m(
        "full",
        "keys' volume has name for secretName",
        "secret",
        "refused",
        rename(f"{POD} volumes api-keys secret secretName", "name"),
    ),
    m(
        "full",
        "mode in octal without 0",
        "defaultMode",
        "1 - 511",
        put(f"{POD} volumes api-keys secret defaultMode", 644),
    ),
    m("full", "mode as text", "defaultMode", "refused", put(f"{POD} volumes api-keys secret defaultMode", "0440")),
    # probes
    m("plain", "probe's path of triton's", "path", "404", put(f"{TRITON} readinessProbe httpGet path", "/ready")),
    m("plain", "probe's path typo", "path", "404", put(f"{TRITON} livenessProbe httpGet path", "/v2/health/alive")),
    m(
        "plain",
        "liveness asks readiness",
        "livenessProbe",
        "restarts under load",
        put(f"{TRITON} livenessProbe httpGet path", "/v2/health/ready"),
    ),
    m(
        "plain",
        "readiness on grpc port",
        "readinessProbe",
        "http on grpc",
        put(f"{TRITON} readinessProbe httpGet port", "grpc"),
    ),
    m(
        "plain",
        "probe on an unknown name",
        "port",
        "never ready",
        put(f"{TRITON} readinessProbe httpGet port", "ready"),
    ),
    m(
        "plain",
        "probe by number as text",
        "port",
        "refused: a name with digits alone",
        put(f"{TRITON} readinessProbe httpGet port", "8003"),
    ),
    m(
        "plain",
        "probe on a number nobody listens on",
        "port",
        "never ready",
        put(f"{TRITON} readinessProbe httpGet port", 8080),
    ),
    m("plain", "probe with https", "scheme", "TLS to plain", put(f"{TRITON} readinessProbe httpGet scheme", "HTTPS")),
    m("plain", "probe with httpget", "httpget", "no handler", rename(f"{TRITON} readinessProbe httpGet", "httpget")),
    m(
        "plain",
        "probe path and port one level up",
        "readinessProbe",
        "refused",
        put(f"{TRITON} readinessProbe", {"path": "/v2/health/ready", "port": "health"}),
    ),
    m("plain", "two handlers", "readinessProbe", "refused", put(f"{TRITON} readinessProbe tcpSocket", {"port": 8003})),
    m("plain", "no handler", "livenessProbe", "refused", drop(f"{TRITON} livenessProbe httpGet")),
    m(
        "plain",
        "liveness with successThreshold 2",
        "successThreshold",
        "refused",
        put(f"{TRITON} livenessProbe successThreshold", 2),
    ),
    m(
        "plain",
        "period 0",
        "periodSeconds",
        "default",
        put(f"{TRITON} livenessProbe periodSeconds", 0),
        level="warning",
    ),
    m("plain", "period as duration", "periodSeconds", "refused", put(f"{TRITON} livenessProbe periodSeconds", "10s")),
    m("plain", "timeout negative", "timeoutSeconds", "refused", put(f"{TRITON} livenessProbe timeoutSeconds", -1)),
    m(
        "plain",
        "failureThreshold one level in",
        "failureThreshold",
        "refused",
        move(f"{TRITON} startupProbe failureThreshold", f"{TRITON} startupProbe httpGet failureThreshold"),
    ),
    m(
        "plain",
        "startup gives up before the load",
        "startupProbe",
        "restarted for ever",
        put(f"{TRITON} startupProbe failureThreshold", 1),
        level="warning",
    ),
    m(
        "plain",
        "startup gives up before startup-timeout",
        "startup",
        "",
        put(f"{TRITON} startupProbe failureThreshold", 10),
        level="warning",
    ),
    m("plain", "no readiness", "readinessProbe", "sent too early", drop(f"{TRITON} readinessProbe"), level="warning"),
    m(
        "plain",
        "grpc probe on the http port",
        "livenessProbe",
        "fails",
        put(f"{TRITON} livenessProbe", {"grpc": {"port": 8000}, "periodSeconds": 10}),
    ),
    m(
        "plain",
        "grpc probe with a name",
        "port",
        "refused",
        put(f"{TRITON} livenessProbe", {"grpc": {"port": "grpc"}, "periodSeconds": 10}),
    ),
    m(
        "plain",
        "probe's host set",
        "host",
        "asks another host",
        put(f"{TRITON} livenessProbe httpGet host", "localhost"),
    ),
    m(
        "plain",
        "exec probe with curl as string",
        "command",
        "refused",
        put(f"{TRITON} livenessProbe", {"exec": {"command": "curl localhost:8003"}}),
    ),
    m(
        "plain",
        "path without slash",
        "path",
        "kubelet adds",
        put(f"{TRITON} livenessProbe httpGet path", "v2/health/livez"),
    ),
    m(
        "full",
        "gateway's path copied from triton",
        "path",
        "404",
        put(f"{GATEWAY} readinessProbe httpGet path", "/v2/health/ready"),
    ),
    m(
        "full",
        "gateway's liveness waits for triton",
        "livenessProbe",
        "restarts",
        put(f"{GATEWAY} livenessProbe httpGet path", "/health"),
    ),
    m(
        "full",
        "gateway's probe asks triton's port",
        "readinessProbe",
        "404",
        put(f"{GATEWAY} readinessProbe httpGet port", 8003),
    ),
    m(
        "full",
        "gateway's readiness on the named port of another",
        "port",
        "",
        put(f"{GATEWAY} readinessProbe httpGet port", "health"),
    ),
    # resources
    m("plain", "memory in m", "memory", "millibytes", put(f"{TRITON} resources limits memory", "384m")),
    m("plain", "memory in MB", "memory", "refused", put(f"{TRITON} resources limits memory", "384MB")),
    m("plain", "memory without unit", "memory", "384 bytes", put(f"{TRITON} resources limits memory", "384")),
    m(
        "plain",
        "memory halved",
        "memory",
        "OOM",
        put(f"{TRITON} resources limits memory", "64Mi"),
        put(f"{TRITON} resources requests memory", "64Mi"),
    ),
    m("plain", "request above limit", "requests", "refused", put(f"{TRITON} resources requests memory", "8Gi")),
    m("plain", "cpu request above limit", "cpu", "refused", put(f"{TRITON} resources requests cpu", "4")),
    m(
        "plain",
        "cpu of 2000",
        "cpu",
        "no node",
        put(f"{TRITON} resources limits cpu", "2000"),
        put(f"{TRITON} resources requests cpu", "2000"),
    ),
    m("plain", "limits misspelled", "limit", "refused", rename(f"{TRITON} resources limits", "limit")),
    m(
        "plain",
        "memory under resources",
        "resources.memory",
        "refused",
        move(f"{TRITON} resources limits memory", f"{TRITON} resources memory"),
    ),
    m("plain", "unknown resource", "resources", "refused", put(f"{TRITON} resources limits ram", "1Gi")),
    m("plain", "gpu request alone", "requests", "refused", put(f"{TRITON} resources requests nvidia.com/gpu", "1")),
    m("plain", "half a gpu", "nvidia.com/gpu", "refused", put(f"{TRITON} resources limits nvidia.com/gpu", "0.5")),
    m("plain", "gpu misspelled", "gpu", "never scheduled", put(f"{TRITON} resources limits nvidia.com/gpus", "1")),
    m(
        "plain",
        "gpu with differing request",
        "gpu",
        "refused",
        put(f"{TRITON} resources limits nvidia.com/gpu", "1"),
        put(f"{TRITON} resources requests nvidia.com/gpu", "2"),
    ),
    m(
        "plain",
        "mig misspelled",
        "mig",
        "never scheduled",
        put(f"{TRITON} resources limits nvidia.com/mig-1g10gb", "1"),
        level="warning",
    ),
    m("plain", "no limits", "memory", "no limit", drop(f"{TRITON} resources limits"), level="warning"),
    m(
        "plain",
        "resources in the pod",
        "resources",
        "",
        move(f"{TRITON} resources", f"{POD} resource"),
        level="warning",
    ),
    m("plain", "lower-case unit", "memory", "refused", put(f"{TRITON} resources requests memory", "384mi")),
    m("plain", "space before unit", "memory", "refused", put(f"{TRITON} resources requests memory", "384 Mi")),
    # volumes
    m("plain", "mount of an unknown volume", "volumeMounts", "refused", put(f"{TRITON} volumeMounts tmp name", "temp")),
    m("plain", "volume removed", "volumeMounts", "refused", drop(f"{POD} volumes tmp")),
    m(
        "plain",
        "two mounts at one path",
        "mountPath",
        "refused",
        put(f"{TRITON} volumeMounts tmp mountPath", "/dev/shm"),
    ),
    m("plain", "tmp not mounted", "readOnlyRootFilesystem", "nowhere to write", drop(f"{TRITON} volumeMounts tmp")),
    m(
        "plain",
        "tmp mounted read-only",
        "volumeMounts",
        "can't write",
        put(f"{TRITON} volumeMounts tmp readOnly", True),
    ),
    m("plain", "shm too small", "sizeLimit", "evicted", put(f"{POD} volumes shm emptyDir sizeLimit", "1Mi")),
    m("plain", "medium memory in lower case", "medium", "refused", put(f"{POD} volumes shm emptyDir medium", "memory")),
    m(
        "plain",
        "sizeLimit one level up",
        "sizeLimit",
        "refused",
        move(f"{POD} volumes shm emptyDir sizeLimit", f"{POD} volumes shm sizeLimit"),
    ),
    m(
        "plain",
        "shm counted beyond the limit",
        "memory",
        "OOM",
        put(f"{POD} volumes shm emptyDir sizeLimit", "4Gi"),
        level="warning",
    ),
    m("plain", "volume of two kinds", "volumes", "refused", put(f"{POD} volumes tmp hostPath", {"path": "/tmp"})),
    m("plain", "volume of no kind", "volumes", "emptyDir", drop(f"{POD} volumes tmp emptyDir")),
    m("plain", "volumes in the container", "volumes", "refused", move(f"{POD} volumes", f"{TRITON} volumes")),
    m(
        "plain",
        "mountpath in lower case",
        "mountpath",
        "refused",
        rename(f"{TRITON} volumeMounts tmp mountPath", "mountpath"),
    ),
    m(
        "plain",
        "config map that isn't there",
        "configMap",
        "ContainerCreating",
        add(f"{POD} volumes", {"name": "conf", "configMap": {"name": "writer-conf"}}),
    ),
    m("plain", "volume's name twice", "volumes", "refused", add(f"{POD} volumes", {"name": "tmp", "emptyDir": {}})),
    m(
        "claim",
        "claim renamed",
        "claimName",
        "Pending",
        put(f"{POD} volumes models persistentVolumeClaim claimName", "model"),
    ),
    m(
        "claim",
        "models mounted elsewhere",
        "args",
        "no model",
        put(f"{TRITON} volumeMounts models mountPath", "/mnt/models"),
        level="warning",
    ),
    m("claim", "models not mounted", "", "no model", drop(f"{TRITON} volumeMounts models"), level="warning"),
    m(
        "claim",
        "claim mounted with a subPath that climbs",
        "subPath",
        "refused",
        put(f"{TRITON} volumeMounts models subPath", "../x"),
    ),
    m(
        "full",
        "fetch into another path",
        "",
        "nothing in /models",
        replace(f"{FETCH} args", "--output", "--output=/model"),
    ),
    m(
        "full",
        "fetch into a folder below",
        "",
        "serve finds no repository?",
        put(f"{FETCH} volumeMounts models mountPath", "/data"),
    ),
    m(
        "full",
        "fetch mount is read only",
        "volumeMounts",
        "can't write",
        put(f"{FETCH} volumeMounts models readOnly", True),
    ),
    m(
        "full",
        "fingerprint of another model",
        "args",
        "exits 5",
        replace(f"{FETCH} args", "--fingerprint", "--fingerprint=" + "cd" * 32),
    ),
    m(
        "full",
        "fingerprint cut off",
        "args",
        "exits",
        replace(f"{FETCH} args", "--fingerprint", "--fingerprint=" + "ab" * 20),
    ),
    m("full", "fetch's store without bucket", "args", "exits", replace(f"{FETCH} args", "s3://", "s3:/models/writer")),
    m("full", "fetch's store of http", "args", "exits?", replace(f"{FETCH} args", "s3://", "ftp://models/writer")),
    m(
        "full",
        "models volume too small",
        "sizeLimit",
        "evicted",
        put(f"{POD} volumes models emptyDir sizeLimit", "1Mi"),
    ),
    m("full", "fetch removed", "", "empty /models", drop(f"{POD} initContainers")),
    m(
        "full",
        "fetch with a probe",
        "initContainers",
        "refused",
        put(f"{FETCH} readinessProbe", {"tcpSocket": {"port": 1}}),
    ),
    m("full", "fetch restarts always as sidecar", "initContainers", "", put(f"{FETCH} restartPolicy", "OnFailures")),
    m(
        "volume",
        "image volume without reference",
        "reference",
        "refused",
        drop(f"{POD} volumes models image reference"),
    ),
    m("volume", "image volume's key", "image", "refused", rename(f"{POD} volumes models image reference", "name")),
    m(
        "volume",
        "image volume's reference malformed",
        "reference",
        "can't pull",
        put(f"{POD} volumes models image reference", "registry.example.com/team/model@sha256:12"),
    ),
    # security
    m("plain", "root", "runAsUser", "refused by restricted", put(f"{POD} securityContext runAsUser", 0)),
    m("plain", "no runAsNonRoot", "runAsNonRoot", "refused", put(f"{TRITON} securityContext runAsNonRoot", False)),
    m("plain", "privileged", "privileged", "refused", put(f"{TRITON} securityContext privileged", True)),
    m(
        "plain",
        "escalation",
        "allowPrivilegeEscalation",
        "refused",
        put(f"{TRITON} securityContext allowPrivilegeEscalation", True),
    ),
    m(
        "plain",
        "escalation left out",
        "allowPrivilegeEscalation",
        "refused",
        drop(f"{TRITON} securityContext allowPrivilegeEscalation"),
    ),
    m(
        "plain",
        "capability added",
        "capabilities",
        "refused",
        put(f"{TRITON} securityContext capabilities add", ["SYS_ADMIN"]),
    ),
    m("plain", "no capabilities dropped", "capabilities", "refused", drop(f"{TRITON} securityContext capabilities")),
    m(
        "plain",
        "capability ALL in lower case",
        "capabilities",
        "refused",
        put(f"{TRITON} securityContext capabilities drop", ["all"]),
    ),
    m(
        "plain",
        "seccomp unconfined",
        "seccompProfile",
        "refused",
        put(f"{TRITON} securityContext seccompProfile type", "Unconfined"),
    ),
    m(
        "plain",
        "seccomp misspelled",
        "seccompProfile",
        "refused",
        put(f"{TRITON} securityContext seccompProfile type", "runtime/default"),
    ),
    m("plain", "host network", "hostNetwork", "refused", put(f"{POD} hostNetwork", True)),
    m(
        "plain",
        "hostPath",
        "hostPath",
        "refused by restricted",
        put(f"{POD} volumes tmp", {"name": "tmp", "hostPath": {"path": "/tmp"}}),
    ),
    m("plain", "fsGroup in the container", "fsGroup", "refused", put(f"{TRITON} securityContext fsGroup", 10001)),
    m(
        "plain",
        "capabilities in the pod",
        "capabilities",
        "refused",
        put(f"{POD} securityContext capabilities", {"drop": ["ALL"]}),
    ),
    m("plain", "user by name", "runAsUser", "refused", put(f"{POD} securityContext runAsUser", "nobody")),
    m(
        "plain",
        "securityContext misspelled",
        "securitycontext",
        "ignored",
        rename(f"{TRITON} securityContext", "securitycontext"),
    ),
    m(
        "plain",
        "namespace enforces what isn't a level",
        "labels",
        "ignored",
        put("Namespace metadata labels pod-security.kubernetes.io/enforce", "strict"),
        on=NS,
    ),
    m(
        "plain",
        "token mounted",
        "automountServiceAccountToken",
        "",
        put(f"{POD} automountServiceAccountToken", "false"),
    ),
    # services
    m(
        "plain",
        "service's selector typo",
        "spec.selector",
        "no endpoints",
        put(f"{S} spec selector app.kubernetes.io/instance", "writer"),
        on=S,
    ),
    m(
        "plain",
        "service's selector with matchLabels",
        "spec.selector",
        "refused",
        put(f"{S} spec selector", {"matchLabels": {LABELS[1]: "writer-v2"}}),
        on=S,
    ),
    m(
        "plain",
        "targetPort unknown",
        "targetPort",
        "refused connections",
        put(f"{S} spec ports 0 targetPort", "grcp"),
        on=S,
    ),
    m("plain", "targetPort a number nobody serves", "targetPort", "", put(f"{S} spec ports 0 targetPort", 9001), on=S),
    m(
        "plain",
        "targetPort http under the name grpc",
        "ports",
        "wrong protocol",
        put(f"{S} spec ports 0 targetPort", "http"),
        on=S,
        level="warning",
    ),
    m("plain", "targetPort as text digits", "targetPort", "refused", put(f"{S} spec ports 0 targetPort", "8001"), on=S),
    m(
        "plain",
        "targetport in lower case",
        "targetport",
        "ignored",
        rename(f"{S} spec ports 0 targetPort", "targetport"),
        on=S,
    ),
    m(
        "plain",
        "containerPort in a service",
        "containerPort",
        "refused",
        rename(f"{S} spec ports 0 port", "containerPort"),
        on=S,
    ),
    m(
        "plain",
        "second port without name",
        "ports",
        "refused",
        add(f"{S} spec ports", {"port": 8000, "targetPort": "http"}),
        on=S,
    ),
    m(
        "plain",
        "port twice",
        "ports",
        "refused",
        add(f"{S} spec ports", {"name": "http", "port": 8001, "targetPort": "http", "protocol": "TCP"}),
        on=S,
    ),
    m("plain", "udp", "protocol", "", put(f"{S} spec ports 0 protocol", "UDP"), on=S),
    m("plain", "type misspelled", "type", "refused", put(f"{S} spec type", "LoadBalanced"), on=S),
    m("plain", "nodePort without type", "nodePort", "refused", put(f"{S} spec ports 0 nodePort", 30001), on=S),
    m(
        "plain",
        "nodePort out of range",
        "nodePort",
        "refused",
        put(f"{S} spec type", "NodePort"),
        put(f"{S} spec ports 0 nodePort", 8001),
        on=S,
    ),
    m("plain", "headless in lower case", "clusterIP", "refused", put(f"{H} spec clusterIP", "none"), on=H),
    m("plain", "headless with another port", "port", "", put(f"{H} spec ports 0 port", 80), on=H, level="warning"),
    m("plain", "ports one level up", "ports", "", move(f"{S} spec ports", f"{S} ports"), on=S),
    m(
        "plain",
        "appProtocol of web",
        "appProtocol",
        "",
        put(f"{S} spec ports 0 appProtocol", "http"),
        on=S,
        level="warning",
    ),
    m(
        "full",
        "openai with h2c",
        "appProtocol",
        "h2c to http/1",
        put(f"{S} spec ports openai appProtocol", "kubernetes.io/h2c"),
        on=S,
        level="warning",
    ),
    # network policy
    m(
        "plain",
        "policy selects nothing",
        "podSelector",
        "guards nothing",
        put(f"{NP} spec podSelector matchLabels app.kubernetes.io/instance", "writer"),
        on=NP,
    ),
    m("plain", "policy in capitals", "policyTypes", "refused", put(f"{NP} spec policyTypes", ["ingress"]), on=NP),
    m(
        "plain",
        "policyType missing, egress there",
        "policyTypes",
        "egress isn't held",
        put(f"{NP} spec policyTypes", ["Ingress"]),
        on=NP,
        level="warning",
    ),
    m(
        "plain",
        "policy's from with ports in",
        "ingress",
        "refused",
        move(f"{NP} spec ingress 0 ports", f"{NP} spec ingress 0 from 0 ports"),
        on=NP,
    ),
    m("plain", "policy's to in ingress", "ingress", "refused", rename(f"{NP} spec ingress 0 from", "to"), on=NP),
    m(
        "plain",
        "ipBlock without mask",
        "cidr",
        "refused",
        put(f"{NP} spec egress 0 to 2 ipBlock cidr", "10.0.0.0"),
        on=NP,
    ),
    m("plain", "ipBlock with podSelector", "egress", "refused", put(f"{NP} spec egress 0 to 2 podSelector", {}), on=NP),
    m(
        "plain",
        "except outside",
        "except",
        "refused",
        put(f"{NP} spec egress 0 to 2 ipBlock except", ["192.168.0.0/24"]),
        on=NP,
    ),
    m("plain", "endPort below port", "endPort", "refused", put(f"{NP} spec ingress 0 ports 0 endPort", 8000), on=NP),
    m(
        "plain",
        "service's name for a pod's port",
        "port",
        "closed",
        put(f"{NP} spec ingress 0 ports 0 port", "triton-grpc"),
        on=NP,
    ),
    m(
        "plain",
        "namespace named by name",
        "namespaceSelector",
        "matches nothing",
        put(f"{NP} spec ingress 1 from 0 namespaceSelector matchLabels", {"name": "monitoring"}),
        on=NP,
        level="warning",
    ),
    m(
        "plain",
        "selector without matchLabels",
        "namespaceSelector",
        "refused",
        put(f"{NP} spec ingress 1 from 0 namespaceSelector", {"kubernetes.io/metadata.name": "monitoring"}),
        on=NP,
    ),
    m("full", "policy closes the gateway", "ingress", "", drop(f"{NP} spec ingress 2"), on=NP),
    m("full", "policy closes metrics", "ingress", "", drop(f"{NP} spec ingress 1"), on=NP),
    m("full", "policy closes the store", "egress", "fetch hangs", drop(f"{NP} spec egress 1"), on=NP),
    m("full", "store over port 80", "egress", "", put(f"{NP} spec egress 1 ports 0 port", 80), on=NP, level="warning"),
    # budget
    m("plain", "budget allows nothing", "maxUnavailable", "drain stands", put(f"{PDB} spec maxUnavailable", 0), on=PDB),
    m(
        "plain",
        "budget keeps all",
        "minAvailable",
        "drain stands",
        rename(f"{PDB} spec maxUnavailable", "minAvailable"),
        put(f"{PDB} spec minAvailable", 2),
        on=PDB,
    ),
    m(
        "plain",
        "budget keeps 100%",
        "minAvailable",
        "drain stands",
        rename(f"{PDB} spec maxUnavailable", "minAvailable"),
        put(f"{PDB} spec minAvailable", "100%"),
        on=PDB,
    ),
    m("plain", "budget with both", "spec", "refused", put(f"{PDB} spec minAvailable", 1), on=PDB),
    m(
        "plain",
        "budget of other pods",
        "selector",
        "guards nothing",
        put(f"{PDB} spec selector matchLabels app.kubernetes.io/instance", "w"),
        on=PDB,
    ),
    m(
        "plain",
        "budget percent without sign",
        "maxUnavailable",
        "refused",
        put(f"{PDB} spec maxUnavailable", "50"),
        on=PDB,
    ),
    m(
        "plain",
        "budget's eviction word",
        "unhealthyPodEvictionPolicy",
        "refused",
        put(f"{PDB} spec unhealthyPodEvictionPolicy", "Always"),
        on=PDB,
    ),
    m(
        "plain",
        "budget twice",
        "",
        "eviction refuses",
        double("PodDisruptionBudget", name="writer-v2-b"),
        on="PodDisruptionBudget/writer-v2-b",
    ),
    # scalers
    m(
        "claim",
        "scaler of another deployment",
        "scaleTargetRef",
        "scales nothing",
        put(f"{HPA} spec scaleTargetRef name", "writer"),
        on=HPA,
    ),
    m(
        "claim",
        "scaler's target kind",
        "scaleTargetRef",
        "",
        put(f"{HPA} spec scaleTargetRef kind", "StatefulSet"),
        on=HPA,
    ),
    m(
        "claim",
        "scaler's target version",
        "scaleTargetRef",
        "",
        put(f"{HPA} spec scaleTargetRef apiVersion", "v1"),
        on=HPA,
    ),
    m("claim", "min over max", "Replicas", "refused", put(f"{HPA} spec minReplicas", 9), on=HPA),
    m("claim", "min 0", "minReplicas", "refused", put(f"{HPA} spec minReplicas", 0), on=HPA),
    m("claim", "no maximum", "maxReplicas", "refused", drop(f"{HPA} spec maxReplicas"), on=HPA),
    m(
        "claim",
        "replicas beside the scaler",
        "spec.replicas",
        "reset by each apply",
        put("Deployment spec replicas", 2),
        level="warning",
    ),
    m(
        "claim",
        "value for averageValue",
        "target",
        "refused",
        put(f"{HPA} spec metrics 0 pods target", {"type": "AverageValue", "value": "12"}),
        on=HPA,
    ),
    m(
        "claim",
        "utilization of a pods metric",
        "target",
        "refused",
        put(f"{HPA} spec metrics 0 pods target", {"type": "Utilization", "averageUtilization": 80}),
        on=HPA,
    ),
    m("claim", "type and block differ", "metrics", "refused", put(f"{HPA} spec metrics 0 type", "Resource"), on=HPA),
    m(
        "claim",
        "cpu of no request",
        "metrics",
        "",
        put(
            f"{HPA} spec metrics",
            [
                {
                    "type": "Resource",
                    "resource": {"name": "cpu", "target": {"type": "Utilization", "averageUtilization": 80}},
                }
            ],
        ),
        drop(f"{TRITON} resources"),
        on=HPA,
    ),
    m(
        "claim",
        "averageValue 0",
        "target",
        "refused",
        put(f"{HPA} spec metrics 0 pods target averageValue", "0"),
        on=HPA,
    ),
    m(
        "claim",
        "window too long",
        "stabilizationWindowSeconds",
        "refused",
        put(f"{HPA} spec behavior scaleDown stabilizationWindowSeconds", 7200),
        on=HPA,
    ),
    m(
        "claim",
        "policy's period 0",
        "periodSeconds",
        "refused",
        put(f"{HPA} spec behavior scaleDown policies 0 periodSeconds", 0),
        on=HPA,
    ),
    m(
        "claim",
        "policy's type",
        "policies",
        "refused",
        put(f"{HPA} spec behavior scaleUp policies 0 type", "Percentage"),
        on=HPA,
    ),
    m(
        "claim",
        "two scalers for one deployment",
        "scaleTargetRef",
        "they fight",
        double("HorizontalPodAutoscaler", name="writer-cpu"),
        on="HorizontalPodAutoscaler/writer-cpu",
    ),
    m("full", "keda's target", "scaleTargetRef", "", put(f"{SO} spec scaleTargetRef name", "writer"), on=SO),
    m("full", "keda's min over max", "Replica", "", put(f"{SO} spec minReplicaCount", 20), on=SO),
    m("full", "keda with HPA's names", "", "ignored", rename(f"{SO} spec maxReplicaCount", "maxReplicas"), on=SO),
    m(
        "full",
        "keda's threshold a number",
        "threshold",
        "refused",
        put(f"{SO} spec triggers 0 metadata threshold", 12),
        on=SO,
    ),
    m(
        "full",
        "keda's threshold no number",
        "threshold",
        "error",
        put(f"{SO} spec triggers 0 metadata threshold", "twelve"),
        on=SO,
    ),
    m(
        "full",
        "keda's query doesn't parse",
        "query",
        "",
        replace(f"{SO} spec triggers 0 metadata query", ")", ""),
        on=SO,
    ),
    m(
        "full",
        "keda's query of an unknown metric",
        "query",
        "",
        replace(f"{SO} spec triggers 0 metadata query", "num_requests_running", "num_request_running"),
        on=SO,
    ),
    m(
        "full",
        "keda's query of another job",
        "query",
        "",
        replace(f"{SO} spec triggers 0 metadata query", 'job="writer-v2"', 'job="writer"'),
        on=SO,
    ),
    m(
        "full",
        "keda's query of another namespace",
        "query",
        "",
        replace(f"{SO} spec triggers 0 metadata query", 'namespace="writer-v2"', 'namespace="writer"'),
        on=SO,
    ),
    m(
        "full",
        "keda's query returns many",
        "query",
        "KEDA refuses several series",
        put(f"{SO} spec triggers 0 metadata query", 'num_requests_running{namespace="writer-v2",job="writer-v2"}'),
        on=SO,
    ),
    m(
        "full",
        "keda without serverAddress",
        "serverAddress",
        "",
        drop(f"{SO} spec triggers 0 metadata serverAddress"),
        on=SO,
    ),
    m(
        "full",
        "keda's address without scheme",
        "serverAddress",
        "",
        put(f"{SO} spec triggers 0 metadata serverAddress", "prometheus:9090"),
        on=SO,
    ),
    m("full", "keda's type in capitals", "type", "", put(f"{SO} spec triggers 0 type", "Prometheus"), on=SO),
    m(
        "full",
        "keda's metadata one level up",
        "triggers",
        "",
        move(f"{SO} spec triggers 0 metadata query", f"{SO} spec triggers 0 query"),
        on=SO,
    ),
    m(
        "full",
        "keda to zero",
        "minReplicaCount",
        "never wakes: no pod, no figure",
        put(f"{SO} spec minReplicaCount", 0),
        on=SO,
        level="warning",
    ),
    m("full", "replicas beside keda", "spec.replicas", "", put("Deployment spec replicas", 3), level="warning"),
    m("full", "keda's metricType", "metricType", "", put(f"{SO} spec triggers 0 metricType", "Average"), on=SO),
    m(
        "full",
        "keda's fallback without failureThreshold",
        "fallback",
        "",
        drop(f"{SO} spec fallback failureThreshold"),
        on=SO,
    ),
    # monitoring
    m("full", "monitor's port by number", "port", "", put(f"{PM} spec podMetricsEndpoints 0 port", 8002), on=PM),
    m("full", "monitor's port unknown", "port", "", put(f"{PM} spec podMetricsEndpoints 0 port", "prometheus"), on=PM),
    m("full", "monitor's path", "path", "", put(f"{PM} spec podMetricsEndpoints 0 path", "/metric"), on=PM),
    m(
        "full",
        "monitor's interval without unit",
        "interval",
        "",
        put(f"{PM} spec podMetricsEndpoints 0 interval", "15"),
        on=PM,
    ),
    m(
        "full",
        "monitor's interval a number",
        "interval",
        "",
        put(f"{PM} spec podMetricsEndpoints 0 interval", 15),
        on=PM,
    ),
    m(
        "full",
        "monitor's timeout over the interval",
        "scrapeTimeout",
        "refused",
        put(f"{PM} spec podMetricsEndpoints 0 scrapeTimeout", "60s"),
        on=PM,
    ),
    m(
        "full",
        "monitor's selector",
        "selector",
        "",
        put(f"{PM} spec selector matchLabels app.kubernetes.io/instance", "writer"),
        on=PM,
    ),
    m(
        "full",
        "monitor became a ServiceMonitor",
        "",
        "",
        put(f"{PM} kind", "ServiceMonitor"),
        on="ServiceMonitor/writer-v2",
    ),
    m("full", "monitor's https", "scheme", "", put(f"{PM} spec podMetricsEndpoints 0 scheme", "https"), on=PM),
    m("full", "monitor of another namespace", "", "", put(f"{PM} metadata namespace", "monitoring"), on=PM),
]
R = f"{PR} spec groups 0 rules"
MORE = [
    m(
        "full",
        "alert's expression broken",
        "expr",
        "",
        replace(f"{R} DeploykitDown expr", "absent(", "absent(" * 2),
        on=PR,
    ),
    m(
        "full",
        "alert's metric without _total",
        "expr",
        "",
        replace(f"{R} DeploykitStalled expr", "generation_tokens_total", "generation_tokens"),
        on=PR,
    ),
    m(
        "full",
        "alert of another job",
        "expr",
        "",
        replace(f"{R} DeploykitStalled expr", 'job="writer-v2"', 'job="writer"'),
        on=PR,
    ),
    m("full", "alert's window without unit", "expr", "", replace(f"{R} DeploykitStalled expr", "[5m]", "[5]"), on=PR),
    m(
        "full",
        "alert's window below the interval",
        "expr",
        "",
        replace(f"{R} DeploykitStalled expr", "[5m]", "[10s]"),
        on=PR,
    ),
    m("full", "rate without window", "expr", "", replace(f"{R} DeploykitStalled expr", "[5m]", ""), on=PR),
    m(
        "full",
        "a gauge's increase",
        "expr",
        "",
        put(
            f"{R} DeploykitStalled expr",
            'increase(num_requests_running{namespace="writer-v2",job="writer-v2"}[5m]) > 0',
        ),
        on=PR,
    ),
    m(
        "full",
        "alert without comparison",
        "expr",
        "always fires",
        put(f"{R} DeploykitStalled expr", 'sum(num_requests_running{namespace="writer-v2",job="writer-v2"})'),
        on=PR,
        level="warning",
    ),
    m("full", "alert's for a number", "for", "", put(f"{R} DeploykitDown for", 5), on=PR),
    m("full", "alert's for without unit", "for", "", put(f"{R} DeploykitDown for", "5"), on=PR),
    m("full", "alert and record both", "", "", put(f"{R} DeploykitDown record", "a:b"), on=PR),
    m("full", "alert without expr", "expr", "", drop(f"{R} DeploykitDown expr"), on=PR),
    m(
        "full",
        "alert's name with blanks is fine but template broken",
        "annotations",
        "",
        put(f"{R} DeploykitDown annotations summary", "{{ $label.pod }"),
        on=PR,
    ),
    m("full", "group's name twice", "groups", "", put(f"{PR} spec groups 1 name", "writer-v2.deploykit"), on=PR),
    m("full", "rules under spec", "spec", "", move(f"{PR} spec groups", f"{PR} spec rules"), on=PR, level="warning"),
    m("full", "severity a number", "labels", "", put(f"{R} DeploykitDown labels severity", 1), on=PR),
    m("full", "group's interval", "interval", "", put(f"{PR} spec groups 0 interval", "30"), on=PR),
    # objects
    m("plain", "deployment twice", "", "refused / overwritten", double("Deployment"), on=D),
    m("plain", "namespace renamed", "namespace", "not found", put("Namespace metadata name", "writer"), on=D),
]

MISTAKES: Final = (*EDITED, *MORE)
