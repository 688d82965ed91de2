"""The command line: help, errors, exit statuses."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from altering import failing

from deploykit.cli.main import commands
from deploykit.convert import convert

VERBS = [
    "export",
    "serve",
    "gateway",
    "generate",
    "chat",
    "train",
    "convert",
    "optimize",
    "quantize",
    "validate",
    "package",
    "deploy",
    "pull",
    "inspect",
    "doctor",
]


def run(*arguments: str | Path, timeout: float = 120) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "deploykit", *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )


def test_lists_the_verbs_in_the_order_of_use() -> None:
    assert list(commands.commands) == VERBS


def test_help_shows_how_to_begin_a_command_a_line() -> None:
    lines = [line.strip() for line in run("--help").stdout.splitlines()]
    for verb in ("export my-checkpoint -o out", "serve out", "inspect out"):
        assert sum(line.startswith(f"deploykit {verb} ") for line in lines) == 1, verb


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_explains_itself_and_each_of_its_options(verb: str) -> None:
    done = run(verb, "--help")
    assert done.returncode == 0
    assert done.stdout.startswith(f"Usage: deploykit {verb}")
    for parameter in commands.commands[verb].params:
        if parameter.param_type_name == "option":
            assert parameter.help, f"{verb} {parameter.name}"


def one_line_error(done: subprocess.CompletedProcess[str], status: int) -> str:
    assert done.returncode == status, done.stderr
    assert "Traceback" not in done.stderr
    lines = [line for line in done.stderr.splitlines() if line.startswith("error:")]
    assert len(lines) == 1, done.stderr
    assert not done.stdout
    return lines[0]


def test_a_missing_checkpoint(tmp_path: Path) -> None:
    message = one_line_error(run("export", tmp_path / "nowhere", "-o", tmp_path / "out"), 3)
    assert "nowhere" in message
    assert list(tmp_path.iterdir()) == []


def test_an_output_that_exists_fails_before_any_work(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine.txt").write_text("mine")
    message = one_line_error(run("export", tmp_path / "nowhere", "-o", tmp_path / "out"), 6)
    assert "exists already" in message
    assert (tmp_path / "out" / "mine.txt").read_text() == "mine"


@pytest.mark.parametrize(
    ("arguments", "status", "said"),
    [
        (["generate", "nowhere", "hi"], 5, "not a deploykit artifact"),
        (["generate", "nowhere", "hi", "--logprobs", "2"], 2, "--logprobs goes with --json"),
        (["serve", "nowhere"], 5, "nowhere"),
        (["serve", "nowhere", "--max-rows", "0"], 2, "max_rows must be at least 1, got 0"),
        (["gateway", "nowhere", "--port", "0"], 5, "nowhere"),
        (["gateway", "nowhere", "--max-body", "1"], 2, "max_body must be at least 1024 bytes, got 1"),
        (["gateway", "nowhere", "--body-timeout", "nan"], 2, "body_timeout must be at least 0.1 s, got nan"),
        (["gateway", "nowhere", "--cors-origin", "example.com"], 2, "is no origin"),
        (["gateway", "nowhere", "--triton", "http://x:8000"], 2, "name Triton's gRPC endpoint"),
        (["gateway", "nowhere", "--api-keys", "nothing-here"], 2, "--api-keys nothing-here: the file can't be read"),
        (["serve", "nowhere", "--max-body", "4MiB"], 2, "--max-body: there is no gateway to set this for"),
        (["serve", "nowhere", "--cache-memory", "0"], 2, "cache_memory must be at least 1 byte, got 0"),
        (["export", "nowhere", "-o", "out", "--throughput", "--until", "onnx"], 2, "throughput adds a quantized model"),
        (["inspect", "nowhere"], 5, "nothing there"),
        (["doctor", "nowhere"], 5, "no such folder"),
        (["doctor", "--release", "26.99"], 2, "known: 24.08 to 26.08"),
        (["export", "nowhere", "-o", "out", "--name", "../x"], 2, "name must be"),
        (["export", "nowhere", "-o", "out", "--block-size", "33"], 2, "block_size"),
        (["export", "nowhere", "-o", "out", "--atol", "nan"], 2, "atol"),
        (["quantize", "nowhere", "-o", "out"], 5, "not a deploykit artifact"),
        (["train", "--data", "nowhere", "-o", "out"], 11, "no such folder"),
    ],
)
def test_a_users_mistake_is_one_line(tmp_path: Path, arguments: list[str], status: int, said: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "deploykit", *arguments], capture_output=True, text=True, cwd=tmp_path, check=False
    )
    assert said in one_line_error(done, status)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("missing", "arguments", "extra"),
    [
        ("onnxscript", ["export", "nowhere", "-o", "out"], "cpu,export"),
        ("onnx_ir", ["quantize", "nowhere", "-o", "out"], "cpu,export"),
        ("torch", ["train", "--data", "nowhere", "-o", "out"], "train"),
        ("onnxruntime", ["generate", "nowhere", "hi"], "cpu,engine"),
        ("tokenizers", ["generate", "nowhere", "hi"], "cpu,engine"),
    ],
)
def test_names_the_extra_to_install(missing: str, arguments: list[str], extra: str) -> None:
    hidden = f"import sys; sys.modules[{missing!r}] = None; sys.argv[1:] = {arguments!r}"
    code = f"{hidden}; from deploykit.cli.main import main; main()"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    message = one_line_error(done, 7)
    assert missing in message
    assert f"'deploykit[{extra}]'" in message


def test_a_model_that_fails_on_the_prompt_is_an_error(tiny_llama: Path, tmp_path: Path) -> None:
    broken = failing(convert(tiny_llama, tmp_path / "whole"), tmp_path / "broken")
    assert "the model failed on it" in one_line_error(run("generate", broken.path, "hi"), 1)


def test_figures_that_nobody_wrote_are_one_line(tiny_llama: Path, tmp_path: Path) -> None:
    source = convert(tiny_llama, tmp_path / "source")
    manifest = json.loads((source.path / "manifest.json").read_text())
    manifest["parity"] = {"fp32": {"cases": {}}}
    (source.path / "manifest.json").write_text(json.dumps(manifest))
    assert "its figures can't be read" in one_line_error(run("package", source.path, "-o", tmp_path / "out"), 5)


@pytest.mark.parametrize(
    ("option", "said"),
    [
        (["--cache-memory", "much"], "'much' is no amount of memory; write it like 512MiB"),
        (["--mode", "fast"], "'fast' is not one of 'deterministic', 'throughput'"),
    ],
)
def test_an_option_of_serve_that_can_not_be_read_is_named(option: list[str], said: str) -> None:
    done = run("serve", "nowhere", *option)
    assert done.returncode == 2
    assert said in done.stderr
    assert "Traceback" not in done.stderr


def test_serving_without_an_artifact_says_what_is_missing() -> None:
    done = run("serve")
    assert done.returncode == 2
    assert "Missing argument 'ARTIFACT...'" in done.stderr


def test_what_a_terminal_would_obey_is_not_printed(tmp_path: Path) -> None:
    message = one_line_error(run("package", tmp_path / "\x1b[31mred", "-o", tmp_path / "out"), 5)
    assert "\ufffd[31mred: not a deploykit artifact" in message
