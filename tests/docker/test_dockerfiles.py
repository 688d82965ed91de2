"""What the Dockerfiles say, compared with the code, with each other, and with what Docker's linter knows."""

import fnmatch
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml
from dockerfiles import bases, final_stage, instructions, labels

import deploykit
from deploykit.config import GatewayConfig, ServeConfig
from deploykit.doctor.releases import RELEASES, SAFE_SINCE

ROOT = Path(__file__).parents[2]
DOCKER = ROOT / "docker"
PRODUCTION, CPU, MODEL = DOCKER / "Dockerfile", DOCKER / "cpu" / "Dockerfile", DOCKER / "model" / "Dockerfile"
ALL = pytest.mark.parametrize("dockerfile", [PRODUCTION, CPU, MODEL], ids=["production", "cpu", "model"])
RUNTIMES = pytest.mark.parametrize("dockerfile", [PRODUCTION, CPU], ids=["production", "cpu"])


@ALL
def test_hadolint_finds_nothing(dockerfile: Path) -> None:
    linter = Path(sys.executable).with_name("hadolint")
    found = subprocess.run([linter, dockerfile], capture_output=True, text=True, check=False)
    assert (found.returncode, found.stdout) == (0, "")


def test_hadolint_is_not_mute(tmp_path: Path) -> None:
    (tmp_path / "Dockerfile").write_text("FROM debian:latest\nRUN cd /tmp && sudo true\n")
    found = subprocess.run(
        [Path(sys.executable).with_name("hadolint"), tmp_path / "Dockerfile"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert found.returncode != 0
    assert "DL3007" in found.stdout


@RUNTIMES
def test_every_base_has_a_version_and_a_digest(dockerfile: Path) -> None:
    assert bases(dockerfile)
    for image in bases(dockerfile):
        assert re.fullmatch(
            r"[a-z0-9./-]+:[a-z0-9.-]*\d[a-z0-9.-]*@sha256:[0-9a-f]{64}|debian:bookworm-slim@sha256:[0-9a-f]{64}", image
        )


@ALL
def test_no_base_depends_on_an_argument(dockerfile: Path) -> None:
    assert not [arguments for instruction, arguments in instructions(dockerfile) if instruction == "ARG"]
    assert "$" not in "".join(bases(dockerfile))


def test_production_is_a_triton_that_the_doctor_knows_and_that_is_safe() -> None:
    (triton,) = [image for image in bases(PRODUCTION) if "tritonserver" in image]
    release = re.search(r":(\d\d\.\d\d)-py3@", triton)
    assert release is not None
    assert SAFE_SINCE <= release[1] in RELEASES


@RUNTIMES
def test_the_labels_tell_the_version_and_the_base(dockerfile: Path) -> None:
    told = labels(dockerfile)
    name, digest = bases(dockerfile)[-1].split("@")
    assert told["org.opencontainers.image.version"] == deploykit.__version__
    assert told["org.opencontainers.image.base.name"] == f"docker.io/library/{name}"
    assert told["org.opencontainers.image.base.digest"] == digest
    assert {"title", "description", "licenses"} <= {each.removeprefix("org.opencontainers.image.") for each in told}


def test_both_images_are_run_alike() -> None:
    production, cpu = ([each for each in final_stage(file) if each[0] != "LABEL"] for file in (PRODUCTION, CPU))
    assert production == cpu


def test_no_two_images_are_built_under_one_tag() -> None:
    version = deploykit.__version__
    tags = [re.search(r"(?m)^#     docker build -t (\S+) ", file.read_text())[1] for file in (PRODUCTION, CPU)]  # type: ignore[index]
    composed = yaml.safe_load((DOCKER / "compose.yaml").read_text())["services"]
    assert tags == [f"deploykit:{version}", f"deploykit:{version}-cpu"]
    assert {composed[name]["image"] for name in ("triton", "gateway")} == {tags[1]}
    assert f"--build-context {tags[0]}=docker-image://{tags[1]} " in MODEL.read_text()
    for document in (ROOT / "docs" / "images.md", DOCKER / "README.md"):
        assert set(re.findall(rf"deploykit:{re.escape(version)}(?:-\w+)?", document.read_text())) == set(tags), document
    said = re.findall(r"docker build -t (\S+) -f docker/(cpu/)?Dockerfile", (ROOT / "docs" / "images.md").read_text())
    assert said == [(tags[0], ""), (tags[1], "cpu/")]


def test_the_model_is_put_onto_this_version_and_runs_as_it_does() -> None:
    assert set(bases(MODEL)) == {f"deploykit:{deploykit.__version__}"}
    runtime = final_stage(PRODUCTION)
    for each in ("USER", "HEALTHCHECK"):
        assert [rest for name, rest in final_stage(MODEL) if name == each] == [
            rest for name, rest in runtime if name == each
        ]


@RUNTIMES
def test_the_ports_are_the_servers(dockerfile: Path) -> None:
    said = dict(final_stage(dockerfile))
    ports = [
        ServeConfig.http_port,
        ServeConfig.grpc_port,
        ServeConfig.metrics_port,
        ServeConfig.health_port,
        GatewayConfig.port,
    ]
    assert said["EXPOSE"].split() == [str(port) for port in ports]
    assert f"'127.0.0.1', {ServeConfig.health_port}," in said["HEALTHCHECK"]


@RUNTIMES
def test_nobody_is_root(dockerfile: Path) -> None:
    said = final_stage(dockerfile)
    assert dict(said)["USER"] == "10001:10001"
    after = [name for name, _ in said[[name for name, _ in said].index("USER") :]]
    assert not {"COPY", "ADD", "RUN"} & set(after)


def test_the_context_holds_what_is_installed_and_nothing_else() -> None:
    lines = [line for line in (ROOT / ".dockerignore").read_text().splitlines() if line and not line.startswith("#")]
    assert lines[0] == "*"
    kept = {line[1:] for line in lines if line.startswith("!")}
    assert all((ROOT / each).exists() for each in kept)
    named = [*instructions(PRODUCTION), *instructions(CPU)]
    copied = [word for name, rest in named if name == "COPY" and "--from" not in rest for word in rest.split()[:-1]]
    assert set(copied) - {"."} <= kept
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    needed = {
        project["readme"],
        *project["license-files"],
        "pyproject.toml",
        "constraints.txt",
        "deploykit",
        "model_repository",
    }
    assert needed <= kept
    for secret in (".git", ".venv", "demo", "keys.txt", ".env"):
        assert not any(fnmatch.fnmatch(secret, each) for each in kept)


def test_the_installed_extras_exist_and_bring_no_exporter() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    installed = re.search(r"deploykit\[([a-z,]+)\] @", (DOCKER / "install.sh").read_text())
    assert installed is not None
    extras = installed[1].split(",")
    assert set(extras) <= project["optional-dependencies"].keys()
    assert not {"export", "train", "dev", "local", "gpu"} & set(extras)


@pytest.mark.parametrize("script", sorted(DOCKER.glob("*.sh")), ids=lambda path: path.name)
def test_the_scripts_are_plain_shell_and_stop_at_the_first_failure(script: Path) -> None:
    assert script.read_text().startswith("#!/bin/sh\n")
    assert "\nset -eu\n" in script.read_text()
    subprocess.run([shutil.which("dash") or "sh", "-n", script], check=True)


def test_collecting_a_triton_whose_library_is_missing_names_it(tmp_path: Path) -> None:
    tools = tmp_path / "tools"
    tools.mkdir()
    (tools / "ldd").write_text("#!/bin/sh\necho '\tlibodd.so.1 => not found'\n")
    (tools / "ldd").chmod(0o755)
    backend = tmp_path / "python"
    backend.mkdir()
    for file in (tmp_path / "server", tmp_path / "stub", backend / "libtriton_python.so"):
        file.touch()
    command = [
        "sh",
        str(DOCKER / "collect.sh"),
        *map(str, (tmp_path / "server", backend, tmp_path / "stub", tmp_path / "out")),
    ]
    ended = subprocess.run(command, env={"PATH": f"{tools}:/usr/bin:/bin"}, capture_output=True, text=True, check=False)
    assert ended.returncode == 1
    assert "libodd.so.1 => not found" in ended.stdout
    assert "this image doesn't have" in ended.stderr
