"""The images, built and run by root, on stand-ins for the distributions' and NVIDIA's images: see `image_building`."""

import json
import os
import re
from collections.abc import Iterator
from pathlib import Path
from stat import S_ISDIR, S_ISREG, S_ISVTX

import pytest
from image_building import (
    COMPILER,
    ROOT,
    TORCH,
    TRITON,
    Image,
    Store,
    build_cpu,
    build_model,
    build_production,
    missing,
    opened,
)
from image_running import Container, running

import deploykit

pytestmark = [
    pytest.mark.slow,
    pytest.mark.triton,
    pytest.mark.timeout(1800),
    pytest.mark.skipif(missing() is not None, reason=missing() or ""),
]

USER, ARBITRARY = (10001, 10001), (123456, 0)
"""The image's own, and one as OpenShift gives them: any number, in root's group."""
MOST_BYTES = 500_000_000
_WRITABLE = (
    "import json, os; "
    "print(json.dumps([at for at, *_ in os.walk('/') if not at.startswith('/proc') and os.access(at, os.W_OK)]))"
)
_LIST = (
    "import importlib.metadata as m, json; "
    "print(json.dumps(sorted([d.metadata['Name'], d.version] for d in m.distributions())))"
)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    """A store with the bases in it."""
    with opened(tmp_path_factory.mktemp("images")) as store:
        yield store


@pytest.fixture(scope="module", params=["cpu", "production"])
def image(request: pytest.FixtureRequest, store: Store) -> Image:
    """Each of the two images, really built."""
    return {"cpu": build_cpu, "production": build_production}[request.param](store)


@pytest.fixture(scope="module")
def root(image: Image) -> Iterator[Path]:
    """The image's files."""
    with image.files() as root:
        yield root


@pytest.fixture(scope="module", params=[USER, ARBITRARY], ids=["own-user", "arbitrary-user"])
def container(request: pytest.FixtureRequest, image: Image) -> Iterator[Container]:
    """The image, run with nothing but the committed models."""
    with running(image, models=ROOT / "model_repository", user=request.param) as container:
        yield container


def test_streams_tokens_as_process_1_without_a_capability(container: Container) -> None:
    streamed = container.stream()
    assert streamed["tokens"] == 16
    assert streamed["chunks"] > 0
    status = container.status()
    assert status["NSpid"].split()[-1] == "1"
    assert set(status["Uid"].split()) == {str(container.user[0])}
    assert {int(status[each], 16) for each in ("CapEff", "CapBnd", "CapPrm", "CapInh")} == {0}
    assert status["NoNewPrivs"] == "1"


def test_its_health_check_finds_it_live(container: Container) -> None:
    container.stream()
    assert container.is_healthy()


def test_leaves_nothing_but_its_own_folders_and_tells_nobody(container: Container) -> None:
    container.stream()
    left = json.loads(container.run("python3", "-ISc", "import json, os; print(json.dumps(os.listdir('/tmp')))"))
    assert left
    assert not [each for each in left if not each.startswith(("deploykit-serve-", "python_env_"))], (
        "ONNX Runtime's telemetry?"
    )


def test_writes_nowhere_else(container: Container) -> None:
    writable = json.loads(container.run("python3", "-ISc", _WRITABLE))
    assert {each for each in writable if not each.startswith(("/tmp/", "/dev/shm/"))} <= {"/tmp", "/dev/shm", "/dev"}


def test_ends_at_sigterm_with_status_0(image: Image) -> None:
    with running(image, models=ROOT / "model_repository", user=USER) as container:
        assert container.stream()["tokens"] == 16
        assert container.end(timeout=40) == 0
        assert not Path(f"/proc/{container.pid}").exists()


def test_a_health_check_of_a_dead_server_fails(image: Image) -> None:
    with running(
        image, models=ROOT / "model_repository", user=USER, arguments=["serve", "/models", "--health-port", "8009"]
    ) as container:
        container.stream()
        assert not container.is_healthy(), "nothing listens where the check looks"


def test_a_model_in_the_image_needs_nothing_mounted(store: Store) -> None:
    model = build_model(store, build_cpu(store), ROOT)
    with running(model, models=None, user=ARBITRARY) as container:
        assert container.stream()["tokens"] == 16
    assert model.size() - build_cpu(store).size() < 3_000_000


def test_says_what_it_is(image: Image) -> None:
    config = image.config()
    assert config["User"] == "10001:10001"
    assert config["Entrypoint"] == ["deploykit"]
    assert config["Cmd"] == ["serve", "/models", "--host", "0.0.0.0"]
    assert config["StopSignal"] == "SIGTERM"
    assert config["Labels"]["org.opencontainers.image.version"] == deploykit.__version__


def test_is_small(image: Image) -> None:
    assert 100_000_000 < image.size() < MOST_BYTES


def test_holds_no_torch_no_compiler_and_no_installer(image: Image, root: Path) -> None:
    assert not {path.name for path in root.rglob("*")} & {"torch", "libtorch.so", "pip", "ensurepip"}
    programs = {path.name for folder in ("usr", "usr/local", "opt/*") for path in root.glob(f"{folder}/*bin/*")}
    assert "python3" in programs
    assert not [
        name for name in programs if re.search(r"(^|-)(as|c\+\+|cc|clang|cpp|g\+\+|gcc|ld|make|pip3?)(-[\d.]+)?$", name)
    ]
    assert not list(root.glob("var/lib/apt/lists/*_*"))
    assert not list(root.glob("var/cache/apt/**/*.deb"))
    for secret in ("etc/pip.conf", "etc/pip.crt", "build", "root/.cache", "collected", "wheel", "tools"):
        assert not (root / secret).exists(), secret


def test_what_is_missed_in_production_was_in_its_base(store: Store, image: Image) -> None:
    build_production(store)
    with Image(store=store, name=TRITON).files() as base:
        assert (base / COMPILER).exists()
        assert (base / TORCH).exists()


def test_nobody_becomes_root_or_changes_a_file(root: Path) -> None:
    for path in root.rglob("*"):
        state = path.lstat()
        if S_ISREG(state.st_mode) or S_ISDIR(state.st_mode):
            assert not (S_ISREG(state.st_mode) and state.st_mode & 0o6000), f"{path}: somebody's rights"
            for uid, gid in (USER, ARBITRARY):
                mine = (
                    state.st_mode & 0o200
                    if state.st_uid == uid
                    else state.st_mode & (0o020 if state.st_gid == gid else 0o002)
                )
                assert not mine or state.st_mode & S_ISVTX, f"{path}: {uid}:{gid} may write"


def test_everybody_reads_what_it_needs(root: Path) -> None:
    for folder in ("opt", "usr/share/deploykit"):
        for path in (root / folder).rglob("*"):
            state = path.lstat()
            assert (state.st_uid, state.st_gid) == (0, 0)
            assert path.is_symlink() or state.st_mode & 0o004, path
            assert not S_ISDIR(state.st_mode) or state.st_mode & 0o001, path


def test_its_bytecode_is_there_and_holds_whatever_the_times_are(root: Path) -> None:
    site = next((root / "opt/deploykit/lib").glob("python3*/site-packages"))
    sources = list((site / "deploykit").rglob("*.py"))
    assert len(sources) > 100
    for source in sources:
        (compiled,) = (source.parent / "__pycache__").glob(f"{source.stem}.cpython-*.pyc")
        # PEP 552: 1 is a hash instead of a time, and 2 that nobody compares it.
        assert compiled.read_bytes()[4] == 0b01


def test_its_list_of_packages_is_complete(container: Container, root: Path) -> None:
    bill = json.loads((root / "usr/share/deploykit/sbom.cdx.json").read_text())
    assert (bill["bomFormat"], bill["specVersion"]) == ("CycloneDX", "1.6")
    assert bill["metadata"]["component"]["name"] == "deploykit"
    listed = {(each["name"], each["version"]) for each in bill["components"]}
    installed = {(name, version) for name, version in json.loads(container.run("python3", "-c", _LIST))}
    assert ("onnxruntime", "1.32.0") in listed
    assert listed | {("deploykit", deploykit.__version__)} == installed
    assert all(each["purl"].startswith("pkg:pypi/") for each in bill["components"])


def test_no_place_of_this_machine_is_in_it(store: Store, root: Path) -> None:
    places = [os.fsencode(ROOT), os.fsencode(store.folder)]
    for folder in ("opt/deploykit", "usr/share/deploykit", "etc"):
        for path in (root / folder).rglob("*"):
            if path.is_file() and not path.is_symlink() and path.stat().st_size < 10_000_000:
                content = path.read_bytes()
                assert not [place for place in places if place in content], path
