"""`deploykit validate`: texts by label, the report's place, and what a failing gate shows."""

import json
import os
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest
from altering import altered, append, constant, failing
from click.testing import CliRunner, Result

from deploykit.artifact import Artifact
from deploykit.cli.main import commands


def run(*arguments: str | Path, color: bool = False) -> Result:
    return CliRunner().invoke(commands, ["validate", *map(str, arguments)], color=color)


@pytest.fixture
def german(tmp_path: Path) -> Path:
    file = tmp_path / "de=at.txt"
    file.write_text("Grüße aus dem Wald. " * 40)
    return file


def test_texts_are_repeated_labelled_and_told_apart(int8: Artifact, german: Path, tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    done = run(int8.path, "--text", f"German={german}", "--text", german, "--report", page, "--json")
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)
    assert found["parity"]["int8"]["text"] == "de=at.txt, de=at.txt"
    text = page.read_text()
    assert "German (" in text
    assert "de=at.txt (" in text


def test_two_texts_of_one_name_are_refused(int8: Artifact, german: Path) -> None:
    done = run(int8.path, "--text", german, "--text", german)
    assert done.exit_code == 2
    assert "two texts are called 'de=at.txt'; name them apart: LABEL=FILE" in done.stderr


def test_a_failing_gate_is_red_names_the_page_and_leaves_no_artifact(int8: Artifact, tmp_path: Path) -> None:
    def change(graph: ir.Graph) -> None:
        append(graph, "logits", "Add", constant(graph, "bias", np.array(np.inf, np.float32)))

    source = altered(int8, tmp_path / "source", change, precision="int8")
    done = run(source.path, "-o", tmp_path / "out", "--report", tmp_path / "why.html", color=True)
    assert done.exit_code == 4
    assert "\x1b[31m" in done.stderr
    assert "logits of the int8 model" in done.stderr
    assert f"report: {tmp_path / 'why.html'}" in done.stderr
    assert "<strong>Failed</strong>" in (tmp_path / "why.html").read_text()
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("page", "problem"),
    [
        ("missing/page.html", "there is no such folder"),
        ("pipe", "it is no regular file"),
        ("text.txt", "it is there already, and no page"),
    ],
)
def test_a_page_that_cant_be_written_is_refused_before_the_work(
    page: str, problem: str, int8: Artifact, tmp_path: Path
) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "text.txt").write_text("Kept as it is. " * 40)
    done = run(int8.path, "--text", tmp_path / "text.txt", "--report", tmp_path / page)
    assert done.exit_code == 6
    assert done.stderr == f"error: {tmp_path / page}: can't be written: {problem}; choose another --report\n"
    assert (tmp_path / "text.txt").read_text().startswith("Kept")


def test_a_graph_that_fails_as_late_as_it_runs_is_one_line(int8: Artifact, tmp_path: Path) -> None:
    done = run(failing(int8, tmp_path / "source").path)
    assert done.exit_code == 5, done.output
    assert "model.onnx: ONNX Runtime can't run it: " in done.stderr
    assert done.stderr.count("\n") == 1


def test_the_terminal_names_the_page_in_the_artifact(int8: Artifact, tmp_path: Path) -> None:
    done = run(int8.path, "-o", tmp_path / "out")
    assert done.exit_code == 0, done.output
    assert str(tmp_path / "out" / "report.html") in done.stdout
    assert "not judged: the model doesn't know this text" in done.stdout
