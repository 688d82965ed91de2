"""How callers find the pods."""

from lightkube.models.core_v1 import ServicePort, ServiceSpec
from lightkube.resources.core_v1 import Service

from deploykit.deploy.config import GATEWAY_PORT, GRPC_PORT
from deploykit.deploy.facts import ModelFacts
from deploykit.deploy.kustomize import Patch, merge
from deploykit.deploy.names import OPENAI, kind_of, kubernetes_name, metadata, selector

HEADLESS = "-headless"


def service(facts: ModelFacts) -> Service:
    """Return the Service, with gRPC alone; the gateway's component adds its own port.

    Not Triton's HTTP: some malformed bodies end the server (a `shape` of 2^33, JSON nested very deep), and nothing
    stands before it. What speaks HTTP to callers is the gateway, which checks first.
    """
    return Service(
        **kind_of(Service),
        metadata=metadata(facts),
        spec=ServiceSpec(type="ClusterIP", selector=selector(facts), ports=[_grpc()]),
    )


def headless_service(facts: ModelFacts) -> Service:
    """Return the Service whose name resolves to every ready pod.

    A gRPC channel to a ClusterIP is one connection, hence one pod for as long as it lasts; with
    `dns:///NAME-headless.NAMESPACE.svc.cluster.local:8001` and the policy `round_robin` a client balances by itself.
    """
    return Service(
        **kind_of(Service),
        metadata=metadata(facts, HEADLESS),
        spec=ServiceSpec(type="ClusterIP", clusterIP="None", selector=selector(facts), ports=[_grpc()]),
    )


def openai(facts: ModelFacts) -> Patch:
    """Return the change that has the Service offer OpenAI's API."""
    port = ServicePort(name=OPENAI, port=GATEWAY_PORT, targetPort=OPENAI, protocol="TCP", appProtocol="http")
    return merge("service.yaml", kind_of(Service), kubernetes_name(facts.name), spec={"ports": [port]})


def _grpc() -> ServicePort:
    # The name tells meshes what it is, the protocol tells what implements the Gateway API (KEP-3726).
    return ServicePort(name="grpc", port=GRPC_PORT, targetPort="grpc", protocol="TCP", appProtocol="kubernetes.io/h2c")
