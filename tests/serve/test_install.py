"""Which Triton is started, and what is said where there is none."""

import sys
from importlib.machinery import ModuleSpec
from pathlib import Path

import pytest

from deploykit.client import Client
from deploykit.config import ServeConfig
from deploykit.errors import MissingExtraError, ServeError
from deploykit.serve import serve
from deploykit.serve.install import Install, find_install

REPOSITORY = Path(__file__).parents[2] / "model_repository"


def nothing(name: str) -> None:
    return None


@pytest.fixture
def image_layout(tmp_path: Path) -> Path:
    """The wheel's Triton laid out as in Triton's images: bin/tritonserver, and backends/python complete."""
    wheel = find_install()
    wheel.link_backends(tmp_path / "tritonserver" / "backends")
    server = tmp_path / "tritonserver" / "bin" / "tritonserver"
    server.parent.mkdir()
    server.symlink_to(wheel.server)
    return server


@pytest.mark.triton
def test_a_server_laid_out_as_in_tritons_images_serves(image_layout: Path) -> None:
    ports = ServeConfig(http_port=0, grpc_port=0, metrics_port=0, health_port=0)
    with serve(REPOSITORY, ports, triton=image_layout) as server, Client(server.grpc_url) as client:
        # In one piece or several: that is for the clock to say.
        stream = client.generate("def ", max_tokens=8, stream=True)
        assert [chunk.num_output_tokens for chunk in stream][-1] == 8


@pytest.mark.parametrize("linked", [False, True])
def test_the_backends_beside_a_server_in_path_are_found(
    image_layout: Path, linked: bool, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    image_layout.unlink()
    image_layout.write_text("#!/bin/sh\n")
    image_layout.chmod(0o755)
    server = image_layout
    if linked:
        server = tmp_path / "tritonserver.link" / "tritonserver"
        server.parent.mkdir()
        server.symlink_to(image_layout)
    monkeypatch.setenv("PATH", str(server.parent))
    install = find_install(find=nothing)
    assert install == Install(server=server, backends=image_layout.parent.parent / "backends")
    assert install.link_backends(tmp_path / "unused") == install.backends
    assert not (tmp_path / "unused").exists()


def test_the_server_of_tritons_image_needs_no_path(image_layout: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    monkeypatch.setattr("deploykit.serve.install._IMAGE", image_layout)
    assert find_install(find=nothing).server == image_layout


def test_the_backend_finds_this_python_first(image_layout: Path) -> None:
    environment = find_install(image_layout).environment({"PATH": "/usr/bin"})
    assert environment["PATH"] == f"{Path(sys.executable).parent}:/usr/bin"


def test_a_backend_for_another_python_is_refused_with_both_versions(image_layout: Path) -> None:
    stub = image_layout.parent.parent / "backends" / "python" / "triton_python_backend_stub"
    content = stub.read_bytes()
    stub.unlink()
    here = f"{sys.version_info.major}.{sys.version_info.minor}"
    stub.write_bytes(content.replace(f"libpython{here}.so".encode(), b"libpython3.99.so"))
    with pytest.raises(ServeError, match=rf"made for Python 3\.99, and deploykit is installed for {here}"):
        find_install(image_layout).check()


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
