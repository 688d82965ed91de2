"""The Deployment: pods that serve a model, where they run, and how a new version takes over."""

from typing import Final

from lightkube.models.apps_v1 import DeploymentSpec, DeploymentStrategy, RollingUpdateDeployment
from lightkube.models.core_v1 import (
    EmptyDirVolumeSource,
    LocalObjectReference,
    PodSecurityContext,
    PodSpec,
    PodTemplateSpec,
    SeccompProfile,
    TopologySpreadConstraint,
    Volume,
)
from lightkube.models.meta_v1 import ObjectMeta
from lightkube.resources.apps_v1 import Deployment
from lightkube.resources.core_v1 import ServiceAccount

from deploykit.deploy import delivery
from deploykit.deploy.config import DeployConfig
from deploykit.deploy.container import serving
from deploykit.deploy.facts import ModelFacts
from deploykit.deploy.names import (
    NEEDS,
    TRITON,
    kind_of,
    kubernetes_name,
    labels,
    metadata,
    pod_selector,
)
from deploykit.deploy.sizing import MIB, Sizing, quantity

USER: Final = 10001
"""User, group and group of the volumes: above the IDs that a node's own users have."""
PULL: Final = 600
"""Seconds that a node may take to pull the image, before a rollout counts as stuck."""
SPEED: Final = 20 * MIB
"""Bytes a second at which the model may come, in the image or by itself."""


def service_account(facts: ModelFacts) -> ServiceAccount:
    """Return the pods' identity, which has no token: they never talk to Kubernetes."""
    return ServiceAccount(**kind_of(ServiceAccount), metadata=metadata(facts), automountServiceAccountToken=False)


def deployment(facts: ModelFacts, sizing: Sizing, config: DeployConfig) -> Deployment:
    """Return the Deployment; the number of its pods is left to what scales, where something does."""
    needed = delivery.needs(config)
    pod = delivery.apply(pod_spec(facts, sizing, config), facts, sizing, config)
    return Deployment(
        **kind_of(Deployment),
        metadata=metadata(facts, annotations={NEEDS: ", ".join(needed)} if needed else None),
        spec=DeploymentSpec(
            replicas=config.replicas if config.scaling == "none" else None,
            selector=pod_selector(facts),
            # A pod that dies of its first requests must not have replaced a good one by then.
            minReadySeconds=10,
            progressDeadlineSeconds=sizing.startup_seconds + PULL + facts.size // SPEED,
            revisionHistoryLimit=3,
            strategy=DeploymentStrategy(
                type="RollingUpdate", rollingUpdate=RollingUpdateDeployment(maxSurge=1, maxUnavailable=0)
            ),
            template=PodTemplateSpec(
                metadata=ObjectMeta(
                    labels=labels(facts), annotations={"kubectl.kubernetes.io/default-container": TRITON}
                ),
                spec=pod,
            ),
        ),
    )


def pod_spec(facts: ModelFacts, sizing: Sizing, config: DeployConfig) -> PodSpec:
    """Return the pod, all but the place its model comes from."""
    return PodSpec(
        serviceAccountName=kubernetes_name(facts.name),
        automountServiceAccountToken=False,
        # An environment variable for each Service of the namespace is nothing that a server needs.
        enableServiceLinks=False,
        securityContext=PodSecurityContext(
            runAsNonRoot=True,
            runAsUser=USER,
            runAsGroup=USER,
            fsGroup=USER,
            # Not every file of a model at every start, once the volume's root has the group.
            fsGroupChangePolicy="OnRootMismatch",
            seccompProfile=SeccompProfile(type="RuntimeDefault"),
        ),
        imagePullSecrets=(
            [LocalObjectReference(name=config.image_pull_secret)] if config.image_pull_secret is not None else None
        ),
        containers=[serving(facts, sizing, config)],
        terminationGracePeriodSeconds=sizing.grace,
        topologySpreadConstraints=[
            _spread(facts, key) for key in ("topology.kubernetes.io/zone", "kubernetes.io/hostname")
        ],
        volumes=[
            Volume(name="tmp", emptyDir=EmptyDirVolumeSource(sizeLimit=quantity(sizing.tmp))),
            Volume(name="shm", emptyDir=EmptyDirVolumeSource(medium="Memory", sizeLimit=quantity(sizing.shm))),
        ],
    )


def _spread(facts: ModelFacts, key: str) -> TopologySpreadConstraint:
    """Return a wish, which a cluster of one node can't grant and schedules all the same.

    It says all that an anti-affinity among the pods would; `pod-template-hash` keeps a rollout's old pods out of it.
    """
    return TopologySpreadConstraint(
        topologyKey=key,
        maxSkew=1,
        whenUnsatisfiable="ScheduleAnyway",
        labelSelector=pod_selector(facts),
        matchLabelKeys=["pod-template-hash"],
    )
