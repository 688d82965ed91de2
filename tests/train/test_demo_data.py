"""The text that the demo trains on."""

import hashlib
import subprocess
import sys
from pathlib import Path

import pytest


def texts(folder: Path) -> tuple[str, str]:
    return (folder / "train.txt").read_text(encoding="utf-8"), (folder / "val.txt").read_text(encoding="utf-8")


def write(folder: Path, max_bytes: int = 1_000_000) -> Path:
    from demo_data import write_stdlib_text

    write_stdlib_text(folder, max_bytes=max_bytes)
    return folder


@pytest.fixture(scope="module")
def million(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("stdlib") / "data")


def test_it_is_python_and_prose_within_the_limit(million: Path) -> None:
    train, val = texts(million)
    size = sum(file.stat().st_size for file in million.iterdir())
    assert 700_000 < size <= 1_000_000
    assert train.count("def ") > 100
    assert train.count("<eos>\n") > 20
    assert val.count("<eos>\n") >= 1


def test_held_out_documents_are_not_trained_on(million: Path) -> None:
    train, val = (set(text.split("<eos>\n")) - {""} for text in texts(million))
    assert not train & val


def test_it_is_the_same_each_time(million: Path, tmp_path: Path) -> None:
    again = write(tmp_path / "again")
    for name in ("train.txt", "val.txt"):
        assert (
            hashlib.sha256((again / name).read_bytes()).digest()
            == hashlib.sha256((million / name).read_bytes()).digest()
        )


def test_the_command_line(tmp_path: Path) -> None:
    script = Path(__file__).parents[2] / "examples" / "demo_data.py"
    command = [sys.executable, str(script), "-o", str(tmp_path / "data"), "--max-bytes", "300000"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "train.txt: 0." in done.stdout
    assert texts(tmp_path / "data")[0]
