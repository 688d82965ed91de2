"""A folder of manifests is written whole or not at all, the same each time, and only where it may be."""

import json
import shlex
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from deploykit.config import EngineConfig
from deploykit.deploy import deploy, writing
from deploykit.deploy.check.checking import find_facts
from deploykit.deploy.config import DeployConfig
from deploykit.deploy.layout import files
from deploykit.deploy.reading import read_facts
from deploykit.deploy.sizing import size_pod
from deploykit.deploy.steps import Step, first, then
from deploykit.errors import ArtifactError, OutputError

ROOT = Path(__file__).parents[2]
REPOSITORY = ROOT / "model_repository"
GOLDEN = ROOT / "k8s"
EVERYTHING = DeployConfig(
    image="registry.example.com/writer:3", delivery="s3", source="s3://models/writer", scaling="hpa", monitoring=True,
    gateway=True, engine=EngineConfig(max_rows=4, max_context=256, cache_memory=2**20),
)  # fmt: skip


@pytest.fixture
def unchecked(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A machine without kubectl, where a deployment is written in no time."""
    monkeypatch.setenv("PATH", str(tmp_path))


def tree(folder: Path) -> dict[str, bytes]:
    return {file.relative_to(folder).as_posix(): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def test_the_committed_manifests_are_those_of_the_committed_model(tmp_path: Path, regen: bool) -> None:
    deployed = deploy(REPOSITORY, tmp_path / "k8s")
    if regen:
        shutil.rmtree(GOLDEN)
        shutil.copytree(deployed.path, GOLDEN)
    assert deployed.checked is not None
    assert (deployed.checked.errors, deployed.checked.warnings) == (0, 0)
    assert tree(deployed.path).keys() == tree(GOLDEN).keys()
    for name, content in tree(deployed.path).items():
        assert content == (GOLDEN / name).read_bytes(), f"{name} changed; if that is meant: pytest --regen"


def test_everything_at_once_is_written_and_checked(tmp_path: Path) -> None:
    deployed = deploy(REPOSITORY, tmp_path / "out", EVERYTHING)
    assert deployed.checked is not None
    assert (deployed.checked.errors, deployed.checked.objects > 10, len(deployed.checked.sources)) == (0, True, 7)
    assert all(source.startswith(f"{tmp_path}/out") for source in deployed.checked.sources)


def test_the_same_model_and_options_give_the_same_bytes(unchecked: None, tmp_path: Path) -> None:
    one, two = (deploy(REPOSITORY, tmp_path / name, EVERYTHING) for name in ("one", "a longer name"))
    assert tree(one.path) == tree(two.path)
    again = deploy(REPOSITORY, tmp_path / "one", EVERYTHING, overwrite=True)
    assert tree(again.path) == tree(two.path)
    assert [entry.name for entry in sorted(tmp_path.iterdir())] == ["a longer name", "one"]


def test_what_lies_beside_the_manifests(unchecked: None, tmp_path: Path) -> None:
    deployed = deploy(REPOSITORY, tmp_path / "out", EVERYTHING)
    facts = read_facts(REPOSITORY, EVERYTHING)
    assert deployed.checked is None
    assert tree(deployed.path).keys() == {
        *files(facts, size_pod(facts, EVERYTHING), EVERYTHING),
        "README.md",
        "deploykit.json",
    }
    kept = json.loads((deployed.path / "deploykit.json").read_text())
    assert find_facts(deployed.path / "base/deployment.yaml") == facts
    assert kept["options"]["engine"]["max_rows"] == 4
    page = (deployed.path / "README.md").read_text()
    for line in kept["figures"]:
        assert f"| {line['what']} | {line['value']} | {line['how']} |" in page
    assert {"triton: memory", "gateway: memory", "pods"} <= {line["what"] for line in kept["figures"]}
    assert str(tmp_path) not in page


def test_the_figures_are_those_of_the_manifests(unchecked: None, tmp_path: Path) -> None:
    deployed = deploy(REPOSITORY, tmp_path / "out", EVERYTHING)
    pod = yaml.safe_load((deployed.path / "base/deployment.yaml").read_text())["spec"]["template"]["spec"]
    told = {line.what: line.value for line in deployed.lines}
    triton = pod["containers"][0]
    for name in ("cpu", "memory", "ephemeral-storage"):
        assert triton["resources"]["limits"][name] == triton["resources"]["requests"][name] == told[f"triton: {name}"]
    assert f"--cache-memory={deployed.sizing.cache}" in triton["args"]
    assert triton["startupProbe"]["failureThreshold"] == int(told["startup probes"])
    assert f"{pod['terminationGracePeriodSeconds']} s" == told["grace period"]
    sizes = {volume["name"]: volume.get("emptyDir", {}).get("sizeLimit") for volume in pod["volumes"]}
    assert (sizes["shm"], sizes["tmp"], sizes["models"]) == (told["/dev/shm"], told["/tmp"], told["/models"])


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_folder_that_is_no_deployment_is_left_alone(unchecked: None, tmp_path: Path, overwrite: bool) -> None:
    mine = tmp_path / "out"
    mine.mkdir()
    (mine / "deployment.yaml").write_text("mine")
    with pytest.raises(OutputError, match="exists"):
        deploy(REPOSITORY, mine, overwrite=overwrite)
    assert tree(tmp_path) == {"out/deployment.yaml": b"mine"}


def test_a_deployment_is_replaced_only_if_that_is_wanted(unchecked: None, tmp_path: Path) -> None:
    deploy(REPOSITORY, tmp_path / "out")
    (tmp_path / "out/base/mine.yaml").write_text("mine")
    with pytest.raises(OutputError, match="exists already; choose another -o or pass --overwrite"):
        deploy(tmp_path / "nowhere", tmp_path / "out")
    deploy(REPOSITORY, tmp_path / "out", overwrite=True)
    assert not (tmp_path / "out/base/mine.yaml").exists()


def test_a_model_that_can_not_be_read_leaves_the_old_deployment(unchecked: None, tmp_path: Path) -> None:
    deploy(REPOSITORY, tmp_path / "out")
    before = tree(tmp_path)
    with pytest.raises(ArtifactError, match="no such folder"):
        deploy(tmp_path / "nowhere", tmp_path / "out", overwrite=True)
    assert tree(tmp_path) == before


def test_what_the_linter_finds_broken_is_not_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*given: object) -> dict[str, str]:
        texts = files(*given)  # type: ignore[arg-type] # what `deploy` gives
        name = "base/deployment.yaml"
        texts[name] = texts[name].replace("path: /v2/health/live", "path: /v2/health/alive")
        return texts

    monkeypatch.setattr(writing, "files", broken)
    with pytest.raises(
        OutputError,
        match=r"out: not written, since it would not work: error: Deployment/tiny-python: .*/v2/health/alive",
    ) as told:
        deploy(REPOSITORY, tmp_path / "out")
    assert ".partial" not in str(told.value)
    assert list(tmp_path.iterdir()) == []


def commands(steps: list[Step]) -> Iterator[str]:
    return (command for step in steps for command in step.commands)


def test_what_has_to_be_there_first_is_what_the_manifests_name() -> None:
    facts = read_facts(REPOSITORY, DeployConfig())
    everything = "\n".join(commands(first(facts, EVERYTHING, "out")))
    for name in ("namespace.yaml", "tiny-python-store", "tiny-python-api-keys", "prometheus-adapter", "podmonitors"):
        assert name in everything, name
    assert "docker build" not in everything
    claim = replace(EVERYTHING, delivery="pvc", source="models", image=None, namespace="writers", scaling="keda")
    told = "\n".join(commands(first(facts, claim, "out")))
    for name in (
        "kubectl -n writers get pvc models",
        "kubectl get namespace writers",
        "scaledobjects.keda.sh",
        "docker tag",
    ):
        assert name in told, name
    assert "namespace.yaml" not in told
    assert list(commands(first(facts, DeployConfig(image="a:1", namespace=None), "out"))) == []


def test_what_is_pasted_is_one_word_each(tmp_path: Path) -> None:
    # Neither can come from `read_facts` and `DeployConfig`, which refuse both; the commands don't rely on that.
    facts = replace(read_facts(REPOSITORY, DeployConfig()), name="x'; touch it; '")
    for config in (DeployConfig(), DeployConfig(gateway=True)):
        question = list(commands(then(facts, size_pod(facts, config), config, "out")))[-1]
        words = shlex.split(question)
        assert "touch" not in words, words
        if config.gateway:
            assert json.loads(words[-1])["model"] == facts.name
        else:
            compile(words[2], "question", "exec")
            assert json.dumps(facts.name) in words[2]
    stored = replace(EVERYTHING)
    object.__setattr__(stored, "source", "s3://models/a;touch${IFS}it")
    (copied,) = (each for each in commands(first(facts, stored, "out")) if each.startswith("aws"))
    assert shlex.split(copied)[-1] == stored.source


def test_what_is_mounted_as_a_volume_is_built_first(unchecked: None, tmp_path: Path) -> None:
    config = DeployConfig(delivery="volume", source="registry.example.com/files:3", image="registry.example.com/x:1")
    told = first(read_facts(REPOSITORY, config), config, "out", "artifact")
    (build,) = (each for each in commands(told) if "docker build" in each)
    assert "FROM scratch" in build
    assert build.endswith("-t registry.example.com/files:3 -f - artifact/model_repository")
    page = (deploy(REPOSITORY, tmp_path / "out", config).path / "README.md").read_text()
    assert "Kubernetes 1.33 with the feature gate ImageVolume, or 1.35 to 1.37 without." in page
    assert "1.28" not in page


def test_a_claim_must_be_mounted_by_pods_on_several_nodes() -> None:
    config = DeployConfig(delivery="pvc", source="models", image="registry.example.com/x:1")
    (step,) = (step for step in first(read_facts(REPOSITORY, config), config, "out") if "pvc" in step.commands[0])
    assert "ReadOnlyMany or ReadWriteMany" in step.what
    assert "{.spec.accessModes}" in step.commands[0]


def test_the_way_to_a_first_answer_is_told() -> None:
    facts = read_facts(REPOSITORY, DeployConfig())
    plain = list(commands(then(facts, size_pod(facts, DeployConfig()), DeployConfig(), "out")))
    assert plain[0] == "kubectl apply -k out"
    assert any("port-forward service/tiny-python 8001" in command for command in plain)
    assert "deploykit.client" in plain[-1]
    gateway = list(commands(then(facts, size_pod(facts, EVERYTHING), EVERYTHING, "out")))
    assert "localhost:9000/v1/completions" in gateway[-1]
