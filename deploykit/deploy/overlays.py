"""Where pods run: on a GPU's node, on OpenShift, in a cloud; a component for each."""

from typing import Any, Final

from lightkube.models.core_v1 import Toleration
from lightkube.resources.apps_v1 import Deployment

from deploykit.deploy.clouds import aks, eks, gke
from deploykit.deploy.config import METRICS_PORT, DeployConfig
from deploykit.deploy.facts import ModelFacts
from deploykit.deploy.kustomize import Component, merge
from deploykit.deploy.names import ACCELERATOR, TRITON, kind_of, kubernetes_name
from deploykit.deploy.network import from_namespace, let_in, more_rules, names

CPU_ONLY: Final = (
    "This release computes on the CPU on such a node, too: the pod holds the GPU and doesn't use it.\n"
    "It is for clusters whose only nodes have GPUs, and for what comes."
)
"""What every place must say that speaks of a GPU."""


def platforms(facts: ModelFacts, config: DeployConfig) -> list[Component]:
    """Return the components of every place but an ordinary node."""
    return [
        gpu(facts, config),
        mig(facts, config),
        openshift(facts),
        eks(facts, config),
        aks(facts, config),
        gke(facts, config),
    ]


def gpu(facts: ModelFacts, config: DeployConfig) -> Component:
    """Return the component that takes a whole GPU."""
    return _accelerated(facts, config, "gpu", "nvidia.com/gpu", f"A GPU for each pod.\n{CPU_ONLY}")


def mig(facts: ModelFacts, config: DeployConfig) -> Component:
    """Return the component that takes a slice of a GPU (strategy "mixed" of NVIDIA's device plugin)."""
    why = f"A slice of a GPU for each pod, {config.mig_profile}.\n{CPU_ONLY}"
    return _accelerated(facts, config, "mig", f"nvidia.com/mig-{config.mig_profile}", why)


def openshift(facts: ModelFacts) -> Component:
    """Return the component that leaves IDs to OpenShift, and speaks to its DNS and its Prometheus.

    SCC restricted-v2 gives each namespace a range of IDs and refuses others. DNS pods listen on 5353 behind port 53 of
    their Service, and a policy sees the pod's port. Metrics of users' workloads are read from a namespace of its own.
    """
    no_ids = {"runAsUser": None, "runAsGroup": None, "fsGroup": None}
    pods = merge(
        "deployment.yaml",
        kind_of(Deployment),
        kubernetes_name(facts.name),
        metadata={
            "annotations": {"checkov.io/skip1": "CKV_K8S_40=OpenShift gives a high UID, of the namespace's range"}
        },
        spec={"template": {"spec": {"securityContext": no_ids}}},
    )
    prometheus = let_in(METRICS_PORT, [from_namespace("openshift-user-workload-monitoring")])
    return Component(
        name="openshift",
        comment="OpenShift: no fixed IDs, its DNS and its Prometheus.",
        patches=[
            pods,
            more_rules(facts, "network-policy.yaml", ingress=[prometheus], egress=[names(5353)]),
        ],
    )


def _accelerated(facts: ModelFacts, config: DeployConfig, name: str, resource: str, why: str) -> Component:
    pod: dict[str, Any] = {
        "containers": [{"name": TRITON, "resources": {kind: {resource: "1"} for kind in ("limits", "requests")}}],
        "tolerations": [Toleration(key="nvidia.com/gpu", operator="Exists", effect="NoSchedule")],
    }
    if config.gpu_product:
        pod["nodeSelector"] = {"nvidia.com/gpu.product": config.gpu_product}
    if config.runtime_class:
        pod["runtimeClassName"] = config.runtime_class
    # A rollout that first adds a pod would wait for a GPU that isn't free: one ends, and its GPU serves the next.
    strategy = {"rollingUpdate": {"maxSurge": 0, "maxUnavailable": 1}}
    patch = merge(
        "deployment.yaml",
        kind_of(Deployment),
        kubernetes_name(facts.name),
        metadata={"annotations": {ACCELERATOR: name}},
        spec={"strategy": strategy, "template": {"spec": pod}},
    )
    return Component(name=name, comment=why, patches=[patch])
