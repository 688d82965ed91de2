"""`deploykit export` on checkpoints that can't be exported: one line each, and nothing left behind."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from checkpoints import make_checkpoint
from click.testing import CliRunner, Result
from safetensors.torch import load_file, save_file

from deploykit.cli.main import commands


def export(checkpoint: Path, out: Path, *options: str) -> Result:
    return CliRunner().invoke(commands, ["export", str(checkpoint), "-o", str(out), *options])


def edit_config(folder: Path, **fields: object) -> None:
    file = folder / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **fields}))


def truncate(folder: Path) -> None:
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def empty(folder: Path) -> None:
    (folder / "model.safetensors").write_bytes(b"")


def lose_weights(folder: Path) -> None:
    (folder / "model.safetensors").unlink()


def lose_config(folder: Path) -> None:
    (folder / "config.json").unlink()


def break_config(folder: Path) -> None:
    (folder / "config.json").write_text("{")


def make_pickle(folder: Path) -> None:
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()


def lose_a_tensor(folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    del weights["model.layers.1.mlp.down_proj.weight"]
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


def plant_nan(folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    weights["model.layers.1.self_attn.o_proj.weight"][3, 5] = float("nan")
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


def grow_tokenizer(folder: Path) -> None:
    file = folder / "tokenizer.json"
    data = json.loads(file.read_text())
    data["added_tokens"].append(
        {
            "id": 5000,
            "content": "<far>",
            "special": True,
            "single_word": False,
            "lstrip": False,
            "rstrip": False,
            "normalized": False,
        }
    )
    file.write_text(json.dumps(data))


def rename_architecture(folder: Path) -> None:
    edit_config(folder, model_type="zebra", architectures=["ZebraForCausalLM"])


def lie_about_size(folder: Path) -> None:
    edit_config(folder, hidden_size=2**40)


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (truncate, "model.safetensors"),
        (empty, "model.safetensors"),
        (lose_weights, "safetensors"),
        (lose_config, "config.json"),
        (break_config, "config.json"),
        (make_pickle, "pickle"),
        (lose_a_tensor, "model.layers.1.mlp.down_proj.weight"),
        (plant_nan, "model.layers.1.self_attn.o_proj.weight"),
        (grow_tokenizer, "tokenizer"),
        (rename_architecture, "zebra"),
        (lie_about_size, "1099511627776"),
    ],
)
def test_names_what_is_wrong_and_writes_nothing(
    tmp_path: Path, tiny_llama: Path, damage: Callable[[Path], None], said: str
) -> None:
    checkpoint = tmp_path / "checkpoint"
    shutil.copytree(tiny_llama, checkpoint)
    damage(checkpoint)
    result = export(checkpoint, tmp_path / "out")
    assert result.exit_code == 3, result.output
    error = [line for line in result.stderr.splitlines() if line.startswith("error:")]
    assert len(error) == 1
    assert said in error[0]
    assert not result.stdout
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint"]


def test_a_pickle_is_read_when_asked_for(tmp_path: Path, tiny_llama: Path) -> None:
    checkpoint = tmp_path / "checkpoint"
    shutil.copytree(tiny_llama, checkpoint)
    make_pickle(checkpoint)
    result = export(checkpoint, tmp_path / "out", "--allow-pickle", "--until", "validated", "--json")
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["parity"]["fp32"]["reference"] == "pytorch"


def test_stops_where_it_is_told(tmp_path: Path, tiny_llama: Path) -> None:
    seen = {}
    for until in ("onnx", "optimized", "quantized"):
        result = export(tiny_llama, tmp_path / until, "--until", until, "--json")
        assert result.exit_code == 0, result.output
        seen[until] = [record["stage"] for record in json.loads(result.stdout)["history"]]
    assert seen == {
        "onnx": ["convert"],
        "optimized": ["convert", "optimize"],
        "quantized": ["convert", "optimize", "quantize"],
    }


def test_stages_one_by_one_make_what_export_makes(tmp_path: Path) -> None:
    checkpoint = make_checkpoint(tmp_path / "checkpoint", "gpt2")
    runner = CliRunner()
    for words in (
        ["convert", checkpoint, "-o", tmp_path / "1"],
        ["optimize", tmp_path / "1", "-o", tmp_path / "2"],
        ["quantize", tmp_path / "2", "-o", tmp_path / "3", "--quantize", "int4"],
        ["validate", tmp_path / "3", "--reference", checkpoint, "-o", tmp_path / "4"],
        ["package", tmp_path / "4", "-o", tmp_path / "5", "--name", "checkpoint"],
    ):
        result = runner.invoke(commands, list(map(str, words)))
        assert result.exit_code == 0, result.output
    assert export(checkpoint, tmp_path / "whole", "--quantize", "int4").exit_code == 0

    def graphs(folder: Path) -> dict[str, bytes]:
        return {
            p.relative_to(folder).as_posix(): p.read_bytes()
            for p in folder.rglob("*")
            if p.suffix.startswith(".onnx") or p.suffix == ".pbtxt"
        }

    assert graphs(tmp_path / "5") == graphs(tmp_path / "whole")


def test_a_reference_of_another_vocabulary_is_named(tmp_path: Path, tiny_llama: Path) -> None:
    other = make_checkpoint(tmp_path / "other", "gpt2", vocab_size=400)
    (tmp_path / "other" / "tokenizer.json").unlink()
    assert export(other, tmp_path / "out", "--until", "onnx").exit_code == 0
    result = CliRunner().invoke(
        commands, ["validate", str(tmp_path / "out"), "--reference", str(tiny_llama), "--atol", "1"]
    )
    assert result.exit_code in (3, 4)
    assert "the checkpoint the artifact was made from" in result.stderr


def test_errors_name_the_output_and_not_the_folder_a_stage_worked_in(tmp_path: Path, tiny_llama: Path) -> None:
    checkpoint = tmp_path / "checkpoint"
    shutil.copytree(tiny_llama, checkpoint)
    for file in checkpoint.glob("tokenizer*"):
        file.unlink()
    result = export(checkpoint, tmp_path / "out")
    assert result.exit_code != 0
    assert f"{tmp_path / 'out'}: no tokenizer.json" in result.stderr
    assert ".partial" not in result.stderr


@pytest.mark.parametrize(
    ("options", "status", "said"),
    [
        (["--text", "nowhere"], 2, "text nowhere: can't be read as UTF-8: No such file or directory"),
        (["--quantize", "int4", "--rounding", "gptq", "--calibration", "."], 2, "give another --calibration"),
        (
            ["--quantize", "auto", "--max-quality-loss", "0.05"],
            2,
            "what validation refuses past max_perplexity_loss 0.02",
        ),
        (["--report", "nowhere/page.html"], 6, "nowhere/page.html: can't be written: there is no such folder"),
    ],
)
def test_files_are_asked_for_before_the_checkpoint_is_converted(
    options: list[str], status: int, said: str, tiny_llama: Path, tmp_path: Path
) -> None:
    done = export(tiny_llama, tmp_path / "out", *options)
    assert done.exit_code == status
    assert said in done.stderr
    assert "reading the checkpoint" not in done.stderr
    # What never comes to it is not asked for.
    assert export(tiny_llama, tmp_path / "early", *options, "--until", "onnx").exit_code == 0
