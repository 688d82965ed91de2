"""What a path means to a command that runs one model."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from deploykit.artifact import REPOSITORY, Artifact
from deploykit.cli.folders import model_folder
from deploykit.config import PackageConfig
from deploykit.convert import convert
from deploykit.errors import ArtifactError
from deploykit.package import package


@pytest.fixture(scope="module")
def packaged(tiny_llama: Path, tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    root = tmp_path_factory.mktemp("folders")
    return package(convert(tiny_llama, root / "converted"), root / "packaged", PackageConfig(name="writer"))


def test_a_repository_means_its_one_model(packaged: Artifact, tmp_path: Path) -> None:
    repository = packaged.path / REPOSITORY
    version = repository / "writer" / "1"
    for path in (repository, repository / "writer", version):
        assert model_folder(path) == version
    assert model_folder(packaged.path) == packaged.path
    # The highest version is the one that Triton serves.
    copied = shutil.copytree(repository, tmp_path / "repository")
    shutil.copytree(copied / "writer" / "1", copied / "writer" / "10")
    assert model_folder(copied) == copied / "writer" / "10"


def test_of_several_models_one_is_to_be_named(packaged: Artifact, tmp_path: Path) -> None:
    copied = shutil.copytree(packaged.path / REPOSITORY, tmp_path / "repository")
    shutil.copytree(copied / "writer", copied / "another")
    with pytest.raises(ArtifactError) as caught:
        model_folder(copied)
    assert str(caught.value) == (
        f"{copied}: holds 2 models; give one of them: {copied / 'another' / '1'}, {copied / 'writer' / '1'}"
    )
    assert model_folder(copied / "another") == copied / "another" / "1"


def test_what_holds_no_model_is_left_to_who_opens_it(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "nowhere"):
        assert model_folder(path) == path


def generate(*arguments: object) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "deploykit", "generate", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, errors="replace", check=False)


def test_generate_takes_a_repository(packaged: Artifact) -> None:
    done = generate(packaged.path / REPOSITORY, "def ", "--max-tokens", 2, "--json")
    assert done.returncode == 0, done.stderr
    assert '"num_output_tokens": 2' in done.stdout


@pytest.mark.parametrize("url", ["http://localhost:1", "localhost:8001"])
def test_generate_says_how_a_server_is_asked(url: str) -> None:
    done = generate(url, "def ")
    assert done.returncode == 2
    assert done.stderr.startswith(f"error: {url}: generate runs an artifact in this process; a server is asked by")
    assert f"deploykit chat {url} --raw" in done.stderr
