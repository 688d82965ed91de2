"""A release of Triton's image against what deploykit needs of it."""

from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, metadata
from typing import Final

from deploykit.doctor.finding import Finding, ok
from deploykit.doctor.releases import SAFE_SINCE, Release, version

_PYTHON: Final = "3.11"
"""What deploykit needs where its own metadata doesn't say."""


def check_image(release: Release) -> Iterator[Finding]:
    """Yield whether a release is fit to serve deploykit's models."""
    about = f"server {release.server}, ONNX Runtime {release.onnxruntime}, Python {release.python}, CUDA {release.cuda}"
    if version(release.name) < version(SAFE_SINCE):
        yield Finding(
            level="error",
            what="release",
            found=f"{release.name} ({about}) has holes in the Python backend: CVE-2025-23319, -23320, -23334",
            remedy=f"deploy on {SAFE_SINCE} or newer",
        )
    else:
        yield ok("release", f"{release.name}: {about}")
    needs = _needed_python()
    if version(release.python) < version(needs):
        remedy = "deploy on 24.12 or newer"
        found = f"Python {release.python} in the image, and deploykit needs {needs}"
        yield Finding(level="error", what="Python", found=found, remedy=remedy)
    else:
        yield ok("Python", f"{release.python} in the image, deploykit needs {needs}")


def _needed_python() -> str:
    try:
        return str(metadata("deploykit")["Requires-Python"] or _PYTHON).removeprefix(">=")
    except (PackageNotFoundError, KeyError):
        return _PYTHON
