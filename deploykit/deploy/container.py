"""The container that serves: its command line, ports, probes, and what it may do."""

from typing import Final

from lightkube.models.core_v1 import (
    Capabilities,
    Container,
    ContainerPort,
    EnvVar,
    ExecAction,
    HTTPGetAction,
    Lifecycle,
    LifecycleHandler,
    Probe,
    ResourceRequirements,
    SeccompProfile,
    SecurityContext,
    VolumeMount,
)

from deploykit.config import EngineConfig
from deploykit.deploy.config import GRPC_PORT, HEALTH_PORT, HTTP_PORT, METRICS_PORT, MODELS, DeployConfig
from deploykit.deploy.facts import ModelFacts
from deploykit.deploy.names import TRITON, image
from deploykit.deploy.sizing import SHM, TMP, Share, Sizing, cores, quantity

READY: Final = "/v2/health/ready"
LIVE: Final = "/v2/health/live"
HEARTBEAT: Final = 15
"""Seconds of an engine's silence after which its backend is started again: with the restart, half a minute."""
GATEWAY_AHEAD: Final = 2
"""Seconds that Triton takes requests longer than a gateway beside it, which may have taken one at its last moment."""


def serving(facts: ModelFacts, sizing: Sizing, config: DeployConfig) -> Container:
    """Return the container with `deploykit serve`, all but the place its model comes from."""
    return Container(
        name=TRITON,
        image=image(facts, config),
        imagePullPolicy=pull_policy(config),
        command=["deploykit"],
        args=arguments(facts, sizing, config),
        env=environment(),
        ports=[
            ContainerPort(name="http", containerPort=HTTP_PORT, protocol="TCP"),
            ContainerPort(name="grpc", containerPort=GRPC_PORT, protocol="TCP"),
            ContainerPort(name="metrics", containerPort=METRICS_PORT, protocol="TCP"),
            ContainerPort(name="health", containerPort=HEALTH_PORT, protocol="TCP"),
        ],
        startupProbe=asked(READY, "health", period=5, failures=sizing.startup_threshold),
        readinessProbe=asked(READY, "health", period=5, failures=3),
        # Of the heartbeat, never of an inference: that kills busy pods. `serve` has restarted what is dead before.
        livenessProbe=asked(LIVE, "health", period=10, failures=6),
        lifecycle=pause(config.pre_stop + (GATEWAY_AHEAD if config.gateway else 0)),
        resources=resources(sizing.serve),
        securityContext=security(),
        volumeMounts=[VolumeMount(name="tmp", mountPath=TMP), VolumeMount(name="shm", mountPath=SHM)],
        terminationMessagePolicy="FallbackToLogsOnError",
    )


def arguments(facts: ModelFacts, sizing: Sizing, config: DeployConfig) -> list[str]:
    """Return what follows `deploykit`: all that the pod was sized by, and what else isn't the default."""
    engine = config.engine
    return [
        "serve",
        MODELS,
        "--host=0.0.0.0",
        f"--http-port={HTTP_PORT}",
        f"--grpc-port={GRPC_PORT}",
        f"--metrics-port={METRICS_PORT}",
        f"--health-port={HEALTH_PORT}",
        f"--max-rows={facts.rows}",
        f"--max-context={facts.context}",
        f"--cache-memory={sizing.cache}",
        f"--threads={config.cpu}",
        f"--startup-timeout={sizing.startup_seconds}",
        f"--heartbeat-timeout={HEARTBEAT}",
        f"--exit-timeout={config.exit_timeout}",
        f"--connection-age={connection_age(config):g}",
        *(
            f"--{name.replace('_', '-')}={getattr(engine, name)}"
            for name in ("mode", "max_queue", "prefill_chunk")
            if getattr(engine, name) != getattr(EngineConfig, name)
        ),
        *(f"--{name.replace('_', '-')}" for name in ("log_requests", "log_prompts") if getattr(engine, name)),
    ]


def connection_age(config: DeployConfig) -> float:
    """Return after how many seconds callers have to connect anew: gone before SIGTERM, from a pod that is to end.

    Half of the wait before it, and up to a tenth more, as gRPC draws it; the rest is for the cluster to hear of it.
    """
    return config.pre_stop / 2


def environment() -> list[EnvVar]:
    """Return what a container needs whose only writable place is /tmp, and whose user no file names."""
    return [EnvVar(name="HOME", value=TMP)]


def asked(path: str, port: str, *, period: int, failures: int) -> Probe:
    """Return a probe by HTTP: `failures` answers other than 2xx and 3xx in a row count."""
    return Probe(
        httpGet=HTTPGetAction(path=path, port=port, scheme="HTTP"),
        periodSeconds=period,
        timeoutSeconds=3,
        failureThreshold=failures,
        successThreshold=1,
    )


def pause(seconds: int) -> Lifecycle:
    """Return a wait between the end's announcement and SIGTERM, in which the cluster stops sending.

    By a command: `lifecycle.preStop.sleep` needs Kubernetes 1.30, and 1.28 is supported.
    """
    return Lifecycle(preStop=LifecycleHandler(exec=ExecAction(command=["sleep", str(seconds)])))


def resources(share: Share) -> ResourceRequirements:
    """Return requests and limits alike: a pod of the class Guaranteed is the last that a node in need ends."""
    amounts = {
        "cpu": cores(share.cpu_millis),
        "memory": quantity(share.memory),
        "ephemeral-storage": quantity(share.ephemeral),
    }
    return ResourceRequirements(requests=amounts, limits=dict(amounts))


def security() -> SecurityContext:
    """Return what Pod Security's profile "restricted" wants of a container, and a read-only root.

    https://kubernetes.io/docs/concepts/security/pod-security-standards/#restricted. The IDs stand with the pod alone,
    where OpenShift's component drops them.
    """
    return SecurityContext(
        allowPrivilegeEscalation=False,
        capabilities=Capabilities(drop=["ALL"]),
        privileged=False,
        readOnlyRootFilesystem=True,
        runAsNonRoot=True,
        seccompProfile=SeccompProfile(type="RuntimeDefault"),
    )


def pull_policy(config: DeployConfig) -> str:
    """Return when a node asks the registry for the image.

    Always where it comes from one: nodes keep images for every pod, also for those that may not pull them. An image
    of one's own building, which no registry has, is taken as the node has it.
    """
    return "IfNotPresent" if config.image is None else "Always"
