"""What lies where after packaging, to the byte."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2

from deploykit.artifact import Artifact, Manifest, StageRecord
from deploykit.config import PackageConfig
from deploykit.draft import draft
from deploykit.errors import ArtifactError, ConfigError, OutputError
from deploykit.package import package
from deploykit.spec import DecoderSpec, LayerCache

SPEC = DecoderSpec(
    # A graph with a cache of its own is packaged as it is, unread; what becomes of others is in test_right_padded.py.
    cache="concatenated",
    layers=(LayerCache(heads=2, key_dim=16, value_dim=16),),
    vocab_size=320,
    max_context=128,
    logits_to_keep=True,
)
MANIFEST = Manifest(
    task="text-generation-with-past",
    architecture="LlamaForCausalLM",
    model_type="llama",
    decoder=SPEC,
    served="int8",
    history=(StageRecord(stage="convert", options={"opset": 20}, versions={"onnx": "1.0"}),),
)
FILES = {
    "README.md": "A model card.",
    "config.json": "{}",
    "genai_config.json": "{}",
    "tokenizer.json": json.dumps({"model": {"vocab": {"a": 0, "b": 318}}, "added_tokens": [{"id": 319}]}),
    "onnx/model.onnx": "fp32 graph",
    "onnx/model.onnx_data": "fp32 weights",
    "onnx/model_int8.onnx": "int8 graph",
    "onnx/model_int8.onnx_data": "int8 weights",
}


def write_artifact(folder: Path, files: dict[str, str] = FILES, manifest: Manifest = MANIFEST) -> Artifact:
    """Write an artifact of these files."""
    with draft(folder) as result:
        for name, text in files.items():
            result.file(name).write_text(text)
        return result.commit(manifest)


@pytest.fixture
def source(tmp_path: Path) -> Artifact:
    """An artifact that hasn't been packaged."""
    return write_artifact(tmp_path / "source")


NAMED = PackageConfig(name="greeter", version=3)


def tree(folder: Path) -> dict[str, bytes]:
    return {str(file.relative_to(folder)): file.read_bytes() for file in sorted(folder.rglob("*")) if file.is_file()}


def test_the_repository_holds_only_the_served_precision(source: Artifact, tmp_path: Path) -> None:
    packaged = package(source, tmp_path / "out", NAMED)
    assert set(tree(packaged.path / "model_repository")) == {
        "greeter/config.pbtxt",
        "greeter/3/model.py",
        "greeter/3/manifest.json",
        "greeter/3/README.md",
        "greeter/3/config.json",
        "greeter/3/tokenizer.json",
        "greeter/3/onnx/model_int8.onnx",
        "greeter/3/onnx/model_int8.onnx_data",
    }
    assert FILES.keys() <= tree(packaged.path).keys()


def test_the_repository_holds_what_mode_throughput_runs_if_that_is_wanted(tmp_path: Path) -> None:
    files = {**FILES, "onnx/model_quantized.onnx": "fast graph", "onnx/model_quantized.onnx_data": "fast weights"}
    source = write_artifact(tmp_path / "source", files)
    for throughput, precisions in ((False, ["int8"]), (True, ["int8", "dynamic-int8"])):
        out = package(source, tmp_path / f"out {throughput}", replace(NAMED, throughput=throughput))
        inner = Artifact.open(out.path / "model_repository/greeter/3")
        assert inner.precisions() == precisions
        assert inner.manifest.served == "int8"


def test_what_mode_throughput_runs_must_be_there_to_be_packaged(source: Artifact, tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match=r"no dynamic-int8 model.*deploykit export CHECKPOINT -o OUT --throughput"):
        package(source, tmp_path / "out", replace(NAMED, throughput=True))
    assert not (tmp_path / "out").exists()


def test_the_version_folder_is_an_artifact_with_the_whole_history(source: Artifact, tmp_path: Path) -> None:
    packaged = package(source, tmp_path / "out", NAMED)
    inner = Artifact.open(packaged.path / "model_repository/greeter/3")
    assert inner.precisions() == ["int8"]
    assert [record.stage for record in inner.manifest.history] == ["convert", "package"]
    assert inner.manifest.history == packaged.manifest.history
    assert "model.py" in inner.manifest.files
    Artifact.open(packaged.path)


def test_every_file_of_the_repository_is_a_file_of_its_own(source: Artifact, tmp_path: Path) -> None:
    packaged = package(source, tmp_path / "out", NAMED, link=True)
    for file in (packaged.path / "model_repository").rglob("*"):
        assert not file.is_symlink()
        assert file.is_dir() or file.stat().st_nlink == 1


def test_packaging_twice_gives_the_same_bytes(source: Artifact, tmp_path: Path) -> None:
    one, two = (package(source, tmp_path / name, NAMED) for name in ("one", "two"))
    assert tree(one.path) == tree(two.path)


def test_packaging_the_inner_artifact_gives_the_same_repository(source: Artifact, tmp_path: Path) -> None:
    outer = package(source, tmp_path / "outer", NAMED)
    again = package(outer.path / "model_repository/greeter/3", tmp_path / "again", NAMED)
    assert tree(again.path / "model_repository") == tree(outer.path / "model_repository")
    assert not (again.path / "model.py").exists()


def test_packaging_under_another_name_leaves_nothing_of_the_first(source: Artifact, tmp_path: Path) -> None:
    first = package(source, tmp_path / "first", NAMED)
    second = package(first, tmp_path / "second", PackageConfig(name="other"))
    assert [entry.name for entry in (second.path / "model_repository").iterdir()] == ["other"]
    assert tree(second.path) == tree(package(source, tmp_path / "direct", PackageConfig(name="other")).path)


def test_the_configuration_is_what_triton_parses(source: Artifact, tmp_path: Path) -> None:
    text = (package(source, tmp_path / "out", NAMED).path / "model_repository/greeter/config.pbtxt").read_text()
    config = text_format.Parse(text, model_config_pb2.ModelConfig())
    assert (config.name, config.backend) == ("greeter", "python")
    assert "max_batch_size: 0\n" in text
    assert config.model_transaction_policy.decoupled
    assert [group.count for group in config.instance_group] == [1]
    # That one of the prompts is there is for the backend to see, and it says so in a line.
    assert all(tensor.optional for tensor in config.input)
    prompts = {tensor.name: list(tensor.dims) for tensor in config.input}
    assert [prompts[name] for name in ("text_input", "input_ids", "messages")] == [[1], [-1], [1]]
    assert config.parameters["max_rows"].string_value == "16"


def test_the_given_path_is_verified(source: Artifact, tmp_path: Path) -> None:
    (source.path / "onnx/model_int8.onnx_data").write_text("int8 weightz")
    with pytest.raises(ArtifactError, match=r"model_int8.onnx_data: SHA-256 differs"):
        package(source.path, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_an_output_that_exists_is_left_alone(source: Artifact, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out/mine.txt").write_text("mine")
    with pytest.raises(OutputError, match="exists already"):
        package(source, tmp_path / "out")
    assert tree(tmp_path / "out") == {"mine.txt": b"mine"}


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"tokenizer.json": None}, r"no tokenizer\.json.*save the tokenizer"),
        ({"tokenizer.json": "{"}, "not a tokenizer"),
        ({"tokenizer.json": json.dumps({"model": {"vocab": {"a": 320}}})}, "token id 320.*ends at 319"),
        ({"tokenizer.json": json.dumps({"model": {"vocab": [["a", 0.0]] * 321}})}, "token id 320"),
        ({"onnx/model_int8.onnx": None}, "no int8 model"),
    ],
)
def test_what_serving_needs_is_there(changed: dict[str, str | None], message: str, tmp_path: Path) -> None:
    files = {name: text for name, text in {**FILES, **changed}.items() if text is not None}
    with pytest.raises(ArtifactError, match=message):
        package(write_artifact(tmp_path / "bad", files), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_task_that_nothing_serves_is_refused(tmp_path: Path) -> None:
    odd = write_artifact(tmp_path / "odd", manifest=replace(MANIFEST, task="image-classification"))
    with pytest.raises(ArtifactError, match="task 'image-classification' can't be served"):
        package(odd, tmp_path / "out")


@pytest.mark.parametrize("version", [0, 2**63])
def test_a_version_that_triton_could_not_read_is_refused(version: int) -> None:
    with pytest.raises(ConfigError, match=rf"version must .*, got {version}"):
        PackageConfig(version=version)
