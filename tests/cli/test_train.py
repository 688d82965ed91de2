"""`deploykit train`: every option, a file of them, a search, and what is said of bad input."""

import json
import shutil
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner, Result
from tiny_training import TINY, VERSE, write_data

from deploykit.cli.main import commands
from deploykit.errors import ConfigError, TrainError
from deploykit.train import TrainConfig
from deploykit.train.config import GROUPS
from deploykit.train.config_file import read_config, write_config
from deploykit.train.search import sweep

PAIRS = "".join(f"{number} apples\t{number} Äpfel\n" for number in range(40))
SHORT = TINY.but({"max_steps": 2, "eval_steps": 1})


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return write_data(tmp_path / "data", train=VERSE * 40)


@pytest.fixture
def short(tmp_path: Path) -> Path:
    write_config(tmp_path / "short.yaml", SHORT)
    return tmp_path / "short.yaml"


def train(*arguments: str | Path, out: Path) -> Result:
    return CliRunner().invoke(commands, ["train", "-o", str(out), *map(str, arguments)])


def test_every_field_is_an_option() -> None:
    command = commands.get_command(commands.make_context("deploykit", ["train"]), "train")
    assert command
    options = {name for option in command.params for name in option.opts}
    names = [item.name for kind in (*GROUPS.values(), TrainConfig) for item in fields(kind) if item.name not in GROUPS]
    assert len(set(names)) == len(names)
    assert {f"--{name.replace('_', '-')}" for name in names} <= options
    assert {"--d-model", "--nhead", "--dim-feedforward"} <= options
    text = CliRunner().invoke(commands, ["train", "--help"]).output
    assert [title for title in ("A new model:", "Augmentation:", "LoRA:", "Run:") if title not in text] == []
    assert "where None" not in text


def test_options_of_the_command_line_come_before_those_of_the_file(data: Path, short: Path, tmp_path: Path) -> None:
    result = train("--data", data, "--config", short, "--seed", "3", "--json", "--keep-last", out=tmp_path / "out")
    assert result.exit_code == 0, result.output
    said = json.loads(result.stdout)
    assert (said["steps"], said["stopped"]) == (2, "max_steps")
    used, _ = read_config(tmp_path / "out" / "train.yaml")
    assert used == SHORT.but({"seed": 3, "keep_last": True}).resolved("text-generation", fine_tuned=False)
    # Its own file makes the same model again.
    again = train("--data", data, "--config", tmp_path / "out" / "train.yaml", out=tmp_path / "again")
    assert again.exit_code == 0
    assert "perplexity" in again.stdout
    one, other = ((tmp_path / name / "model.safetensors").read_bytes() for name in ("out", "again"))
    assert one == other
    # And without a file, what it was trained with is what it goes on with.
    longer = train("--data", data, "--resume", "--overwrite", "--max-steps", "3", "--json", out=tmp_path / "out")
    assert longer.exit_code == 0, longer.output
    assert json.loads(longer.stdout)["steps"] == 3
    assert read_config(tmp_path / "out" / "train.yaml")[0] == used.but({"max_steps": 3})


def test_numbers_are_written_as_people_do(tmp_path: Path) -> None:
    file = tmp_path / "some.yaml"
    file.write_text("optim: {learning_rate: 3e-3, weight_decay: 1E-2, warmup: 1.5e-1, epochs: 2}\n")
    assert read_config(file)[0] == TrainConfig().but(
        {"learning_rate": 0.003, "weight_decay": 0.01, "warmup": 0.15, "epochs": 2}
    )


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("optim: {learning_rate: fast}", "learning_rate must be a number, got 'fast'"),
        ("optim: {lerning_rate: 1}", "unknown option optim.lerning_rate; known are optim.optimizer"),
        ("optim: 3", "optim must be a section of the config file, got 3"),
        ("- 1", "must hold options by name, not list"),
        ("optim: {", "not YAML"),
        (b"seed: \xff", "not UTF-8 at byte 6"),
        ("sweep: 3", "sweep must be a section"),
        ("seed: 2001-13-45", "not YAML: month must be in 1..12"),
        ("seed: " + "9" * 5000, "not YAML: Exceeds the limit"),
        ("[" * 500, "not YAML: maximum recursion depth"),
        ("data: {text_field: [a]}", "text_field must be a text, got ['a']"),
        ("lora: {lora_targets: 3}", "lora_targets must be a text, got 3"),
        (None, "some.yaml: can't be read: No such file"),
    ],
)
def test_a_file_that_can_not_be_is_named(text: str | bytes | None, match: str, data: Path, tmp_path: Path) -> None:
    file = tmp_path / "some.yaml"
    if text is not None:
        file.write_bytes(text if isinstance(text, bytes) else text.encode())
    result = train("--data", data, "--config", file, out=tmp_path / "out")
    assert (result.exit_code, "some.yaml" in result.output) == (2, True)
    assert match in result.output


def spoil(name: str, content: bytes | None) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        if content is None:
            (folder / name).unlink()
        else:
            (folder / name).write_bytes(content)

    return change


@pytest.mark.parametrize(
    ("task", "change", "match"),
    [
        ("text-generation", spoil("train.txt", b""), "train.txt: holds no text"),
        ("text-generation", spoil("train.txt", b"one line\n"), "tokens, but 4 × 32 are needed"),
        ("text-generation", spoil("val.txt", None), "val.txt: no such file; give one, or hold a part of train.txt out"),
        ("text-generation", spoil("train.txt", None), "train.txt: no such file"),
        ("text-generation", spoil("train.txt", b"a\nb\xff\n" * 9), "train.txt"),
        ("text-generation", shutil.rmtree, "data"),
        ("text2text-generation", spoil("train.txt", b"no tab\n" * 9), "train.txt"),
        ("text2text-generation", spoil("train.txt", b""), "train.txt"),
        ("text-classification", spoil("val.txt", b"unseen\ttext\n"), "unseen"),
        ("text-regression", spoil("train.txt", b"much\ttext\n"), "train.txt"),
        ("text-regression", spoil("val.txt", b"1e39\ttext\n"), "val.txt line 1: label '1e39' is beyond 1e+15"),
    ],
)
def test_data_that_can_not_be_trained_on_is_named(
    task: str, change: Callable[[Path], None], match: str, short: Path, tmp_path: Path
) -> None:
    lines = {"text-generation": VERSE * 40, "text2text-generation": PAIRS, "text-regression": "1\tone\n2\ttwo\n" * 9}
    text = lines.get(task, "good\tfine\nbad\tdull\n" * 9)
    data = write_data(tmp_path / "data", train=text, val=text)
    change(data)
    result = train("--data", data, "--task", task, "--config", short, "--max-context", "128", out=tmp_path / "out")
    assert result.exit_code == 11, result.output
    assert match in result.output
    assert result.output.count("error:") == 1
    assert not list(tmp_path.glob("out*"))


@pytest.mark.parametrize(
    ("options", "match"),
    [
        (("-o", "/"), "/: no folder of its own to write to"),
        (("-o", "{data}/../" + "n" * 250), "File name too long; choose another -o"),
        (("--trace", "{data}/train.txt/x"), "train.txt/x: can't be written: Not a directory"),
        (("--tensorboard", "{data}/train.txt/x"), "train.txt/x: can't be written: Not a directory"),
        (("-o", "{data}/../file"), "file.partial: exists and holds no train.yaml of ours"),
        (("-o", "{data}/../part", "--data", "{data}/../part.partial/data"), "part.partial, which this training writes"),
        (("-o", "{data}/../part", "--from", "{data}/../part.partial/best"), "part.partial, which this training writes"),
    ],
)
def test_a_place_that_can_not_be_written_is_named(
    options: tuple[str, ...], match: str, data: Path, short: Path, tmp_path: Path
) -> None:
    (tmp_path / "file.partial").write_text("no folder")
    places = [option.format(data=data) for option in options]
    result = train("--data", data, "--config", short, "--overwrite", *places, out=tmp_path / "out")
    assert (result.exit_code, match in result.output) == (6, True), result.output
    assert not list(tmp_path.glob("out*"))


def test_a_loss_that_is_no_number_keeps_the_last_good_model(data: Path, short: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    wild = ("--max-steps", "60", "--schedule", "constant", "--warmup", "0.9", "--learning-rate", "1e25")
    result = train("--data", data, "--config", short, *wild, out=out)
    assert result.exit_code == 11
    assert "lower --learning-rate (its peak is 1e+25)" in result.output
    assert ("out.partial keeps what was learned so far; --resume goes on from there" in result.output) is (
        tmp_path / "out.partial" / "best" / "model.safetensors"
    ).is_file()
    assert not out.exists()


def test_a_search_finds_the_better_options(data: Path, short: Path, tmp_path: Path) -> None:
    space = {"trials": 5, "space": {"learning_rate": [1e-5, 3e-3], "num_layers": {"low": 1, "high": 2}}}
    file = tmp_path / "sweep.yaml"
    options = SHORT.but({"max_steps": 6, "eval_steps": 3}).to_json()
    file.write_text(yaml.safe_dump({**options, "sweep": space}))
    out = tmp_path / "out"
    result = train("--data", data, "--config", file, "--sweep", out=out)
    assert result.exit_code == 0, result.output
    trials = json.loads((out / "sweep.json").read_text())
    assert [trial["number"] for trial in trials] == [1, 2, 3, 4, 5]
    done = [trial for trial in trials if trial["state"] == "done"]
    best = min(done, key=lambda trial: trial["score"])
    used, _ = read_config(out / "train.yaml")
    assert {"learning_rate": used.optim.learning_rate, "num_layers": used.model.num_layers} == best["options"]
    assert json.loads((out / "training.json").read_text())["result"]["val_loss"] == best["score"]
    table = (out / "sweep.md").read_text()
    assert table.strip() in result.stdout
    # The best comes first, and every trial has its line.
    assert table.splitlines()[2].split("|")[1].strip() == str(best["number"])
    assert len(table.splitlines()) == 2 + 5
    assert not (tmp_path / "out.sweep").exists()
    assert (out / "model.safetensors").is_file()


def test_trials_that_fail_are_told(data: Path, short: Path, tmp_path: Path) -> None:
    file = tmp_path / "sweep.yaml"
    options = yaml.safe_load(short.read_text())
    file.write_text(yaml.safe_dump({**options, "sweep": {"trials": 3, "space": {"num_heads": [5, 7]}}}))
    result = train("--data", data, "--config", file, "--sweep", out=tmp_path / "out")
    assert result.exit_code == 11
    assert "none of 3 trials came to its end; the first: hidden_size (32) must be a multiple" in result.output
    assert not (tmp_path / "out").exists()


def test_a_search_that_was_stopped_goes_on_with_all_it_found(data: Path, tmp_path: Path) -> None:
    out, kept = tmp_path / "out", tmp_path / "out.sweep"
    config, space = SHORT.but({"max_steps": 1}), {"trials": 3, "space": {"learning_rate": [1e-3, 1e-2]}}

    def stop(what: str, done: float, total: float, note: str = "") -> None:
        del total, note
        if (what, done) == ("sweep", 2):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt) as stopped:
        sweep(data, out, config, space=space, progress=stop)
    assert stopped.value.__notes__ == [f"{kept} keeps the trials so far; --resume goes on from there"]
    with pytest.raises(ConfigError, match=r"the space has changed since the search in .*out\.sweep began"):
        sweep(data, out, config, space={"space": {"learning_rate": [1e-3]}}, resume=True)
    shutil.copytree(kept, tmp_path / "broken.sweep")
    with (kept / "sweep.log").open("ab") as journal:
        journal.write(b'{"op_code": 4, "work')
    assert [trial.state for trial in sweep(data, out, config, space=space, resume=True).trials] == ["done"] * 3
    assert (out / "model.safetensors").is_file()
    (tmp_path / "broken.sweep" / "sweep.log").write_bytes(b"no journal\n")
    with pytest.raises(TrainError, match=r"sweep\.log: no journal of a search"):
        sweep(data, tmp_path / "broken", config, space=space, resume=True)
    assert list((tmp_path / "broken.sweep").glob("best.*/model.safetensors"))


@pytest.mark.parametrize(
    ("sweep", "match"),
    [
        (None, "--sweep needs a --config whose section `sweep`"),
        ({"trials": 0, "space": {"seed": [1]}}, "trials must be a whole number from 1 on, got 0"),
        ({"space": {}}, "space must name options"),
        ({"space": {"speed": [1]}}, "'speed' is no option that can be varied"),
        ({"space": {"seed": {"low": 3}}}, "seed must be a list of values, or low and high"),
        ({"space": {"seed": {"low": 3, "high": 2}}}, "seed from 3 to 2 is no range"),
        ({"space": {"dropout": [0.1, 7]}}, "dropout must be 0 to 0.9, got 7"),
        ({"space": {"dropout": {"low": 0.1, "high": 0.2, "step": -1}}}, "dropout's step must be a number up to 0.1"),
        ({"space": {"num_layers": {"low": 1, "high": 2, "step": 0.5}}}, "num_layers's step must be a whole number"),
        ({"space": {"dropout": {"low": 0.1, "high": 0.2, "step": 0.05, "log": True}}}, "not both; leave one out"),
        ({"space": {"dropout": {"low": 0.1, "high": 0.2, "log": "maybe"}}}, "dropout's log must be true or false"),
        ({"pace": {}}, "unknown 'pace'"),
    ],
)
def test_a_space_that_can_not_be_searched(sweep: object, match: str, data: Path, short: Path, tmp_path: Path) -> None:
    if sweep is not None:
        short.write_text(short.read_text() + yaml.safe_dump({"sweep": sweep}))
    result = train("--data", data, "--config", short, "--sweep", out=tmp_path / "out")
    assert (result.exit_code, match in result.output) == (2, True), result.output
    assert not list(tmp_path.glob("out*"))
