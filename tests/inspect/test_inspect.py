"""What `deploykit inspect` says of artifacts, graphs and folders."""

import json
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
from click.testing import CliRunner

from deploykit.artifact import Artifact
from deploykit.cli.main import commands
from deploykit.config import QuantizeConfig
from deploykit.convert import convert
from deploykit.errors import ArtifactError
from deploykit.inspect import inspect
from deploykit.quantize import quantize

GOLDEN = Path(__file__).parents[2] / "model_repository" / "tiny-python" / "1"
CARD = "---\nlicense: apache-2.0\nbase_model:\n  - someone/base\n---\n# A model\n"


@pytest.fixture(scope="module")
def artifact(tiny_qwen2: Path, tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    """A converted and quantized model whose checkpoint has a card and a licence."""
    folder = tmp_path_factory.mktemp("inspect")
    checkpoint = Path(shutil.copytree(tiny_qwen2, folder / "checkpoint"))
    (checkpoint / "README.md").write_text(CARD)
    (checkpoint / "LICENSE").write_text("\n  Apache License\n  Version 2.0\n")
    return quantize(convert(checkpoint, folder / "fp32"), folder / "int4", QuantizeConfig(precision="int4"))


def test_tells_all_of_the_committed_model() -> None:
    found = inspect(GOLDEN)
    assert (found["architecture"], found["layers"], found["heads"], found["vocabulary"]) == (
        "LlamaForCausalLM",
        4,
        4,
        1024,
    )
    assert found["files"]["state"] == "verified"
    assert [(entry["precision"], entry["verdict"]) for entry in found["quality"]] == [
        ("fp32", "passed"),
        ("int8", "passed"),
    ]
    assert [record["stage"] for record in found["history"]] == [
        "convert",
        "optimize",
        "quantize",
        "validate",
        "package",
    ]
    (model,) = found["triton"]
    assert (model["name"], model["backend"], model["decoupled"]) == ("tiny-python", "python", True)
    (graph,) = found["graphs"]
    assert graph["operators"]["com.microsoft.GroupQueryAttention"] == 4
    assert sum(graph["operators"].values()) == graph["nodes"]
    assert found["tokenizer"]["special_tokens"]["eos_token"] == "<eos>"
    assert found["tokenizer"]["chat_template"] is False


def test_counts_shared_bytes_once_and_tells_the_bits(artifact: Artifact) -> None:
    weights = {graph["file"]: graph["weights"] for graph in inspect(artifact.path)["graphs"]}
    plain, small = weights["model.onnx"], weights["model_q4.onnx"]
    assert set(plain["by_type"]) == {"float32"}
    assert plain["quantized"] == 0
    # The table is shared with the head and keeps 8 bits; the layers' weights have 4.
    assert small["by_type"]["8 bits in blocks"] == 318 * 64
    assert small["by_type"]["4 bits in blocks"] > 318 * 64
    assert small["quantized"] > 0.9


@pytest.mark.parametrize(
    ("files", "templates", "shown"),
    [
        (
            {"chat_template.jinja": "a", "additional_chat_templates/rag.jinja": "b"},
            {"default": "chat_template.jinja", "rag": "additional_chat_templates/rag.jinja"},
            "template rag (additional_chat_templates/rag.jinja), default (chat_template.jinja)",
        ),
        (
            {"tokenizer_config.json": '{"chat_template": [{"name": "tool_use", "template": "a"}]}'},
            {"tool_use": "tokenizer_config.json"},
            "template tool_use (tokenizer_config.json)",
        ),
        (
            {"chat_template.json": '{"chat_template": "a"}'},
            {"default": "chat_template.json"},
            "template default (chat_template.json)",
        ),
        ({}, {}, "no chat template"),
        ({"chat_template.json": '{"chat_template": 5}'}, {}, "is neither a text nor a list"),
    ],
)
def test_names_chat_templates_of_every_form(
    artifact: Artifact, tmp_path: Path, files: dict[str, str], templates: dict[str, str], shown: str
) -> None:
    for name in ("tokenizer.json", "onnx/model.onnx", "onnx/model.onnx_data"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        shutil.copyfile(artifact.path / name, tmp_path / name)
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    tokenizer = inspect(tmp_path)["tokenizer"]
    assert tokenizer["chat_templates"] == templates
    assert tokenizer["chat_template"] == bool(templates)
    assert bool(tokenizer["chat_template_problem"]) == ("neither" in shown)
    assert shown in CliRunner().invoke(commands, ["inspect", str(tmp_path)]).output


def test_tells_card_and_licence(artifact: Artifact) -> None:
    card = inspect(artifact.path)["card"]
    assert (card["licence"], card["base_model"], card["licence_file"]) == ("apache-2.0", "someone/base", "LICENSE")


def test_a_licence_without_a_card_is_its_first_line(artifact: Artifact, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(artifact.path, tmp_path / "copy"))
    (copy / "README.md").unlink()
    found = inspect(copy)
    assert found["card"]["licence"] == "Apache License"
    assert found["files"]["state"] == "damaged"
    assert "README.md" in found["files"]["problem"]
    assert inspect(copy, verify=False)["files"]["state"] == "not verified"


def test_a_graph_of_others(tmp_path: Path) -> None:
    value = ir.Value(name="w", const_value=ir.tensor(np.zeros((300, 7), np.float32), name="w"))
    x = ir.val("x", ir.DataType.FLOAT, ["n", 300])
    node = ir.node("MatMul", [x, value])
    node.outputs[0].name = "y"
    graph = ir.Graph([x], node.outputs, nodes=[node], initializers=[value], opset_imports={"": 17}, name="g")
    (tmp_path / "sub").mkdir()
    ir.save(ir.Model(graph, ir_version=8, producer_name="somebody"), tmp_path / "sub" / "net.onnx")
    one, folder = inspect(tmp_path / "sub" / "net.onnx"), inspect(tmp_path)
    assert (one["kind"], folder["kind"]) == ("graph", "folder")
    (found,) = folder["graphs"]
    assert (found["file"], found["producer"], found["opsets"]) == ("sub/net.onnx", "somebody", {"ai.onnx": 17})
    assert found["weights"]["inside"] == 300 * 7 * 4
    shown = CliRunner().invoke(commands, ["inspect", str(tmp_path)])
    assert "x  float32 [n, 300]" in shown.output


def test_says_that_data_is_not_there(artifact: Artifact, tmp_path: Path) -> None:
    shutil.copyfile(artifact.graph("fp32"), tmp_path / "model.onnx")
    (entry,) = inspect(tmp_path / "model.onnx")["graphs"][0]["weights"]["external"]
    assert entry["bytes"] is None
    assert "which is not there" in CliRunner().invoke(commands, ["inspect", str(tmp_path)]).output


def manifest(folder: Path, **changes: Any) -> Path:
    """Return a copy of the committed model with other values in its manifest."""
    copy = Path(shutil.copytree(GOLDEN, folder / "copy"))
    data = json.loads((copy / "manifest.json").read_text())
    (copy / "manifest.json").write_text(json.dumps({**data, **changes}))
    return copy


def test_a_figure_past_its_limit_is_red(tmp_path: Path) -> None:
    parity = json.loads((GOLDEN / "manifest.json").read_text())["parity"]
    for name, value in (("kl", 0.5), ("kl", float("nan"))):
        folder = tmp_path / str(value)
        folder.mkdir()
        copy = manifest(folder, parity={**parity, "int8": {**parity["int8"], name: value}})
        entry = inspect(copy)["quality"][1]
        assert entry["verdict"] == "failed"
        assert [figure["name"] for figure in entry["figures"] if figure["past"]] == ["kl"]
        shown = CliRunner().invoke(commands, ["inspect", str(copy)], color=True)
        assert "\x1b[31m\x1b[1mkl" in shown.output


@pytest.mark.parametrize(
    "changes",
    [
        {"parity": {"fp32": {"cases": 3}}},
        {"parity": {"int8": {"kl": "x"}}},
        {"files": 7},
        {"decoder": []},
        {"history": [1]},
    ],
)
def test_a_garbled_manifest_is_one_line(tmp_path: Path, changes: dict[str, Any]) -> None:
    copy = manifest(tmp_path, **changes)
    with pytest.raises(ArtifactError) as raised:
        inspect(copy)
    assert "\n" not in str(raised.value)


def test_damaged_files_are_one_line(tmp_path: Path) -> None:
    copy = Path(shutil.copytree(GOLDEN, tmp_path / "copy"))
    graph = copy / "onnx" / "model_int8.onnx"
    graph.write_bytes(graph.read_bytes()[:5000])
    with pytest.raises(ArtifactError, match="cut short"):
        inspect(copy)
    (copy / "manifest.json").write_bytes(b"\x00\xff")
    with pytest.raises(ArtifactError, match="can't be read"):
        inspect(copy)


def test_the_text_is_made_of_the_same_data() -> None:
    run = CliRunner().invoke
    data = json.loads(run(commands, ["inspect", str(GOLDEN), "--json"]).output)
    text = run(commands, ["inspect", str(GOLDEN)]).output
    for piece in (
        data["architecture"],
        data["files"]["entries"][0]["sha256"][:12],
        "verified",
        "passed",
        "IR 10",
        "served",
    ):
        assert piece in text


def test_a_pipe_among_graphs_is_refused_and_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "model.onnx")
    with pytest.raises(ArtifactError, match="not a regular file"):
        inspect(tmp_path)
