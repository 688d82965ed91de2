"""Which Triton is started, and what is said where there is none."""

import sys
from importlib.machinery import ModuleSpec
from pathlib import Path

import pytest

from deploykit.errors import MissingExtraError, ServeError
from deploykit.serve.install import Install, find_install


def nothing(name: str) -> None:
    return None


def test_the_wheel_has_a_backend_for_this_python(tmp_path: Path) -> None:
    install = find_install()
    install.check()
    folder = install.link_backends(tmp_path / "backends")
    assert folder is not None
    assert {part.name for part in (folder / "python").iterdir()} == {part.name for part in install.parts}
    assert all(part.resolve().is_file() for part in (folder / "python").iterdir())


def test_without_the_wheel_the_extra_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(MissingExtraError, match=r"'nvidia-pytriton', which is not installed; run: pip install .*local"):
        find_install(find=nothing)


def test_without_the_wheel_a_server_in_path_will_do(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    server = tmp_path / "tritonserver"
    server.write_text("#!/bin/sh\n")
    server.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert find_install(find=nothing) == Install(server=server) == find_install(server)
    assert find_install(server).link_backends(tmp_path / "backends") is None


def test_a_path_that_is_no_program_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ServeError, match="not a program that can be run"):
        find_install(tmp_path / "tritonserver")


def test_a_wheel_without_this_pythons_backend_is_named(tmp_path: Path) -> None:
    spec = ModuleSpec("pytriton", None, origin=str(tmp_path / "pytriton" / "__init__.py"))
    with pytest.raises(ServeError, match=f"no tritonserver for Python {sys.version_info.major}"):
        find_install(find=lambda name: spec)


@pytest.mark.parametrize(
    ("complaint", "remedy"),
    [
        ("libpython3.11.so.1.0: cannot open shared object file", "apt install libpython3"),
        ("libodd.so.1: cannot open shared object file", r"needs libodd\.so\.1"),
        ("/lib/libc.so.6: version `GLIBC_2.35' not found", r"glibc 2\.35"),
    ],
)
def test_a_missing_library_has_its_remedy(complaint: str, remedy: str, tmp_path: Path) -> None:
    stub = tmp_path / "triton_python_backend_stub"
    stub.write_text(
        f'#!/bin/sh\ncat >&2 <<"END"\nstub: error while loading shared libraries: {complaint}\nEND\nexit 127\n'
    )
    stub.chmod(0o755)
    with pytest.raises(ServeError, match=remedy):
        Install(server=stub, parts=(stub,)).check()
