"""What `deploykit train` says on the terminal, and in a log."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner
from tiny_training import TINY, VERSE, write_data

from deploykit.cli import console
from deploykit.cli.main import commands
from deploykit.errors import ConfigError
from deploykit.train.config import ModelConfig, Task
from deploykit.train.config_file import write_config


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return write_data(tmp_path / "data", train=VERSE * 40)


def test_figures_are_written_for_people(data: Path, tmp_path: Path) -> None:
    write_config(tmp_path / "short.yaml", TINY.but({"max_steps": 2, "eval_steps": 1, "vocab_size": 400}))
    options = ["train", "--data", str(data), "--config", str(tmp_path / "short.yaml"), "-o", str(tmp_path / "out")]
    result = CliRunner().invoke(commands, options)
    assert result.exit_code == 0, result.output
    rows = dict(line.split("  ", 1) for line in result.stdout.splitlines())
    shown = {name: value.strip() for name, value in rows.items()}
    found = json.loads((tmp_path / "out" / "training.json").read_text())["result"]
    assert shown["parameters"] == f"{found['parameters']:,}"
    assert "," in shown["parameters"]
    assert shown["token accuracy"] == f"{found['metrics']['token_accuracy']:.1%}"
    assert shown["padding"] == "0.0%"
    assert "e+" not in result.stdout
    # What is done can't be gone on with, unless it kept its last state; so it is told what can be done.
    again = CliRunner().invoke(commands, [*options, "--resume"])
    assert again.exit_code == 11
    assert "the training is done, and its last state wasn't kept; train the model on with --from" in again.output


def test_a_log_hears_now_and_then_of_long_work(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    now = 0.0
    monkeypatch.setattr("time.monotonic", lambda: now)
    with console.progress() as progress:
        for now in range(100):
            progress("train", now, 100, f"loss {now}")
        now = 100.0
        progress("train", 100, 100)
    said = capsys.readouterr().err.splitlines()
    assert said == ["train: 30%, loss 30", "train: 60%, loss 60", "train: 90%, loss 90", "train: 100.0 s"]


@pytest.mark.parametrize(
    ("width", "task", "heads"),
    [
        (192, "text-generation", 6),
        (64, "text-generation", 4),
        (64, "text-classification", 4),
        (512, "text2text-generation", 8),
        (100, "text2text-generation", 5),
    ],
)
def test_a_width_alone_is_enough(width: int, task: Task, heads: int) -> None:
    assert ModelConfig(hidden_size=width).filled(task).num_heads == heads


def test_heads_that_were_asked_for_are_not_changed() -> None:
    with pytest.raises(ConfigError, match=r"hidden_size \(64\) must be a multiple of num_heads \(6\)"):
        ModelConfig(hidden_size=64, num_heads=6).filled("text-generation")
    found = ModelConfig(hidden_size=64, num_key_value_heads=4).filled("text-generation")
    assert (found.num_heads, found.num_key_value_heads) == (4, 4)


@pytest.mark.slow
def test_a_profile_writes_nothing_between_the_lines(data: Path, tmp_path: Path) -> None:
    write_config(tmp_path / "short.yaml", TINY.but({"max_steps": 4}))
    train = [sys.executable, "-m", "deploykit", "train", "--data", str(data), "--config", str(tmp_path / "short.yaml")]
    done = subprocess.run(
        [*train, "-o", str(tmp_path / "out"), "--trace", str(tmp_path / "trace")],
        env={name: value for name, value in os.environ.items() if name != "KINETO_LOG_LEVEL"},
        capture_output=True,
        text=True,
        check=True,
        timeout=300,
    )
    assert (tmp_path / "trace" / "trace.json").is_file()
    parts = ("load libraries", "train the tokenizer", "encode", "train")
    assert [line for line in done.stderr.splitlines() if not line.startswith(parts)] == []
