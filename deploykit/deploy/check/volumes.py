"""What a container finds at a path: which volume is mounted there, and how."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

from deploykit.deploy.check.manifests import Container, Pods, mapping, sequence


@dataclass(frozen=True, kw_only=True)
class Mount:
    """A volume as a container has it."""

    path: str
    """Where it is mounted."""
    field: str
    """Path of the mount in the object."""
    body: Mapping[str, Any]
    volume: Mapping[str, Any]
    """The volume itself; empty where the pod has none of that name."""
    volume_field: str

    @property
    def name(self) -> str:
        """The volume's name."""
        return str(self.body.get("name") or "")

    @property
    def source(self) -> str:
        """What kind of volume it is: `emptyDir`, `persistentVolumeClaim`; empty where the pod has none of that name."""
        return next((key for key in self.volume if key != "name"), "emptyDir" if self.volume else "")

    @property
    def is_read_only(self) -> bool:
        """Return whether the container can't write there."""
        claim = mapping(self.volume.get("persistentVolumeClaim"))
        fixed = self.source in ("configMap", "secret", "downwardAPI", "projected", "image")
        return self.body.get("readOnly") is True or claim.get("readOnly") is True or fixed


def mounts(pods: Pods, container: Container) -> Iterator[Mount]:
    """Yield the mounts of a container."""
    volumes = {str(volume.get("name")): (index, volume) for index, volume in _volumes(pods)}
    for index, body in enumerate(map(mapping, sequence(container.body.get("volumeMounts")))):
        place, volume = volumes.get(str(body.get("name")), (-1, {}))
        yield Mount(
            path=str(body.get("mountPath") or ""),
            field=f"{container.path}.volumeMounts[{index}]",
            body=body,
            volume=volume,
            volume_field=f"{pods.path}.volumes[{place}]",
        )


def mounted_at(pods: Pods, container: Container, path: str) -> Mount | None:
    """Return the innermost mount that holds a path; None where it lies in the image."""
    inside = [mount for mount in mounts(pods, container) if holds(mount.path, path)]
    return max(inside, key=lambda mount: len(mount.path), default=None)


def holds(folder: str, path: str) -> bool:
    """Return whether a path is a folder or lies in it."""
    return bool(folder) and PurePosixPath(path).is_relative_to(PurePosixPath(folder))


def _volumes(pods: Pods) -> Iterator[tuple[int, Mapping[str, Any]]]:
    for index, volume in enumerate(sequence(pods.spec.get("volumes"))):
        yield index, mapping(volume)
