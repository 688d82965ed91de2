"""Training as a whole: text in, a checkpoint that others can load out."""

import dataclasses
import json
import math
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from tiny_training import TINY, write_data
from transformers import AutoModelForCausalLM, AutoTokenizer

from deploykit.config import TrainConfig
from deploykit.errors import ConfigError, OutputError, TrainError
from deploykit.train import TrainResult, train


def log(folder: Path) -> list[dict[str, float]]:
    return list(json.loads((folder / "training.json").read_text())["log"])


def hidden(folder: Path) -> list[str]:
    """What an unfinished output would leave behind."""
    return [path.name for path in folder.iterdir() if path.name.startswith(".")]


def test_loss_falls(trained: TrainResult) -> None:
    losses = [record["val_loss"] for record in log(trained.path)]
    assert losses == sorted(losses, reverse=True)
    # The verse has few surprises: far below the 5.7 nats of an even guess among 300 entries.
    assert trained.val_loss < 3
    assert math.isclose(trained.val_perplexity, math.exp(trained.val_loss))


def test_figures_add_up(trained: TrainResult) -> None:
    assert trained.steps == TINY.max_steps
    assert trained.tokens == 60 * TINY.batch_size * TINY.sequence_length
    assert trained.tokens_per_second == pytest.approx(trained.tokens / trained.seconds)
    weights = load_file(trained.path / "model.safetensors")
    assert trained.parameters == sum(weight.numel() for weight in weights.values())


def test_transformers_loads_and_agrees(trained: TrainResult, data: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(trained.path)
    model = AutoModelForCausalLM.from_pretrained(trained.path).eval()
    assert (model.config.bos_token_id, model.config.eos_token_id, model.config.pad_token_id) == (0, 1, 2)
    assert model.config.max_position_embeddings == TINY.max_context
    assert model.get_output_embeddings().weight is model.get_input_embeddings().weight
    ids = tokenizer((data / "val.txt").read_text(), return_tensors="pt", truncation=True, max_length=32).input_ids
    with torch.no_grad():
        loss = float(model(ids, labels=ids).loss)
    assert loss == pytest.approx(trained.val_loss, abs=0.6)


def test_files_are_those_of_a_checkpoint(trained: TrainResult) -> None:
    assert {path.name for path in trained.path.iterdir()} == {
        "config.json",
        "generation_config.json",
        "model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
        "special_tokens_map.json",
        "training.json",
    }
    training = json.loads((trained.path / "training.json").read_text())
    assert training["config"] == dataclasses.asdict(TINY)
    assert training["result"]["val_loss"] == trained.val_loss
    assert json.loads((trained.path / "config.json").read_text())["architectures"] == ["LlamaForCausalLM"]


def test_the_same_seed_gives_the_same_weights(trained: TrainResult, data: Path, tmp_path: Path) -> None:
    torch.manual_seed(99)  # whatever the caller's generator is at
    again = train(data, tmp_path / "again", TINY)
    other = train(data, tmp_path / "other", dataclasses.replace(TINY, seed=1, max_steps=1))
    first, second, third = (load_file(r.path / "model.safetensors") for r in (trained, again, other))
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert not torch.equal(first["model.norm.weight"], third["model.norm.weight"])


def test_the_callers_random_numbers_are_left_alone(data: Path, tmp_path: Path) -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    train(data, tmp_path / "out", dataclasses.replace(TINY, max_steps=1))
    assert torch.equal(torch.rand(3), expected)


def test_time_ends_a_training_without_max_steps(data: Path, tmp_path: Path) -> None:
    reports: list[tuple[str, float, float, str]] = []
    result = train(
        data,
        tmp_path / "out",
        dataclasses.replace(TINY, max_steps=None, seconds=1.0),
        progress=lambda what, done, total, note="": reports.append((what, done, total, note)),
    )
    assert result.steps > 1
    training = [(done, total, note) for what, done, total, note in reports if what == "train"]
    assert {total for _, total, _ in training} == {1.0}
    assert [done for done, *_ in training] == sorted(done for done, *_ in training)
    assert [done for done, *_ in training].count(1.0) == 1
    assert training[-1][0] == 1.0
    assert "tokens/s" in training[-1][2]
    assert {what for what, *_ in reports} == {"train the tokenizer", "encode", "train"}


def test_a_loss_that_is_no_number_is_named(data: Path, tmp_path: Path) -> None:
    with pytest.raises(TrainError, match=r"the loss became (nan|inf) in step \d+.*lower --learning-rate .*1e\+30"):
        train(data, tmp_path / "out", dataclasses.replace(TINY, learning_rate=1e30))
    assert list(tmp_path.iterdir()) == []


def test_text_too_short_for_a_batch(tmp_path: Path) -> None:
    folder = write_data(tmp_path / "data", train="def f(): pass\n" * 3)
    with pytest.raises(TrainError, match=r"train\.txt: \d+ tokens, but 4 × 32 are needed"):
        train(folder, tmp_path / "out", TINY)
    folder = write_data(tmp_path / "data", val="def")
    with pytest.raises(TrainError, match=r"val\.txt: \d+ tokens, but 1 × 32 are needed"):
        train(folder, tmp_path / "out", TINY)
    assert not (tmp_path / "out").exists()


def test_an_output_that_exists_is_kept(data: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    short = dataclasses.replace(TINY, max_steps=1)
    train(data, out, short)
    before = (out / "training.json").read_bytes()
    with pytest.raises(OutputError, match="exists already"):
        train(data, out, short)
    assert (out / "training.json").read_bytes() == before
    train(data, out, dataclasses.replace(short, seed=3), overwrite=True)
    assert (out / "training.json").read_bytes() != before
    assert hidden(tmp_path) == []


def test_a_folder_of_something_else_is_never_replaced(data: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.tex").write_text("years of work")
    with pytest.raises(OutputError, match=r"no training\.json of ours"):
        train(data, tmp_path / "out", TINY, overwrite=True)
    assert (tmp_path / "out" / "thesis.tex").read_text() == "years of work"


def test_a_killed_training_leaves_no_checkpoint(data: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    code = (
        "import sys; from pathlib import Path\n"
        "from deploykit.config import TrainConfig; from deploykit.train import train\n"
        "tell = lambda what, done, total, note='': print(what, flush=True)\n"
        "config = TrainConfig(vocab_size=300, hidden_size=32, num_heads=4, sequence_length=32, batch_size=2)\n"
        "train(Path(sys.argv[1]), Path(sys.argv[2]), config, progress=tell)"
    )
    process = subprocess.Popen([sys.executable, "-c", code, data, out], stdout=subprocess.PIPE, text=True)
    assert process.stdout
    assert any(line == "train\n" for line in process.stdout)
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stdout.close()
    assert not out.exists()
    result = train(data, out, dataclasses.replace(TINY, max_steps=1))
    assert result.path == out


@pytest.mark.parametrize(
    "wrong",
    [{"learning_rate": 0.0}, {"learning_rate": float("nan")}, {"weight_decay": -1.0}, {"num_heads": 5}, {"seconds": 0}],
)
def test_a_configuration_that_can_not_be(wrong: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        TrainConfig(**wrong)  # type: ignore[arg-type] # the names vary
