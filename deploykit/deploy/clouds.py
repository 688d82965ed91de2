"""What each of the three large clouds needs, and nothing else.

What a load balancer needs is set on the Service, whose type stays ClusterIP: who makes a load balancer, an ingress or a
gateway of it, in an overlay of their own, finds what that needs, and nobody else notices.
"""

from collections.abc import Mapping
from typing import Any, Final

from lightkube.models.core_v1 import Toleration
from lightkube.models.networking_v1 import NetworkPolicyEgressRule, NetworkPolicyPort
from lightkube.resources.apps_v1 import Deployment
from lightkube.resources.core_v1 import Namespace, Service

from deploykit.config import GatewayConfig
from deploykit.deploy.config import GATEWAY_PORT, DeployConfig
from deploykit.deploy.facts import ModelFacts
from deploykit.deploy.google import BackendConfig
from deploykit.deploy.kustomize import Component, Patch, merge
from deploykit.deploy.names import ACCELERATOR, TRITON, kind_of, kubernetes_name, metadata
from deploykit.deploy.network import PRIVATE, block, let_in, more_rules

GOOGLE: Final = ("35.191.0.0/16", "130.211.0.0/22")
"""https://cloud.google.com/load-balancing/docs/health-check-concepts#ip-ranges; requests come from them, too."""
HEALTH: Final = "/health"
"""What a load balancer may ask the gateway."""


def eks(facts: ModelFacts, config: DeployConfig) -> Component:
    """Return what Amazon's load balancers need, by the AWS Load Balancer Controller.

    Internal, since Triton asks nobody for a key, and with pods as targets, so that a pod that ends is drained by
    itself. https://kubernetes-sigs.github.io/aws-load-balancer-controller/latest/guide/service/annotations/
    `-internal` says the same to the controller that is part of Kubernetes, which knows no `-scheme`: where the other
    isn't installed, it would make a balancer that the internet reaches.
    """
    balancer = "service.beta.kubernetes.io/aws-load-balancer"
    annotations = {
        f"{balancer}-scheme": "internal",
        f"{balancer}-internal": "true",
        f"{balancer}-nlb-target-type": "ip",
    }
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
        comment="Amazon EKS: an internal load balancer, if the Service becomes one, with pods as its targets.\n"
        "NetworkPolicies hold only where they are switched on: enableNetworkPolicy of the add-on vpc-cni.",
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
        # Google's proxies and health checks, and callers of an internal balancer: it hands their addresses on, or its
        # proxies stand in a subnet of the VPC.
        patches.append(_from_balancers(facts, (*GOOGLE, *PRIVATE)))
        resources["backend-config.yaml"] = [_backend(facts, config)]
    return Component(
        name="gke",
        comment="Google GKE: an internal load balancer, if the Service becomes one, that sends to pods; with the\n"
        "component gpu or mig in front of it, Google's labels of GPU nodes.",
        resources=resources,
        patches=[_service(facts, annotations), *(patch for patch in patches if patch)],
    )


def _wanting(facts: ModelFacts, accelerator: str, pod: Mapping[str, Any]) -> Patch:
    """Return a change of pods that want that accelerator, and of no others."""
    return merge(
        f"deployment-{accelerator}.yaml",
        kind_of(Deployment),
        kubernetes_name(facts.name),
        spec={"template": {"spec": pod}},
        annotation=f"{ACCELERATOR}={accelerator}",
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
        kind="Deployment",
        name=kubernetes_name(facts.name),
        annotation=f"{ACCELERATOR}={accelerator}",
    )


def _google_gpu(facts: ModelFacts, config: DeployConfig) -> Patch | None:
    if not config.gpu_product:
        return None
    return _wanting(facts, "gpu", _google_nodes(config))


def _google_mig(facts: ModelFacts, config: DeployConfig) -> Patch:
    """Return a change of a pod that wants a slice: on GKE it is a GPU on a node whose GPUs are cut like that.

    https://cloud.google.com/kubernetes-engine/docs/how-to/gpus-multi
    """
    amounts = {f"nvidia.com/mig-{config.mig_profile}": None, "nvidia.com/gpu": "1"}
    container = {"name": TRITON, "resources": {"limits": amounts, "requests": amounts}}
    nodes = _google_nodes(config)
    nodes["nodeSelector"]["cloud.google.com/gke-gpu-partition-size"] = config.mig_profile
    return _wanting(facts, "mig", {"containers": [container], **nodes})


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
