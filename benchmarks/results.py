"""Where figures are kept, with the commit and the machine they came from."""

import json
import os
import platform
import subprocess
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"


def keep(name: str, figures: dict[str, object]) -> None:
    """Write figures with the commit and machine they came from to benchmarks/results."""
    where = state()
    RESULTS.mkdir(exist_ok=True)
    # The state goes first in the file, and wins over that of figures kept from an earlier run.
    (RESULTS / f"{name}.json").write_text(json.dumps({**where, **figures, **where}, indent=2) + "\n")


def state() -> dict[str, object]:
    """Return the commit, and what of the machine decides speed."""
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False
    ).stdout.strip()
    dirty = subprocess.run(
        ["git", "status", "--porcelain", "-uno", "--", ".", ":!benchmarks/results"],
        capture_output=True,
        text=True,
        check=False,
    ).stdout.strip()
    return {
        "commit": commit + ("+changes" if dirty else ""),
        "cores": os.cpu_count(),
        "instructions": _instructions(),
        "python": platform.python_version(),
    }


def kept(name: str) -> dict[str, Any]:
    """Return the figures that the last `keep` wrote, empty where there are none."""
    file = RESULTS / f"{name}.json"
    return dict(json.loads(file.read_text())) if file.exists() else {}


def _instructions() -> list[str]:
    """Return which of the instruction sets that decide ONNX Runtime's kernels this processor has."""
    wanted = ("avx2", "avx512f", "avx_vnni", "avx512_vnni", "amx_int8", "asimddp", "i8mm", "sve")
    try:
        flags = set(Path("/proc/cpuinfo").read_text().split())
    except OSError:
        return []
    return [name for name in wanted if name in flags]
