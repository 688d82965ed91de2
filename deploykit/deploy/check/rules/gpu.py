"""Rules on GPUs: what is asked for, and whether the pod gets to a node that has it."""

import re
from collections.abc import Iterator
from typing import Any, Final

from deploykit.deploy.check.finding import Finding
from deploykit.deploy.check.manifests import Manifests, Pods, mapping, sequence
from deploykit.deploy.facts import ModelFacts

_GPU: Final = re.compile(
    r"nvidia\.com/(gpu(\.shared)?|mig-[1-9]g\.[0-9]+gb(\.me|\.all)?)|amd\.com/gpu|gpu\.intel\.com/\w+"
)
_LIKE_GPU: Final = re.compile(r"(nvidia|amd)[^/]*/.*|.*/(gpus?|mig)([^a-z].*)?", re.IGNORECASE)
_LABEL: Final = re.compile(r"nvidia\.com/(gpu|mig)\..+|cloud\.google\.com/gke-accelerator|.*/accelerator")


def gpu_name(manifests: Manifests, _facts: ModelFacts | None) -> Iterator[Finding]:
    """A GPU under a name that no device plugin gives: the pod is never scheduled."""
    for pods, path, name, value in _asked(manifests):
        if _GPU.fullmatch(name) or not _LIKE_GPU.fullmatch(name) or not name.startswith(("nvidia", "NVIDIA", "amd")):
            continue
        if name.startswith(("nvidia.com/", "amd.com/")) and not re.search(r"gpu|mig", name, re.IGNORECASE):
            continue
        meant = (
            "nvidia.com/mig-1g.10gb" if "mig" in name else "amd.com/gpu" if name.startswith("amd") else "nvidia.com/gpu"
        )
        why = "no device plugin gives a resource of that name: the pod stays pending"
        sure = name.lower().rstrip("s") in ("nvidia.com/gpu", "amd.com/gpu", "nvidia/gpu")
        yield pods.resource.find(
            "gpu-name", f"{path}.{name}", value, why, f"write {meant}", level="error" if sure else "warning"
        )


def gpu_kinds(manifests: Manifests, _facts: ModelFacts | None) -> Iterator[Finding]:
    """A pod that asks for two kinds of GPUs: few nodes have both."""
    for pods in manifests.pods():
        names = sorted({name for each, _, name, _ in _asked(manifests) if each.path and each.resource is pods.resource})
        kinds = [name for name in names if _GPU.fullmatch(name)]
        if len(kinds) > 1:
            why = f"a node must have {' and '.join(kinds)} free at once"
            yield pods.resource.find(
                "gpu-kinds", pods.path, ", ".join(kinds), why, "ask for one of them", level="warning"
            )


def gpu_node_without_toleration(manifests: Manifests, _facts: ModelFacts | None) -> Iterator[Finding]:
    """A pod for nodes with GPUs that doesn't tolerate their usual taint: it may stay pending."""
    for pods in manifests.pods():
        labels = [key for key in mapping(pods.spec.get("nodeSelector")) if _LABEL.fullmatch(str(key))]
        tolerations = [mapping(each) for each in sequence(pods.spec.get("tolerations"))]
        if labels and "nvidia" in labels[0] and not any(_tolerates(each) for each in tolerations):
            yield pods.resource.find(
                "gpu-node-without-toleration", f"{pods.path}.tolerations", None,
                f"nodeSelector asks for {labels[0]}, and nodes with GPUs usually have the taint nvidia.com/gpu: the "
                "pod may stay pending",
                "add {key: nvidia.com/gpu, operator: Exists, effect: NoSchedule}", level="warning",
            )  # fmt: skip


def gpu_node_without_gpu(manifests: Manifests, _facts: ModelFacts | None) -> Iterator[Finding]:
    """A pod that wants a node with GPUs and asks for none: it gets none, and keeps the place."""
    for pods in manifests.pods():
        labels = [key for key in mapping(pods.spec.get("nodeSelector")) if _LABEL.fullmatch(str(key))]
        asked = any(_GPU.fullmatch(name) for each, _, name, _ in _asked(manifests) if each.resource is pods.resource)
        if labels and not asked and not pods.spec.get("resourceClaims"):
            why = "the pod goes to a node with GPUs, and asks for none of them: its containers see none"
            field = f"{pods.path}.nodeSelector.{labels[0]}"
            value = mapping(pods.spec.get("nodeSelector"))[labels[0]]
            remedy = "add limits: {nvidia.com/gpu: 1}, or take the selector out"
            yield pods.resource.find("gpu-node-without-gpu", field, value, why, remedy, level="warning")


def _tolerates(toleration: Any) -> bool:
    return toleration.get("key") in (None, "", "nvidia.com/gpu")


def _asked(manifests: Manifests) -> Iterator[tuple[Pods, str, str, object]]:
    for pods in manifests.pods():
        for container in pods.containers:
            for kind in ("limits", "requests"):
                for name, value in mapping(mapping(container.body.get("resources")).get(kind)).items():
                    yield pods, f"{container.path}.resources.{kind}", str(name), value


RULES: Final = (gpu_name, gpu_kinds, gpu_node_without_toleration, gpu_node_without_gpu)
