"""`deploykit deploy`, as it is typed."""

import json
import os
import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner, Result

from deploykit.cli.deploy import deploy
from deploykit.cli.deploy_options import ENGINE
from deploykit.cli.main import commands
from deploykit.config import EngineConfig
from deploykit.deploy.config import DeployConfig

REPOSITORY = Path(__file__).parents[2] / "model_repository"
SEPARATE = {"engine", "check", "artifact", "strict", "remote", "output", "overwrite", "as_json", "paths"}


@pytest.fixture
def unchecked(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A machine without kubectl."""
    monkeypatch.setenv("PATH", str(tmp_path))


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A deployment, and what was printed when it was written."""
    folder = tmp_path_factory.mktemp("command") / "k8s"
    done = run(REPOSITORY, "-o", folder, "--gateway", "--scaling", "keda")
    assert done.exit_code == 0, done.output
    return folder, done.stdout


def run(*arguments: str | Path) -> Result:
    return CliRunner().invoke(commands, ["deploy", *map(str, arguments)])


def edited(folder: Path, file: str, old: str, new: str, to: Path) -> Path:
    """Return a copy of a deployment with one change by hand."""
    text = (folder / file).read_text()
    assert old in text
    for each in folder.rglob("*"):
        if each.is_file():
            (to / each.relative_to(folder)).parent.mkdir(parents=True, exist_ok=True)
            (to / each.relative_to(folder)).write_bytes(each.read_bytes())
    (to / file).write_text(text.replace(old, new))
    return to


def test_tells_what_was_written_why_what_is_needed_and_how_to_go_on(written: tuple[Path, str]) -> None:
    folder, said = written
    for part in (
        f"written  {folder}\n", "model    tiny-python (version 1): int8, 16 rows of up to 512 tokens\n",
        "checked  nothing wrong", "compute on the CPU", "rounded up to 64 MiB", "until one more pod serves",
        "create secret generic tiny-python-api-keys", "scaledobjects.keda.sh", f"kubectl apply -k {folder}\n",
        f"-f docker/model/Dockerfile {REPOSITORY.parent}\n", "rollout status deployment/tiny-python",
        "localhost:9000/v1/completions",
    ):  # fmt: skip
        assert part in said, part


def test_every_option_reaches_the_manifests(unchecked: None, tmp_path: Path) -> None:
    done = run(
        REPOSITORY, "-o", tmp_path / "out", "--image=registry.example.com/writer:3", "--namespace=writers",
        "--delivery=pvc", "--source=models", "--scaling=hpa", "--replicas=3", "--max-replicas=5", "--monitoring",
        "--gateway", "--api-keys-secret=keys", "--image-pull-secret=registry", "--cpu=4", "--max-rows=2",
        "--max-context=64", "--cache-memory=256KiB",
        "--mode=deterministic", "--max-queue=9", "--prefill-chunk=16", "--log-requests", "--pre-stop=7",
        "--exit-timeout=41", "--gpu-product=NVIDIA-L4", "--mig-profile=2g.20gb", "--runtime-class=nvidia",
        "--monitoring-namespace=watch", "--prometheus=http://prometheus.example.com",
    )  # fmt: skip
    assert done.exit_code == 0, done.output
    assert "checked  not at all: neither kubectl nor kustomize is on PATH" in done.stdout
    kept = json.loads((tmp_path / "out/deploykit.json").read_text())["options"]
    plain = DeployConfig(delivery="pvc", source="models")
    same = [f.name for f in fields(DeployConfig) if kept[f.name] == getattr(plain, f.name)]
    assert same == ["delivery", "source"]
    texts = "\n".join(file.read_text() for file in (tmp_path / "out").rglob("*.yaml"))
    for part in (
        "--max-rows=2", "--max-context=64", "--cache-memory=262144", "--max-queue=9", "--prefill-chunk=16",
        "--exit-timeout=41", "--threads=4", "--log-requests", "NVIDIA-L4", "nvidia.com/mig-2g.20gb", "minReplicas: 3",
        "maxReplicas: 5", "runtimeClassName: nvidia", "metadata.name: watch", "namespace: writers", "claimName: models",
        "secretName: keys", "- name: registry\n", "registry.example.com/writer", "newTag: '3'",
    ):  # fmt: skip
        assert part in texts, part


def test_every_field_of_the_configuration_has_an_option() -> None:
    named = {parameter.name for parameter in deploy.params}
    assert named - SEPARATE == ({f.name for f in fields(DeployConfig)} - {"engine"}) | set(ENGINE)
    # Threads follow --cpu; prompts in a cluster's log are for whoever edits the manifests to that end.
    assert {f.name for f in fields(EngineConfig)} - set(ENGINE) == {"threads", "log_prompts"}


def test_json_is_the_only_thing_on_stdout(unchecked: None, tmp_path: Path) -> None:
    done = run(REPOSITORY, "-o", tmp_path / "out", "--json")
    told = json.loads(done.stdout)
    assert told["output"] == str(tmp_path / "out")
    assert told["model"]["name"] == "tiny-python"
    assert told["checked"] is None
    assert {"what", "value", "how"} == told["figures"][0].keys()


@pytest.mark.parametrize(
    ("arguments", "status", "said"),
    [
        ([REPOSITORY], 2, "give one artifact and -o DIR, got 1 and no -o;"),
        ([REPOSITORY, REPOSITORY, "-o", "OUT"], 2, "give one artifact and -o DIR, got 2"),
        ([REPOSITORY, "-o", "OUT", "--strict"], 2, "--strict: only for --check"),
        (["--check", REPOSITORY, "--gateway", "-o", "OUT"], 2, "--gateway, --output: only to write"),
        ([REPOSITORY, "-o", "OUT", "--delivery", "pvc"], 2, "takes a claim's name"),
        ([REPOSITORY, "-o", "OUT", "--cache-memory", "much"], 2, "no amount of memory"),
        ([REPOSITORY, "-o", "OUT", "--max-context", "9999"], 2, "at most 512 tokens"),
        ([REPOSITORY, "-o", "OUT", "--mode", "throughput"], 5, "no dynamic-int8 model"),
        ([REPOSITORY / "tiny-python", "-o", "OUT"], 5, f"is one model of a repository: give {REPOSITORY}"),
        (["nowhere", "-o", "OUT"], 5, "no such folder"),
        (["--check", "nowhere"], 2, "no such file or folder"),
    ],
)
def test_a_mistake_is_one_line(
    unchecked: None, arguments: list[str | Path], status: int, said: str, tmp_path: Path
) -> None:
    done = run(*(tmp_path / "out" if each == "OUT" else each for each in arguments))
    assert done.exit_code == status, done.output
    assert said in done.stderr
    assert not done.stdout
    assert not (tmp_path / "out").exists()


def test_what_was_written_passes(written: tuple[Path, str]) -> None:
    done = run("--check", written[0], "--strict")
    assert done.exit_code == 0, done.output
    assert "nothing wrong" in done.stdout
    assert done.stdout.rstrip().endswith("of the model tiny-python")


def test_a_mistake_in_a_manifest_is_told_with_its_remedy(written: tuple[Path, str], tmp_path: Path) -> None:
    folder = edited(written[0], "base/deployment.yaml", "/v2/health/live", "/v2/health/alive", tmp_path / "edited")
    done = run("--check", folder)
    assert done.exit_code == 12
    for part in (
        "✗ error",
        "Deployment/tiny-python",
        "livenessProbe.httpGet.path = /v2/health/alive",
        "→",
        " in 7 builds, of the model tiny-python",
    ):
        assert part in done.stdout, part
    told = json.loads(run("--check", folder, "--json").stdout)
    assert (told["errors"] > 0, told["model"]) == (True, "tiny-python")
    assert "/v2/health/alive" in {finding["value"] for finding in told["findings"]}


def test_a_single_file_is_checked_against_a_named_artifact(written: tuple[Path, str], tmp_path: Path) -> None:
    body = yaml.safe_load((written[0] / "base/serviceaccount.yaml").read_text())
    (tmp_path / "one.yaml").write_text(yaml.safe_dump(body))
    assert "of a model that isn't known (--artifact)" in run("--check", tmp_path / "one.yaml").stdout
    named = run("--check", tmp_path / "one.yaml", "--artifact", REPOSITORY)
    assert named.exit_code == 0
    assert "1 object, of the model tiny-python" in named.stdout


def test_the_extra_to_install_is_named(tmp_path: Path) -> None:
    arguments = ["deploy", str(REPOSITORY), "-o", str(tmp_path / "out")]
    hidden = f"import sys; sys.modules['lightkube'] = None; sys.argv[1:] = {arguments!r}"
    code = f"{hidden}; from deploykit.cli.main import main; main()"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 7
    assert "'lightkube', which is not installed; run: pip install 'deploykit[deploy]'" in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_help_and_checks_load_nothing_that_describes_objects() -> None:
    loaded = "print(*(m for m in ('lightkube', 'numpy', 'jinja2', 'onnxruntime', 'tritonclient') if m in sys.modules))"
    for statement in ("import deploykit.cli.main", "import deploykit.deploy.reading, deploykit.deploy.sizing"):
        done = subprocess.run(
            [sys.executable, "-c", f"import sys; {statement}; {loaded}"], capture_output=True, text=True, check=True
        )
        assert not done.stdout.strip(), statement


def test_bytes_that_are_no_text_are_told_in_one_line() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "deploykit", "deploy", "--check", "-"],
        input=b"kind: \xeb\xff\n",
        env={**os.environ, "LC_ALL": "C"},
        capture_output=True,
        check=False,
    )
    assert (done.returncode, done.stdout) == (2, b"")
    assert done.stderr == b"error: standard input isn't UTF-8 at byte 6; pass YAML or JSON on\n"
