"""The notebook, run as a reader would."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

NOTEBOOK = Path(__file__).parents[2] / "examples" / "train_to_triton.ipynb"


@pytest.mark.slow
@pytest.mark.triton
@pytest.mark.timeout(900)
def test_goes_the_whole_way() -> None:
    """Each cell runs; the last ones ask a real Triton for days that training never had, and count the right answers."""
    run = subprocess.run(
        [
            sys.executable,
            "-m",
            "pytest",
            "-q",
            "-p",
            "no:cacheprovider",
            "--nbmake",
            "--nbmake-timeout=800",
            "--timeout=850",
            NOTEBOOK,
        ],
        cwd=NOTEBOOK.parents[1],
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stdout[-4000:]
    assert "1 passed" in run.stdout


def test_is_kept_without_what_it_printed() -> None:
    """Pictures and figures would differ with each run, and hide what was changed."""
    cells = json.loads(NOTEBOOK.read_text(encoding="utf-8"))["cells"]
    assert all(not cell.get("outputs") and cell.get("execution_count") is None for cell in cells)
