"""`deploykit pull`, and the init container that runs it."""

import json
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
from buckets import ENVIRONMENT, Bucket, Way, environment
from deployments import build, find, write

from deploykit.cli.pull import read_settings
from deploykit.deploy.config import DeployConfig
from deploykit.deploy.reading import read_facts
from deploykit.errors import ConfigError

REPOSITORY = Path(__file__).parents[2] / "model_repository"
DATA = "model_int8.onnx_data"


def start(*args: str, env: dict[str, str]) -> "subprocess.Popen[str]":
    command = [sys.executable, "-m", "deploykit", "pull", *args]
    return subprocess.Popen(command, env=env, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def run(*args: str, env: dict[str, str]) -> tuple[int, str, str]:
    process = start(*args, env=env)
    stdout, stderr = process.communicate(timeout=60)
    return process.returncode, stdout, stderr


def mounted_secret(folder: Path, **settings: str) -> Path:
    """Lay out a Secret as kubelet mounts it: links to a folder that is swapped when it changes."""
    (folder / "..2026_11_24").mkdir(parents=True)
    (folder / "..data").symlink_to("..2026_11_24")
    for name, value in settings.items():
        (folder / "..2026_11_24" / name).write_text(f"{value}\n")
        (folder / name).symlink_to(f"..data/{name}")
    return folder


def test_tells_what_came(shared: Bucket, tmp_path: Path, fingerprint: str) -> None:
    env = environment(shared.endpoint)
    status, stdout, stderr = run(shared.url, "-o", str(tmp_path), env=env)
    assert (status, stderr.startswith("download: ")) == (0, True)
    assert f"tiny-python: version 1, fingerprint {fingerprint}\n" in stdout
    assert f"{tmp_path}: 1.1 MB, 1.1 MB downloaded\n" in stdout

    status, stdout, stderr = run(shared.url, "-o", str(tmp_path), f"--fingerprint={fingerprint}", "--json", env=env)
    told = json.loads(stdout)
    assert (status, stderr, told["downloaded"], told["path"]) == (0, "", 0, str(tmp_path))
    assert told["models"] == [{"name": "tiny-python", "versions": [1], "fingerprint": fingerprint}]


@pytest.mark.parametrize(
    ("args", "status", "message"),
    [
        (["https://example.com/x"], 2, "'https://example.com/x' is no URL of an object store; write s3://BUCKET/PATH"),
        (["s3://models/x", "--fingerprint=abc"], 2, "fingerprint must be 64 digits and letters a to f, got 'abc'"),
        (
            ["s3://models/x", "--credentials=/nowhere"],
            2,
            "--credentials /nowhere: can't be read: No such file or directory",
        ),
        (["file:///nowhere"], 5, "file:///nowhere: can't open it: there is no such folder"),
        (["s3://models/nothing"], 5, "s3://models/nothing: no model repository (no */config.pbtxt in it)"),
    ],
)
def test_says_in_a_line_what_is_wrong(
    shared: Bucket, tmp_path: Path, args: list[str], status: int, message: str
) -> None:
    done = run(*args, "-o", str(tmp_path / "models"), env=environment(shared.endpoint))
    assert done[0] == status
    assert done[2].startswith(f"error: {message}")
    assert done[2].count("\n") == 1
    assert not (tmp_path / "models").exists()


class TestCredentials:
    def test_are_read_as_kubelet_lays_them_out(self, tmp_path: Path) -> None:
        folder = mounted_secret(tmp_path / "store", AWS_REGION="eu-west-1", GOOGLE_BUCKET="b", LD_PRELOAD="evil.so")
        assert read_settings(folder) == {"AWS_REGION": "eu-west-1", "GOOGLE_BUCKET": "b"}

    def test_may_be_missing_where_the_pod_has_an_identity(self, tmp_path: Path) -> None:
        assert read_settings(tmp_path) == {}

    def test_that_are_no_text_are_named(self, tmp_path: Path) -> None:
        (tmp_path / "AWS_REGION").write_bytes(b"\xff")
        with pytest.raises(ConfigError, match="can't be read"):
            read_settings(tmp_path)


class TestInitContainer:
    """The command of the manifests, with nothing but a Secret to open the store by."""

    @pytest.fixture
    def args(self, way: Way, shared: Bucket, tmp_path: Path) -> list[str]:
        config = DeployConfig(delivery="s3", source=shared.url)
        facts = read_facts(REPOSITORY, config)
        deployment = find(build(write(tmp_path / "manifests", config, facts)), "Deployment", "tiny-python")
        (fetch,) = deployment["spec"]["template"]["spec"]["initContainers"]
        secret = mounted_secret(tmp_path / "store", AWS_ENDPOINT_URL=way.url, **ENVIRONMENT)
        # What is mounted in the pod lies elsewhere here.
        places = {"/models": str(tmp_path / "models"), "/etc/deploykit/store": str(secret)}
        (tmp_path / "models").mkdir()
        words = [word.partition("=") for word in fetch["args"]]
        return [name + sign + places.get(value, value) for name, sign, value in words][1:]

    def test_ends_with_the_model_however_often_it_is_started(self, args: list[str], way: Way, tmp_path: Path) -> None:
        env = {"PATH": "/usr/bin:/bin", "HOME": str(tmp_path)}
        # It is killed on its way, as with a pod that has used too much memory.
        way.trouble = lambda path, _number: "stall" if DATA in path else None
        first = start(*args, env=env)
        deadline = time.monotonic() + 60
        while DATA not in way.files:
            assert first.poll() is None, first.communicate()
            assert time.monotonic() < deadline
            time.sleep(0.02)
        first.kill()
        first.communicate()

        way.trouble = lambda _path, _number: None
        assert run(*args, env=env)[0] == 0
        # The pod's sandbox is lost, and the store is down as well.
        way.trouble = lambda _path, _number: "error"
        assert run(*args, env=env)[0] == 0
        # A file was damaged on the disk.
        way.trouble = lambda _path, _number: None
        (tmp_path / "models/tiny-python/1/model.py").write_text("import os")
        assert run(*args, env=env)[0] == 0

        placed = tmp_path / "models"
        assert {path.relative_to(placed): path.read_bytes() for path in placed.rglob("*") if path.is_file()} == {
            path.relative_to(REPOSITORY): path.read_bytes() for path in REPOSITORY.rglob("*") if path.is_file()
        }

    def test_says_in_the_pods_status_what_is_wrong(self, args: list[str], tmp_path: Path) -> None:
        shutil.rmtree(tmp_path / "store")
        mounted_secret(tmp_path / "store", AWS_ENDPOINT_URL="http://127.0.0.1:1", **ENVIRONMENT)
        status, stdout, stderr = run(*args, env={"PATH": "/usr/bin:/bin", "HOME": str(tmp_path)})
        assert (status, stdout) == (5, "")
        assert stderr.startswith("error: s3://models/shared: can't list it: no answer (connection refused); check the")
