"""What is inside each release of NVIDIA's Triton image."""

import re
from dataclasses import dataclass
from typing import Final

from deploykit.errors import ConfigError

Version = tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class Release:
    """One image `tritonserver:<name>-py3`."""

    name: str
    """Year and month, such as `26.07`."""
    server: str
    onnxruntime: str
    python: str
    cuda: str


def _release(name: str, server: str, onnxruntime: str, python: str, cuda: str) -> Release:
    return Release(name=name, server=server, onnxruntime=onnxruntime, python=python, cuda=cuda)


# Server and ONNX Runtime: TRITON_VERSION_MAP in build.py of triton-inference-server/server at the branch rYY.MM; they
# agree with "ONNX Runtime Versions" in docs/introduction/compatibility.md there. Two rows differ: that table says
# 1.18.1 for 24.08, where build.py says 1.19.0, and names a commit after 1.23.0 for 25.08. Python and CUDA: the table of
# the vLLM image in the same file, which stands on the same base.
RELEASES: Final[dict[str, Release]] = {
    release.name: release
    for release in (
        _release("24.08", "2.49.0", "1.19.0", "3.10", "12.6"),
        _release("24.09", "2.50.0", "1.19.2", "3.10", "12.6"),
        _release("24.10", "2.51.0", "1.19.2", "3.10", "12.6"),
        _release("24.11", "2.52.0", "1.19.2", "3.12", "12.6"),
        _release("24.12", "2.53.0", "1.20.1", "3.12", "12.6"),
        _release("25.01", "2.54.0", "1.20.1", "3.12", "12.8"),
        _release("25.02", "2.55.0", "1.20.1", "3.12", "12.8"),
        _release("25.03", "2.56.0", "1.21.0", "3.12", "12.8"),
        _release("25.04", "2.57.0", "1.21.0", "3.12", "12.9"),
        _release("25.05", "2.58.0", "1.22.0", "3.12", "12.9"),
        _release("25.06", "2.59.0", "1.22.0", "3.12", "12.9"),
        _release("25.07", "2.59.1", "1.22.0", "3.12", "12.9"),
        _release("25.08", "2.60.0", "1.23.0", "3.12", "13.0"),
        _release("25.09", "2.61.0", "1.23.0", "3.12", "13.0"),
        _release("25.10", "2.62.0", "1.23.1", "3.12", "13.0"),
        _release("25.11", "2.63.0", "1.23.2", "3.12", "13.0"),
        _release("25.12", "2.64.0", "1.23.2", "3.12", "13.1"),
        _release("26.01", "2.65.0", "1.23.2", "3.12", "13.1"),
        _release("26.02", "2.66.0", "1.24.1", "3.12", "13.1"),
        _release("26.03", "2.67.0", "1.24.2", "3.12", "13.2"),
        _release("26.04", "2.68.0", "1.24.4", "3.12", "13.2"),
        _release("26.05", "2.69.0", "1.24.4", "3.12", "13.2"),
        _release("26.06", "2.70.0", "1.24.4", "3.12", "13.3"),
        _release("26.07", "2.71.0", "1.27.0", "3.12", "13.3"),
        _release("26.08", "2.72.0", "1.28.0", "3.12", "13.4"),
    )
}
SAFE_SINCE: Final = "25.07"
"""Older images have known holes in the Python backend's shared memory: CVE-2025-23319, -23320 and -23334."""
BACKENDS: Final = frozenset(
    {
        "dali",
        "ensemble",
        "fil",
        "identity",
        "onnxruntime",
        "openvino",
        "python",
        "pytorch",
        "repeat",
        "square",
        "tensorrt",
    }
)
"""Backends of the image `-py3`."""


def find_release(name: str) -> Release:
    """Return the release of that name.

    Raises:
        ConfigError: nothing is known of it; the message lists those that are.
    """
    if name in RELEASES:
        return RELEASES[name]
    known = f"{min(RELEASES)} to {max(RELEASES)}"
    shape = "" if re.fullmatch(r"\d\d\.\d\d", name) else " (a release is YY.MM)"
    raise ConfigError(f"release {name!r} is not in the table of Triton releases{shape}; known: {known}, every month")


def version(text: str) -> Version:
    """Return a version as numbers that compare: (1, 27, 0); what follows the numbers is left out."""
    found = re.match(r"\d+(\.\d+)*", text)
    return tuple(int(part) for part in found[0].split(".")) if found else (0,)
