"""What the demo says at its end can be pasted."""

import os
import shlex
import sys
from pathlib import Path

import pytest
from demo import NAME, next_steps

from deploykit.cli import console
from deploykit.cli.main import commands


def test_every_command_starts_this_deploykit_and_is_one_that_it_takes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "a model"
    folder.mkdir()
    # No virtual environment is activated after `make`.
    monkeypatch.setenv("PATH", "/nowhere")
    steps = [shlex.split(line, comments=True) for line in next_steps(folder).splitlines()]
    assert [words[1] for words in steps] == ["generate", "chat", "serve", "serve"]
    for program, verb, *arguments in steps:
        assert os.access(program, os.X_OK)
        assert str(folder) in arguments
        command = commands.get_command(commands.make_context("deploykit", [verb]), verb)
        assert command
        command.make_context(verb, arguments)
    assert f'"{NAME}"' in next_steps(folder)


def test_a_program_is_named_as_a_shell_finds_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script = Path(sys.executable).with_name("deploykit")
    if not script.exists():
        pytest.skip("deploykit isn't installed beside this Python")
    monkeypatch.chdir(script.parents[2])
    monkeypatch.setenv("PATH", str(tmp_path))
    assert console.program() == f"{script.parents[1].name}/bin/deploykit"
    monkeypatch.chdir(tmp_path)
    assert console.program() == shlex.quote(str(script))
    monkeypatch.setenv("PATH", str(script.parent))
    assert console.program() == "deploykit"
    # Another one of that name is not this one.
    (tmp_path / "deploykit").write_text("#!/bin/sh\n")
    (tmp_path / "deploykit").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert console.program() == shlex.quote(str(script))
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    (tmp_path / "deploykit").unlink()
    line = console.program()
    assert line == f"{shlex.quote(str(tmp_path / 'python'))} -m deploykit"
