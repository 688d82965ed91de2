"""`config.pbtxt` files against what they configure: every field that can be wrong is named with its value."""

import shutil
from pathlib import Path

import pytest
from doctoring import CONTRACT

from deploykit.artifact import Artifact
from deploykit.doctor.finding import worst
from deploykit.doctor.repository import check_model, find_models


def found(model: Path) -> list[str]:
    return [f"{finding.level}: {finding.found}" for finding in check_model(model, CONTRACT) if finding.level != "ok"]


def test_the_committed_repository_is_fine(repository: Path) -> None:
    (model,) = find_models(repository)
    assert not found(model)


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("max_batch_size: 0", "max_batch_size: 8", "max_batch_size is 8"),
        ("decoupled: true", "decoupled: false", "decoupled is not set"),
        ('name: "tiny-python"', 'name: "other"', "name is 'other'"),
        ('name: "text_input"', 'name: "prompt"', "input 'prompt' does not exist"),
        ('name: "text_input"', 'name: "prompt"', "input 'text_input' is missing"),
        ("TYPE_FP32", "TYPE_FP64", "data_type is TYPE_FP64, the model has TYPE_FP32"),
        ("dims: 1\n", "dims: 2\n", "dims[0] is 2, the model has 1"),
        ("dims: 1\n", "dims: 1\n  dims: 1\n", "2 dims [1, 1], the model has 1"),
        ("  optional: true\n", "", "optional is not set"),
        ('string_value: "16"', 'string_value: "many"', "parameter max_rows is 'many'"),
        ('key: "max_rows"', 'key: "rows"', "unknown parameter rows"),
        ("count: 1", "count: 2", "count 2"),
        ('backend: "python"', 'backend: "pyton"', "'pyton', which is not in NVIDIA's image"),
        ("latest {\n    num_versions: 1", "specific {\n    versions: 7", "version 7, which is not there"),
        ("decoupled: true", "decouple: true", "can't be read"),
        ("version_policy {", "version_policy", "can't be read"),
    ],
)
def test_a_wrong_field_is_named_with_its_value(repository: Path, old: str, new: str, said: str) -> None:
    (model,) = find_models(repository)
    file = model / "config.pbtxt"
    text = file.read_text()
    assert old in text
    file.write_text(text.replace(old, new))
    messages = found(model)
    assert any(said in message for message in messages), messages
    assert not any("\n" in message for message in messages)


@pytest.fixture
def onnx_model(artifact: Artifact, tmp_path: Path) -> Path:
    """A model of the onnxruntime backend with a configuration written by hand that is right."""
    folder = tmp_path / "decoder" / "1"
    folder.mkdir(parents=True)
    source = artifact.graph("fp32")
    shutil.copyfile(source, folder / "model.onnx")
    shutil.copyfile(source.with_name(f"{source.name}_data"), folder / f"{source.name}_data")
    ends = [("input", "input_ids", "TYPE_INT64", [-1, -1]), ("input", "attention_mask", "TYPE_INT64", [-1, -1])]
    ends += [
        ("input", f"past_key_values.{n}.{p}", "TYPE_FP32", [-1, 2, -1, 16]) for n in (0, 1) for p in ("key", "value")
    ]
    ends.append(("output", "logits", "TYPE_FP32", [-1, -1, 318]))
    blocks = [f'{role} {{ name: "{name}" data_type: {kind} dims: {dims} }}' for role, name, kind, dims in ends]
    text = "\n".join(['name: "decoder"', 'backend: "onnxruntime"', "max_batch_size: 0", *blocks])
    (folder.parent / "config.pbtxt").write_text(text)
    return folder.parent


def test_a_configuration_written_by_hand_that_fits(onnx_model: Path) -> None:
    assert not found(onnx_model)


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("[-1, -1, 318]", "[-1, -1, 320]", "'logits': dims[2] is 320, the model has 318"),
        ("[-1, -1, 318]", "[-1, 1, 318]", "dims[1] is 1, and num_logits varies"),
        ("[-1, 2, -1, 16]", "[-1, 4, -1, 16]", "dims[1] is 4, the model has 2"),
        ("[-1, 2, -1, 16]", "[2, -1, 16]", "3 dims [2, -1, 16], the model has 4"),
        ("TYPE_INT64", "TYPE_INT32", "data_type is TYPE_INT32, the model has TYPE_INT64"),
        ('"attention_mask"', '"mask"', "input 'attention_mask' is missing"),
        ("max_batch_size: 0", "max_batch_size: 4", "max_batch_size > 0 leaves the first axis out"),
        ('name: "decoder"', 'name: "decoder" default_model_filename: "other.onnx"', "other.onnx is not there"),
    ],
)
def test_every_dimension_is_compared_with_the_graph(onnx_model: Path, old: str, new: str, said: str) -> None:
    file = onnx_model / "config.pbtxt"
    file.write_text(file.read_text().replace(old, new))
    messages = found(onnx_model)
    assert any(said in message for message in messages), messages


def test_with_a_batch_size_the_first_axis_is_left_out(onnx_model: Path) -> None:
    file = onnx_model / "config.pbtxt"
    file.write_text(file.read_text().replace("max_batch_size: 0", "max_batch_size: 4").replace("[-1, ", "["))
    assert not found(onnx_model)


def test_a_damaged_graph_is_one_finding(onnx_model: Path) -> None:
    (onnx_model / "1" / "model.onnx").write_bytes(b"not a graph")
    findings = list(check_model(onnx_model, CONTRACT))
    assert worst(findings) == "error"
    assert len(findings) == 1
