"""Training as a whole: text in, a checkpoint that others can load out."""

import json
import math
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from tiny_training import TINY, VERSE, write_data
from transformers import AutoModelForCausalLM, AutoTokenizer

from deploykit.errors import ConfigError, OutputError, TrainError
from deploykit.train import TrainConfig, TrainResult, train
from deploykit.train.config_file import read_config
from deploykit.train.record import Record
from deploykit.train.run import Job, run


def log(folder: Path) -> list[dict[str, float]]:
    return list(json.loads((folder / "training.json").read_text())["log"])


def losses(result: TrainResult) -> list[tuple[float, float]]:
    return [(record["train_loss"], record["val_loss"]) for record in log(result.path)]


def hidden(folder: Path) -> list[str]:
    """What an unfinished output would leave behind."""
    return [path.name for path in folder.iterdir() if path.name.startswith(".")]


def test_loss_falls(trained: TrainResult) -> None:
    losses = [record["val_loss"] for record in log(trained.path)]
    assert losses == sorted(losses, reverse=True)
    # The verse has few surprises: far below the 5.7 nats of an even guess among 300 entries.
    assert trained.val_loss < 3
    assert math.isclose(trained.metrics["perplexity"], math.exp(trained.val_loss))


def test_figures_add_up(trained: TrainResult) -> None:
    assert (trained.steps, trained.stopped) == (60, "max_steps")
    # An epoch's last batch may be short.
    assert 59 * 4 * 32 <= trained.tokens <= 60 * 4 * 32
    assert trained.padding == 0
    assert trained.tokens_per_second == pytest.approx(trained.tokens / trained.seconds)
    weights = load_file(trained.path / "model.safetensors")
    assert trained.parameters == sum(weight.numel() for weight in weights.values())


def test_transformers_loads_and_agrees(trained: TrainResult, data: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(trained.path)
    model = AutoModelForCausalLM.from_pretrained(trained.path).eval()
    assert (model.config.bos_token_id, model.config.eos_token_id, model.config.pad_token_id) == (0, 1, 2)
    assert model.config.max_position_embeddings == TINY.model.max_context
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
        "train.yaml",
        "loss.png",
    }
    training = json.loads((trained.path / "training.json").read_text())
    assert TrainConfig.from_json(training["config"]) == TINY.resolved("text-generation", fine_tuned=False)
    assert read_config(trained.path / "train.yaml") == (TrainConfig.from_json(training["config"]), None)
    assert (trained.path / "loss.png").read_bytes().startswith(b"\x89PNG")
    assert training["result"]["val_loss"] == trained.val_loss
    assert json.loads((trained.path / "config.json").read_text())["architectures"] == ["LlamaForCausalLM"]


def test_the_same_seed_gives_the_same_weights(trained: TrainResult, data: Path, tmp_path: Path) -> None:
    torch.manual_seed(99)  # whatever the caller's generator is at
    again = train(data, tmp_path / "again", TINY)
    other = train(data, tmp_path / "other", TINY.but({"seed": 1, "max_steps": 1}))
    first, second, third = (load_file(r.path / "model.safetensors") for r in (trained, again, other))
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert not torch.equal(first["model.norm.weight"], third["model.norm.weight"])


def test_the_callers_random_numbers_are_left_alone(data: Path, tmp_path: Path) -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    train(data, tmp_path / "out", TINY.but({"max_steps": 1}))
    assert torch.equal(torch.rand(3), expected)


def test_time_ends_a_training_without_max_steps(data: Path, tmp_path: Path) -> None:
    reports: list[tuple[str, float, float, str]] = []
    result = train(
        data,
        tmp_path / "out",
        TINY.but({"max_steps": None, "seconds": 1.0}),
        progress=lambda what, done, total, note="": reports.append((what, done, total, note)),
    )
    assert result.steps > 1
    training = [(done, total, note) for what, done, total, note in reports if what == "train"]
    assert {total for _, total, _ in training} == {1.0}
    assert [done for done, *_ in training] == sorted(done for done, *_ in training)
    assert [done for done, *_ in training].count(1.0) == 1
    assert training[-1][0] == 1.0
    assert "tokens/s" in training[-1][2]
    assert {what for what, *_ in reports} == {"train the tokenizer", "encode train.txt", "encode val.txt", "train"}


def test_a_loss_that_is_no_number_is_named(data: Path, tmp_path: Path) -> None:
    with pytest.raises(TrainError, match=r"became (nan|inf) in step \d+.*lower --learning-rate .*1e\+30"):
        train(data, tmp_path / "out", TINY.but({"learning_rate": 1e30}))
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
    short = TINY.but({"max_steps": 1})
    train(data, out, short)
    before = (out / "training.json").read_bytes()
    with pytest.raises(OutputError, match="exists already"):
        train(data, out, short)
    assert (out / "training.json").read_bytes() == before
    train(data, out, short.but({"seed": 3}), overwrite=True)
    assert (out / "training.json").read_bytes() != before
    assert hidden(tmp_path) == []


def test_a_folder_of_something_else_is_never_replaced(data: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.tex").write_text("years of work")
    with pytest.raises(OutputError, match=r"no training\.json of ours"):
        train(data, tmp_path / "out", TINY, overwrite=True)
    assert (tmp_path / "out" / "thesis.tex").read_text() == "years of work"


def test_a_killed_training_goes_on_to_the_same_weights(trained: TrainResult, data: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    code = (
        "import sys, time; from pathlib import Path\n"
        "from deploykit.train.run import Job, run; from tiny_training import TINY\n"
        "def heard(record):\n"
        "    if record.step == 40: print('here', flush=True); time.sleep(60)\n"
        "run(Job(data=Path(sys.argv[1]), target=Path(sys.argv[2]), config=TINY, heard=heard))"
    )
    places = {"PYTHONPATH": str(Path(__file__).parents[1]), "PATH": "", "OMP_WAIT_POLICY": "passive"}
    process = subprocess.Popen([sys.executable, "-c", code, data, out], stdout=subprocess.PIPE, text=True, env=places)
    assert process.stdout
    assert process.stdout.readline() == "here\n"
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stdout.close()
    assert not out.exists()
    with pytest.raises(OutputError, match=r"out\.partial: an unfinished training; go on with --resume"):
        train(data, out, TINY)
    with pytest.raises(TrainError, match=r"the options of its tokenizer, have changed"):
        train(data, out, TINY.but({"vocab_size": 290}), resume=True)
    with pytest.raises(TrainError, match=r"state\.pt: .* \[\d+, 32\], in the model to train \[\d+, 16\]"):
        train(data, out, TINY.but({"hidden_size": 16}), resume=True)
    # Of as many tokens, from the same tokenizer: but another text.
    other = write_data(tmp_path / "other", val=VERSE.replace("item", "basket") + VERSE.replace("basket", "item") * 9)
    with pytest.raises(TrainError, match=r"state\.pt: the data is no longer what the training began with"):
        train(other, out, TINY, resume=True)
    # The same text is the same wherever it lies.
    moved = shutil.copytree(data, tmp_path / "moved", copy_function=shutil.copyfile)
    result = train(moved, out, TINY, resume=True)
    assert losses(result) == losses(trained)
    one, other = (load_file(folder / "model.safetensors") for folder in (out, trained.path))
    assert all(torch.equal(one[name], other[name]) for name in other)
    assert not (tmp_path / "out.partial").exists()


def test_a_finished_training_that_kept_its_last_state_goes_on(data: Path, tmp_path: Path) -> None:
    out, short = tmp_path / "out", TINY.but({"max_steps": 4, "eval_steps": 2, "schedule": "constant"})
    train(data, out, short.but({"keep_last": True}))
    assert (out / "last" / "state.pt").is_file()
    longer = train(data, out, short.but({"max_steps": 6}), resume=True, overwrite=True)
    assert [record["step"] for record in log(out)] == [2, 4, 6]
    assert longer.steps == 6
    assert not (out / "last").exists()
    with pytest.raises(TrainError, match="the training is done, and its last state wasn't kept"):
        train(data, out, short, resume=True, overwrite=True)


def test_an_unfinished_training_outlives_a_mistake(data: Path, tmp_path: Path) -> None:
    out, part = tmp_path / "out", tmp_path / "out.partial"
    short = TINY.but({"max_steps": 2, "eval_steps": 1})

    def stop(record: Record) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(Job(data=data, target=out, config=short, heard=stop))
    before = (part / "train.yaml").read_text()
    with pytest.raises(TrainError, match="no such folder"):
        train(tmp_path / "dat", out, short, overwrite=True)
    with pytest.raises(ConfigError, match="sequence_length 100 exceeds"):
        train(data, out, short.but({"sequence_length": 100}), overwrite=True)
    assert (part / "train.yaml").read_text() == before

    def appear(record: Record) -> None:
        (out / "something").mkdir(parents=True)

    with pytest.raises(OutputError, match="exists already"):
        run(Job(data=data, target=out, config=short.but({"keep_last": True}), resume=True, heard=appear))
    shutil.rmtree(out)
    assert train(data, out, short, resume=True).steps == 2
    assert not part.exists()


def test_a_failure_says_what_it_keeps(data: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    steps = TINY.but({"eval_steps": 2})

    def stop(record: Record) -> None:
        if record.step == 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt) as stopped:
        run(Job(data=data, target=out, config=steps, heard=stop))
    assert stopped.value.__notes__ == [f"{out}.partial keeps what was learned so far; --resume goes on from there"]
    assert AutoModelForCausalLM.from_pretrained(tmp_path / "out.partial" / "best")
    (tmp_path / "out.partial" / "last" / "state.pt").write_bytes(b"PK")
    with pytest.raises(TrainError, match=r"state\.pt: 2 bytes that are no whole training state"):
        train(data, out, steps, resume=True)
    assert (tmp_path / "out.partial" / "best" / "model.safetensors").is_file()


@pytest.mark.parametrize(
    "wrong",
    [
        {"learning_rate": 0.0},
        {"learning_rate": float("nan")},
        {"weight_decay": -1.0},
        {"seconds": 0},
        {"task": "poetry"},
        {"keep_last": "maybe"},
        {"epochs": True},
        {"nonsense": 1},
    ],
)
def test_a_configuration_that_can_not_be(wrong: dict[str, object]) -> None:
    with pytest.raises((ConfigError, TypeError), match=next(iter(wrong))):
        TrainConfig().but(wrong)


@pytest.mark.parametrize(
    ("wrong", "match"),
    [
        ({"num_heads": 5}, r"hidden_size \(32\) must be a multiple of num_heads \(5\)"),
        ({"num_key_value_heads": 3}, r"num_key_value_heads \(3\)"),
        ({"sequence_length": 100}, "sequence_length 100 exceeds the 64 positions"),
        ({"lora_rank": 4}, "fresh weights has nothing to update; name a checkpoint with --from"),
    ],
)
def test_options_that_do_not_fit_each_other(wrong: dict[str, object], match: str, data: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=match):
        train(data, tmp_path / "out", TINY.but(wrong))
    assert list(tmp_path.iterdir()) == []
