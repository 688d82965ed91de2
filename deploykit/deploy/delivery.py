"""How a model's files get to a pod: inside the image, on a claim, from an object store, or as an image of their own.

Always as real files: ONNX Runtime refuses a model's data behind links that leave its folder.
"""

from collections.abc import Sequence
from typing import Final

from lightkube.models.core_v1 import (
    Container,
    EmptyDirVolumeSource,
    ImageVolumeSource,
    PersistentVolumeClaimVolumeSource,
    PodSpec,
    ResourceRequirements,
    SecretVolumeSource,
    Volume,
    VolumeMount,
)

from deploykit.deploy.config import MODELS, DeployConfig
from deploykit.deploy.facts import ModelFacts
from deploykit.deploy.names import TRITON, kubernetes_name
from deploykit.deploy.sizing import MIB, TMP, Sizing, cores, quantity

VOLUME: Final = "models"
"""The volume with the model repository."""
FETCH: Final = "fetch"
"""The init container that downloads it."""
STORE: Final = "store"
"""The volume with what opens the object store; the Secret's name has the model's in front of it."""
CREDENTIALS: Final = f"/etc/deploykit/{STORE}"
"""Where that is mounted, and in `fetch` alone: the containers that serve need none of it."""
FETCH_MEMORY: Final = 256 * MIB
"""Of `deploykit pull`: 60 MB measured with a file of 300 MiB, and no more with a larger one: it passes in pieces."""


def apply(pod: PodSpec, facts: ModelFacts, sizing: Sizing, config: DeployConfig) -> PodSpec:
    """Return the pod with the model at `/models` of the container that serves; the pod itself changes."""
    if config.delivery == "image":
        return pod
    pod.volumes = [*(pod.volumes or []), *_volumes(facts, sizing, config)]
    triton = next(container for container in pod.containers if container.name == TRITON)
    if config.delivery == "s3":
        pod.initContainers = [*(pod.initContainers or []), _fetch(triton, facts, sizing, config)]
    triton.volumeMounts = [*(triton.volumeMounts or []), *mounts(config)]
    return pod


def mounts(config: DeployConfig) -> list[VolumeMount]:
    """Return what a container that reads the model mounts: nothing where the image holds it."""
    return [] if config.delivery == "image" else [VolumeMount(name=VOLUME, mountPath=MODELS, readOnly=True)]


def needs(config: DeployConfig) -> list[str]:
    """Return the objects that must be in the cluster already, such as `pvc/NAME`."""
    claim = [f"pvc/{config.source}"] if config.delivery == "pvc" else []
    return [*claim, *([f"secret/{config.image_pull_secret}"] if config.image_pull_secret else [])]


def store_secret(facts: ModelFacts) -> str:
    """Return the name of the Secret with what opens the object store, a key for each setting; it may be missing."""
    return f"{kubernetes_name(facts.name)}-{STORE}"


def _volumes(facts: ModelFacts, sizing: Sizing, config: DeployConfig) -> Sequence[Volume]:
    source = config.source or ""
    match config.delivery:
        case "pvc":
            claim = PersistentVolumeClaimVolumeSource(claimName=source, readOnly=True)
            return [Volume(name=VOLUME, persistentVolumeClaim=claim)]
        case "volume":
            return [Volume(name=VOLUME, image=ImageVolumeSource(reference=source, pullPolicy="IfNotPresent"))]
        case _:
            # Without the Secret, a role of the ServiceAccount opens the store: workload identity.
            secret = SecretVolumeSource(secretName=store_secret(facts), optional=True, defaultMode=0o440)
            return [
                Volume(name=VOLUME, emptyDir=EmptyDirVolumeSource(sizeLimit=quantity(sizing.model))),
                Volume(name=STORE, secret=secret),
            ]


def _fetch(triton: Container, facts: ModelFacts, sizing: Sizing, config: DeployConfig) -> Container:
    """Return the container that downloads the model before the others start, as restricted as those are."""
    return Container(
        name=FETCH,
        image=triton.image,
        imagePullPolicy=triton.imagePullPolicy,
        command=["deploykit"],
        args=[
            "pull",
            config.source or "",
            f"--output={MODELS}",
            f"--fingerprint={facts.fingerprint}",
            f"--credentials={CREDENTIALS}",
            # It runs again where the pod's sandbox was lost: what an earlier run left in the volume may be replaced.
            "--overwrite",
        ],
        env=triton.env,
        resources=_fetch_resources(sizing),
        securityContext=triton.securityContext,
        # So that the one line which says what went wrong stands in the pod's status.
        terminationMessagePolicy="FallbackToLogsOnError",
        volumeMounts=[
            VolumeMount(name=VOLUME, mountPath=MODELS),
            VolumeMount(name=STORE, mountPath=CREDENTIALS, readOnly=True),
            *(mount for mount in triton.volumeMounts or [] if mount.mountPath == TMP),
        ],
    )


def _fetch_resources(sizing: Sizing) -> ResourceRequirements:
    """Return what `fetch` gets: no more than the pod gets later on, so that it costs nothing beside it."""
    given = {
        "cpu": cores(min(1000, sizing.serve.cpu_millis)),
        "memory": quantity(min(FETCH_MEMORY, sizing.serve.memory)),
        "ephemeral-storage": quantity(sizing.serve.ephemeral),
    }
    return ResourceRequirements(requests=given, limits=given)
