"""Where Triton lies on this machine, and what it needs to run here."""

import os
import re
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
_IMAGE: Final = Path("/opt/tritonserver/bin/tritonserver")
"""Where Triton's own images have it, also for those who start it with a PATH of their own."""


@dataclass(frozen=True, kw_only=True)
class Install:
    """A Triton server, and the parts of its Python backend where they have to be put together."""

    server: Path
    parts: tuple[Path, ...] = ()
    """Files of the Python backend; empty where they lie together already."""
    backends: Path | None = None
    """Folder of the backends beside the server; None where there is none, and the server knows a place itself."""
    libraries: Path | None = None
    """Folder of the shared libraries that came with the server."""

    def link_backends(self, folder: Path) -> Path | None:
        """Put the Python backend together in `folder` and return what to pass as the backend directory.

        Links, not copies: the stub finds its libraries relative to where it really lies.
        """
        if not self.parts:
            return self.backends
        backend = folder / "python"
        backend.mkdir(parents=True)
        for part in self.parts:
            (backend / part.name).symlink_to(part)
        return folder

    def environment(self, base: Mapping[str, str] = os.environ) -> dict[str, str]:
        """Return the environment the server and its backends run in."""
        environment = dict(base)
        # The interpreter's own libpython first: the loader would else take the system's of the same name.
        folders = [_library_folder(), self.libraries and str(self.libraries), base.get("LD_LIBRARY_PATH")]
        if any(folders):
            environment["LD_LIBRARY_PATH"] = os.pathsep.join(folder for folder in folders if folder)
        # The stub finds Python, and with it the packages, as the first `python3` in PATH.
        environment["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), base.get("PATH", "")])
        return environment

    def check(self) -> None:
        """Check that the backend's process runs this Python, and that the loader finds what it links.

        Raises:
            ServeError: it is made for another Python, or a shared library is missing or too old, with the package that
                brings it.
        """
        stub = self._stub()
        if stub is None:
            return
        _check_python(stub)
        # Without arguments it ends at once; what counts is whether it was loaded at all.
        ended = subprocess.run(  # noqa: S603  # a file of the installed wheel
            [stub], env=self.environment(), capture_output=True, text=True, timeout=30, check=False
        )
        if ended.returncode == 127 or "error while loading shared libraries" in ended.stderr:
            raise ServeError(_loader_remedy(ended.stderr))

    def _stub(self) -> Path | None:
        beside = (self.backends / "python" / _STUB,) if self.backends else ()
        return next((file for file in (*self.parts, *beside) if file.name == _STUB and file.is_file()), None)


def find_install(triton: Path | None = None, *, find: Callable[[str], object | None] = find_spec) -> Install:
    """Return the Triton to start: the one given, that of the wheel, the first in PATH, or that of Triton's image.

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
        return _from_folder(triton.absolute())
    spec = find("pytriton")
    if spec is not None:
        return _from_wheel(Path(str(getattr(spec, "origin", ""))).parent)
    system = shutil.which("tritonserver") or shutil.which(_IMAGE)
    if system is None:
        raise MissingExtraError(WHEEL, extra="local", needed_for="serving on this machine")
    return _from_folder(Path(system))


def _from_folder(server: Path) -> Install:
    """Return an installed server, with the backends that lie beside it as in Triton's images."""
    # What is in PATH may be a link to it.
    for program in (server, server.resolve()):
        backends = program.parent.parent / "backends"
        if (backends / "python" / _STUB).is_file():
            return Install(server=server, backends=backends)
    return Install(server=server)


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


def _check_python(stub: Path) -> None:
    linked = re.search(rb"libpython(3\.\d+)\.so", stub.read_bytes())
    here = f"{sys.version_info.major}.{sys.version_info.minor}"
    if linked and (wanted := linked[1].decode()) != here:
        raise ServeError(
            f"{stub}: Triton's Python backend is made for Python {wanted}, and deploykit is installed for {here}; "
            f"install deploykit for Python {wanted}"
        )


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
