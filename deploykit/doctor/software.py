"""What is installed here: Python, the C library, packages against their ranges, and the environment's traps."""

import os
import platform
import re
import sys
import sysconfig
from collections.abc import Callable, Iterator, Mapping
from ctypes.util import find_library
from importlib.metadata import PackageNotFoundError, requires
from importlib.metadata import version as installed_version
from pathlib import Path
from typing import Final

from deploykit.doctor.finding import Finding, ok
from deploykit.doctor.releases import version

Installed = Callable[[str], str | None]

GLIBC: Final = (2, 35)
"""What the backend stub in the nvidia-pytriton wheel links; `triton-local` in docs/serving.md."""
WHEEL: Final = "nvidia-pytriton"
_LOCAL_PYTHON: Final = ((3, 8), (3, 13))
"""Pythons that the wheel has a stub for, first and last."""
_SPIN: Final = ("OMP_WAIT_POLICY", "KMP_BLOCKTIME", "GOMP_SPINCOUNT")
_THREADS: Final = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")


def installed(package: str) -> str | None:
    """Return the version of an installed package, or None."""
    try:
        return installed_version(package)
    except PackageNotFoundError:
        return None


def check_software(find: Installed = installed, environment: Mapping[str, str] = os.environ) -> Iterator[Finding]:
    """Yield what is installed and how it fits together.

    Args:
        find: returns a package's version, or None where it isn't installed.
        environment: the environment variables.
    """
    yield ok("Python", f"{platform.python_version()} at {sys.executable}")
    yield from onnxruntimes(find)
    yield from _packages(find)
    yield from local_triton(find)
    yield from threads(environment)


def onnxruntimes(find: Installed) -> Iterator[Finding]:
    """Yield which ONNX Runtime is installed: exactly one may be."""
    cpu, gpu = find("onnxruntime"), find("onnxruntime-gpu")
    if cpu and gpu:
        yield Finding(
            level="error",
            what="ONNX Runtime",
            found=f"onnxruntime {cpu} and onnxruntime-gpu {gpu} are both installed; they overwrite each other's files",
            remedy="pip uninstall onnxruntime onnxruntime-gpu; then pip install 'deploykit[cpu]' or '[gpu]'",
        )
    elif not cpu and not gpu:
        yield Finding(
            level="note",
            what="ONNX Runtime",
            found="not installed: nothing can run here",
            remedy="pip install 'deploykit[cpu]'",
        )
    else:
        yield ok("ONNX Runtime", f"onnxruntime {cpu}" if cpu else f"onnxruntime-gpu {gpu}")


def _packages(find: Installed) -> Iterator[Finding]:
    """Yield the installed packages that lie outside deploykit's ranges, or one line that none does."""
    inside = []
    for name, least in ranges().items():
        have = find(name)
        if have is None:
            continue
        if version(have) < version(least):
            yield Finding(
                level="error", what=name, found=f"{have} is older than {least}", remedy=f"pip install '{name}>={least}'"
            )
        else:
            inside.append(f"{name} {have}")
    yield ok("packages", ", ".join(inside) or "none of deploykit's")


def ranges() -> dict[str, str]:
    """Return the oldest version that deploykit's metadata allows of each package, but for those of its developers."""
    lines = [line for line in requires("deploykit") or () if not re.search(r"extra == .dev", line)]
    found = [re.match(r"([A-Za-z0-9._-]+)(?:\[[^\]]*\])?>=([0-9.]+)", line) for line in lines]
    return {match[1]: match[2] for match in found if match}


def local_triton(find: Installed, *, libc: tuple[str, str] | None = None) -> Iterator[Finding]:
    """Yield whether the Triton of the wheel can run here; nothing where it isn't installed."""
    wheel, numpy = find(WHEEL), find("numpy")
    if wheel is None:
        return
    problems = list(_wheel_problems(libc or platform.libc_ver()))
    if numpy and version(numpy) >= (2,):
        problems.append(
            Finding(
                level="error",
                what="local Triton",
                found=f"numpy {numpy} beside {WHEEL} {wheel}, whose string tensors break with numpy 2",
                remedy="pip install 'numpy<2' in this environment; production images have a Triton of their own",
            )
        )
    yield from problems or [ok("local Triton", f"{WHEEL} {wheel} with numpy {numpy}")]


def _wheel_problems(libc: tuple[str, str]) -> Iterator[Finding]:
    name, number = libc
    if name == "glibc" and version(number) < GLIBC:
        yield Finding(
            level="error",
            what="local Triton",
            found=f"glibc {number}, and its Python backend needs {'.'.join(map(str, GLIBC))}",
            remedy="use Debian 12, Ubuntu 22.04 or newer",
        )
    running = sys.version_info[:2]
    if not _LOCAL_PYTHON[0] <= running <= _LOCAL_PYTHON[1]:
        yield Finding(
            level="error",
            what="local Triton",
            found=f"Python {running[0]}.{running[1]}, and the wheel has no backend for it",
            remedy="use Python 3.11 to 3.13",
        )
    elif not _shared_python():
        yield Finding(
            level="error",
            what="local Triton",
            found=f"no shared libpython{running[0]}.{running[1]} on this machine, and its Python backend links it",
            remedy=f"Debian, Ubuntu: apt install libpython{running[0]}.{running[1]}",
        )


def _shared_python() -> bool:
    folder, name = sysconfig.get_config_var("LIBDIR"), sysconfig.get_config_var("INSTSONAME")
    beside = bool(folder and name and str(name).endswith((".so", ".so.1.0")) and (Path(folder) / name).is_file())
    return beside or find_library(f"python{sys.version_info.major}.{sys.version_info.minor}") is not None


def threads(environment: Mapping[str, str]) -> Iterator[Finding]:
    """Yield environment variables that make a model slower than it could be."""
    fixed = {name: environment[name] for name in _THREADS if name in environment}
    if any(value == "1" for value in fixed.values()):
        yield Finding(
            level="note",
            what="threads",
            found=", ".join(f"{name}={value}" for name, value in fixed.items()),
            remedy="it limits PyTorch and numpy while exporting; ONNX Runtime takes its threads from max cores here",
        )
    spin = {name: environment[name] for name in _SPIN if name in environment}
    if spin.get("OMP_WAIT_POLICY", "").lower() == "active" or spin.get("KMP_BLOCKTIME") == "infinite":
        yield Finding(
            level="warning",
            what="threads",
            found=", ".join(f"{name}={value}" for name, value in spin.items()),
            remedy="unset it: threads that spin while they wait take the cores from ONNX Runtime and Triton",
        )
