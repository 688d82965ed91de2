"""Where a model is to run: a release of Triton's image, or this machine."""

from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError
from importlib.metadata import version as installed
from typing import Literal

from deploykit.doctor.releases import Release, Version, find_release, version
from deploykit.doctor.runtimes import Runtime, runtime

Device = Literal["cpu", "cuda"]


@dataclass(frozen=True, kw_only=True)
class Target:
    """An ONNX Runtime and a device."""

    runtime: Runtime
    device: Device
    release: Release | None = None

    @property
    def version(self) -> Version:
        """The ONNX Runtime's version as numbers."""
        return version(self.runtime.version)

    @property
    def name(self) -> str:
        """The target as a reader knows it."""
        where = f"Triton {self.release.name}, " if self.release else "this machine's "
        return f"{where}ONNX Runtime {self.runtime.version} on {self.device}"


def find_target(release: str | None, device: Device) -> Target | None:
    """Return the target of a release, of this machine where None; None if there is no ONNX Runtime here.

    Raises:
        ConfigError: the release is unknown.
    """
    if release is not None:
        found = find_release(release)
        return Target(runtime=runtime(found.onnxruntime), device=device, release=found)
    for package in ("onnxruntime", "onnxruntime-gpu"):
        try:
            return Target(runtime=runtime(installed(package)), device=device)
        except PackageNotFoundError:
            continue
    return None
