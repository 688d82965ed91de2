"""Where pods run: on a GPU's node, on OpenShift, on the three large clouds; a component for each.

What a cloud's load balancer needs is set on the Service, whose type stays ClusterIP: who makes a load balancer, an
ingress or a gateway of it finds what that needs, and nobody else notices.
"""

from collections.abc import Mapping
from typing import Any, Final

from lightkube.models.core_v1 import Toleration
from lightkube.models.networking_v1 import NetworkPolicyEgressRule, NetworkPolicyPort
from lightkube.resources.apps_v1 import Deployment
from lightkube.resources.core_v1 import Namespace, Service

from deploykit.config import GatewayConfig
from deploykit.deploy.config import GATEWAY_PORT, METRICS_PORT, DeployConfig
from deploykit.deploy.facts import ModelFacts
from deploykit.deploy.google import BackendConfig
from deploykit.deploy.kustomize import Component, Patch, merge
from deploykit.deploy.names import PREFIX, TRITON, kind_of, kubernetes_name, metadata
from deploykit.deploy.network import PRIVATE, block, from_namespace, let_in, more_rules, names

CPU_ONLY: Final = (
    "This release computes on the CPU on such a node, too: the pod holds the GPU and doesn't use it.\n"
    "It is for clusters whose only nodes have GPUs, and for what comes."
)
"""What every place must say that speaks of a GPU."""
ACCELERATOR: Final = f"{PREFIX}/accelerator"
"""Annotation of a Deployment whose pods want a GPU or a slice of one, by which the clouds' components know."""
GOOGLE: Final = ("35.191.0.0/16", "130.211.0.0/22")
"""https://cloud.google.com/load-balancing/docs/health-check-concepts#ip-ranges; requests come from them, too."""
HEALTH: Final = "/health"
"""What a load balancer may ask the gateway."""


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
    pod = {"template": {"spec": {"securityContext": no_ids}}}
    prometheus = let_in(METRICS_PORT, [from_namespace("openshift-user-workload-monitoring")])
    return Component(
        name="openshift",
        comment="OpenShift: no fixed IDs, its DNS and its Prometheus.",
        patches=[
            _deployment(facts, "deployment.yaml", pod),
            more_rules(facts, "network-policy.yaml", ingress=[prometheus], egress=[names(5353)]),
        ],
    )


def eks(facts: ModelFacts, config: DeployConfig) -> Component:
    """Return what Amazon's load balancers need, by the AWS Load Balancer Controller.

    Internal, since Triton asks nobody for a key, and with pods as targets, so that a pod that ends is drained by
    itself. https://kubernetes-sigs.github.io/aws-load-balancer-controller/latest/guide/service/annotations/
    """
    balancer = "service.beta.kubernetes.io/aws-load-balancer"
    annotations = {f"{balancer}-scheme": "internal", f"{balancer}-nlb-target-type": "ip"}
    patches: list[Patch] = []
    if config.gateway:
        annotations |= {
            f"{balancer}-healthcheck-protocol": "http",
            f"{balancer}-healthcheck-port": str(GATEWAY_PORT),
            f"{balancer}-healthcheck-path": HEALTH,
            # The same for an ALB of an Ingress.
            "alb.ingress.kubernetes.io/target-type": "ip",
            "alb.ingress.kubernetes.io/healthcheck-path": HEALTH,
        }
        patches = [_from_balancers(facts, PRIVATE), *_gated(facts, config)]
    if config.delivery == "s3":
        patches.append(_pod_identity(facts))
    return Component(
        name="eks",
        comment="Amazon EKS: an internal load balancer, if the Service becomes one, with pods as its targets.",
        patches=[_service(facts, annotations), *patches],
    )


def aks(facts: ModelFacts, config: DeployConfig) -> Component:
    """Return what Azure's load balancers need, and the toleration of its GPU nodes.

    Internal, since Triton asks nobody for a key. A port with `appProtocol: http` is probed at `/` unless told
    otherwise, where the gateway has nothing: https://cloud-provider-azure.sigs.k8s.io/topics/loadbalancer/. GPU nodes
    have the taint `sku=gpu` in Azure's guide: https://learn.microsoft.com/azure/aks/use-nvidia-gpu
    """
    annotations = {"service.beta.kubernetes.io/azure-load-balancer-internal": "true"}
    patches = [_sku(facts, accelerator) for accelerator in ("gpu", "mig")]
    if config.gateway:
        annotations[f"service.beta.kubernetes.io/port_{GATEWAY_PORT}_health-probe_request-path"] = HEALTH
        patches.append(_from_balancers(facts, PRIVATE))
    return Component(
        name="aks",
        comment="Azure AKS: an internal load balancer, if the Service becomes one; with the component gpu or mig in\n"
        "front of it, the toleration of Azure's GPU nodes.",
        patches=[_service(facts, annotations), *patches],
    )


def gke(facts: ModelFacts, config: DeployConfig) -> Component:
    """Return what Google's load balancers need, and how its GPU nodes are chosen.

    Internal, since Triton asks nobody for a key, and container-native (an ingress sends to pods, not to nodes):
    https://cloud.google.com/kubernetes-engine/docs/how-to/container-native-load-balancing. Nodes are labelled by
    Google's name of the GPU, NVIDIA's label isn't there: https://cloud.google.com/kubernetes-engine/docs/how-to/gpus
    """
    annotations = {"networking.gke.io/load-balancer-type": "Internal", "cloud.google.com/neg": '{"ingress": true}'}
    patches = [_google_gpu(facts, config), _google_mig(facts, config)]
    resources = {}
    if config.gateway:
        annotations["cloud.google.com/backend-config"] = f'{{"default": "{kubernetes_name(facts.name)}"}}'
        patches.append(_from_balancers(facts, GOOGLE))
        resources["backend-config.yaml"] = [_backend(facts, config)]
    return Component(
        name="gke",
        comment="Google GKE: an internal load balancer, if the Service becomes one, that sends to pods; with the\n"
        "component gpu or mig in front of it, Google's labels of GPU nodes.",
        resources=resources,
        patches=[_service(facts, annotations), *(patch for patch in patches if patch)],
    )


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


def _deployment(facts: ModelFacts, file: str, spec: Mapping[str, Any], accelerator: str | None = None) -> Patch:
    """Return a change of the Deployment; only of one whose pods want that accelerator, where one is named."""
    return merge(
        file,
        kind_of(Deployment),
        kubernetes_name(facts.name),
        spec=spec,
        annotation=f"{ACCELERATOR}={accelerator}" if accelerator else None,
    )


def _service(facts: ModelFacts, annotations: dict[str, str]) -> Patch:
    return merge(
        "service.yaml", kind_of(Service), kubernetes_name(facts.name), metadata={"annotations": dict(annotations)}
    )


def _from_balancers(facts: ModelFacts, addresses: tuple[str, ...]) -> Patch:
    """Return a change that lets a cloud's load balancers in, whose requests come from no pod of the cluster."""
    rule = let_in(GATEWAY_PORT, [block(each) for each in addresses])
    return more_rules(facts, "network-policy.yaml", ingress=[rule])


def _gated(facts: ModelFacts, config: DeployConfig) -> list[Patch]:
    """Return what makes a rollout wait until the load balancer knows the new pod, before an old one goes.

    https://kubernetes-sigs.github.io/aws-load-balancer-controller/latest/deploy/pod_readiness_gate/; of a namespace
    that isn't ours, its owner decides.
    """
    if config.namespace is not None:
        return []
    label = {"elbv2.k8s.aws/pod-readiness-gate-inject": "enabled"}
    return [merge("namespace.yaml", kind_of(Namespace), kubernetes_name(facts.name), metadata={"labels": label})]


def _pod_identity(facts: ModelFacts) -> Patch:
    """Return the way to the agent that gives pods their AWS role, so that no key has to lie in a Secret.

    https://docs.aws.amazon.com/eks/latest/userguide/pod-id-how-it-works.html; which role, is said outside the cluster.
    """
    rule = NetworkPolicyEgressRule(to=[block("169.254.170.23/32")], ports=[NetworkPolicyPort(port=80, protocol="TCP")])
    return more_rules(facts, "network-policy-agent.yaml", egress=[rule])


def _sku(facts: ModelFacts, accelerator: str) -> Patch:
    toleration = Toleration(key="sku", operator="Equal", value="gpu", effect="NoSchedule")
    added = {"op": "add", "path": "/spec/template/spec/tolerations/-", "value": toleration}
    return Patch(
        file=f"deployment-{accelerator}.yaml",
        body=[added],
        name=kubernetes_name(facts.name),
        annotation=f"{ACCELERATOR}={accelerator}",
    )


def _google_gpu(facts: ModelFacts, config: DeployConfig) -> Patch | None:
    if not config.gpu_product:
        return None
    return _deployment(facts, "deployment-gpu.yaml", {"template": {"spec": _google_nodes(config)}}, "gpu")


def _google_mig(facts: ModelFacts, config: DeployConfig) -> Patch:
    """Return a change of a pod that wants a slice: on GKE it is a GPU on a node whose GPUs are cut like that.

    https://cloud.google.com/kubernetes-engine/docs/how-to/gpus-multi
    """
    amounts = {f"nvidia.com/mig-{config.mig_profile}": None, "nvidia.com/gpu": "1"}
    container = {"name": TRITON, "resources": {"limits": amounts, "requests": amounts}}
    nodes = _google_nodes(config)
    nodes["nodeSelector"]["cloud.google.com/gke-gpu-partition-size"] = config.mig_profile
    return _deployment(
        facts, "deployment-mig.yaml", {"template": {"spec": {"containers": [container], **nodes}}}, "mig"
    )


def _google_nodes(config: DeployConfig) -> dict[str, Any]:
    product = config.gpu_product
    chosen = {"nvidia.com/gpu.product": None, "cloud.google.com/gke-accelerator": product} if product else {}
    return {"nodeSelector": chosen}


def _backend(facts: ModelFacts, config: DeployConfig) -> BackendConfig:
    """Return how an ingress treats the gateway: by itself it would end every stream after 30 seconds.

    https://cloud.google.com/kubernetes-engine/docs/how-to/ingress-configuration
    """
    return BackendConfig(
        metadata=metadata(facts),
        timeout=int(GatewayConfig.timeout),
        draining=config.pre_stop + config.exit_timeout,
        path=HEALTH,
        port=GATEWAY_PORT,
    )
