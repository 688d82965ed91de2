"""Where Triton lies on this machine, and what it needs to run here."""

import os
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Final

from deploykit.errors import MissingExtraError, ServeError

WHEEL: Final = "nvidia-pytriton"
_STUB: Final = "triton_python_backend_stub"


@dataclass(frozen=True, kw_only=True)
class Install:
    """A Triton server, and the parts of its Python backend where they have to be put together."""

    server: Path
    parts: tuple[Path, ...] = ()
    """Files of the Python backend; empty where the server finds its backends itself."""
    libraries: Path | None = None
    """Folder of the shared libraries that came with the server."""

    def link_backends(self, folder: Path) -> Path | None:
        """Put the Python backend together in `folder` and return what to pass as the backend directory.

        Links, not copies: the stub finds its libraries relative to where it really lies.
        """
        if not self.parts:
            return None
        backend = folder / "python"
        backend.mkdir(parents=True)
        for part in self.parts:
            (backend / part.name).symlink_to(part)
        return folder

    def environment(self, base: Mapping[str, str] = os.environ) -> dict[str, str]:
        """Return the environment the server and its backends run in."""
        environment = dict(base)
        if self.libraries:
            # The interpreter's own libpython first: the loader would else take the system's of the same name.
            folders = [_library_folder(), str(self.libraries), base.get("LD_LIBRARY_PATH")]
            environment["LD_LIBRARY_PATH"] = os.pathsep.join(folder for folder in folders if folder)
            # The stub finds Python, and with it the packages, as the first `python3` in PATH.
            environment["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), base.get("PATH", "")])
        return environment

    def check(self) -> None:
        """Check that the loader finds what the backend's process links.

        Raises:
            ServeError: a shared library is missing or too old, with the package that brings it.
        """
        stub = next((part for part in self.parts if part.name == _STUB), None)
        if stub is None:
            return
        # Without arguments it ends at once; what counts is whether it was loaded at all.
        ended = subprocess.run(  # noqa: S603  # a file of the installed wheel
            [stub], env=self.environment(), capture_output=True, text=True, timeout=30, check=False
        )
        if ended.returncode == 127 or "error while loading shared libraries" in ended.stderr:
            raise ServeError(_loader_remedy(ended.stderr))


def find_install(triton: Path | None = None, *, find: Callable[[str], object | None] = find_spec) -> Install:
    """Return the Triton to start: the one given, that of the wheel, or the first in PATH.

    Args:
        triton: path of a `tritonserver`.
        find: looks a Python package up.

    Raises:
        ServeError: `triton` is no program, or the wheel has no backend for this Python.
        MissingExtraError: there is none at all.
    """
    if triton is not None:
        if not os.access(triton, os.X_OK) or triton.is_dir():
            raise ServeError(f"{triton}: not a program that can be run; give the path of tritonserver")
        return Install(server=triton.absolute())
    spec = find("pytriton")
    if spec is not None:
        return _from_wheel(Path(str(getattr(spec, "origin", ""))).parent)
    system = shutil.which("tritonserver")
    if system is None:
        raise MissingExtraError(WHEEL, extra="local", needed_for="serving on this machine")
    return Install(server=Path(system))


def _from_wheel(package: Path) -> Install:
    root = package / "tritonserver"
    python = f"{sys.version_info.major}.{sys.version_info.minor}"
    backend = root / "backends" / "python"
    stub = root / "python_backend_stubs" / python / _STUB
    install = Install(
        server=root / "bin" / "tritonserver",
        parts=(backend / "libtriton_python.so", backend / "triton_python_backend_utils.py", stub),
        libraries=package.parent / "nvidia_pytriton.libs",
    )
    for file in (install.server, *install.parts):
        if not file.is_file():
            raise ServeError(
                f"{WHEEL} has no {file.name} for Python {python} on this machine; "
                "use Python 3.11 or 3.12, or reinstall the wheel"
            )
    return install


def _library_folder() -> str | None:
    """Return the folder of this interpreter's shared library, or None where it has none there."""
    folder, name = sysconfig.get_config_var("LIBDIR"), sysconfig.get_config_var("INSTSONAME")
    return str(folder) if folder and name and (Path(folder) / name).is_file() else None


def _loader_remedy(message: str) -> str:
    python = f"{sys.version_info.major}.{sys.version_info.minor}"
    if "libpython" in message:
        return (
            f"Triton's Python backend needs the shared library libpython{python}.so.1.0, which is not on this machine; "
            f"install it (Debian, Ubuntu: apt install libpython{python})"
        )
    if "GLIBC" in message:
        return "Triton's Python backend needs glibc 2.35 or newer; use Debian 12, Ubuntu 22.04 or newer"
    missing = message.strip().rpartition("libraries: ")[2].partition(":")[0]
    return f"Triton's Python backend can't be loaded, it needs {missing or 'a library'}, which is not on this machine"
