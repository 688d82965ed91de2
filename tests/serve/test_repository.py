"""What may be served, and what is refused before anything is started."""

from pathlib import Path

import pytest

from deploykit.artifact import Artifact
from deploykit.config import ServeConfig
from deploykit.errors import ArtifactError
from deploykit.repository import open_repository
from deploykit.serve import serve


def test_a_packaged_artifact_and_its_repository_are_the_same(packaged: Artifact) -> None:
    by_artifact, by_folder = open_repository(packaged.path), open_repository(packaged.path / "model_repository")
    assert by_artifact == by_folder
    assert by_artifact.names == ("tiny",)


def test_a_changed_file_is_refused_before_anything_is_started(copied: Path, anywhere: ServeConfig) -> None:
    graph = next((copied / "model_repository").rglob("model.onnx_data"))
    content = bytearray(graph.read_bytes())
    content[len(content) // 2] ^= 1
    graph.write_bytes(content)
    with pytest.raises(ArtifactError, match=r"model\.onnx_data: SHA-256 differs"):
        serve(copied, anywhere)


def test_an_artifact_that_is_not_packaged_names_the_command(converted: Artifact) -> None:
    with pytest.raises(ArtifactError, match=r"not packaged for Triton yet; run: deploykit package"):
        open_repository(converted.path)


@pytest.mark.parametrize("make", [lambda folder: None, lambda folder: folder.mkdir()])
def test_what_is_no_repository_is_named(make: object, tmp_path: Path) -> None:
    make(tmp_path / "here")  # type: ignore[operator]
    with pytest.raises(ArtifactError, match=r"here: (no such folder|neither a packaged)"):
        open_repository(tmp_path / "here")


def test_a_model_without_a_version_is_named(tmp_path: Path) -> None:
    (tmp_path / "m").mkdir()
    (tmp_path / "m/config.pbtxt").write_text('name: "m"')
    with pytest.raises(ArtifactError, match="m: no version"):
        open_repository(tmp_path)
