"""The compose file, and what its probes say."""

import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any, Final

import pytest
import yaml

DOCKER: Final = Path(__file__).parents[2] / "docker"
COMPOSE: Final[dict[str, Any]] = yaml.safe_load((DOCKER / "compose.yaml").read_text())
SERVICES: Final[dict[str, dict[str, Any]]] = COMPOSE["services"]
PROMETHEUS: Final = DOCKER / "prometheus.yml"


def asks(probe: list[str], port: int, real: int | None) -> bool:
    """Return what a health check says of a port that stands for the one it names."""
    kind, program, *arguments = probe
    assert kind == "CMD"
    assert str(port) in " ".join(arguments)
    if program == "wget" and not shutil.which(program):
        pytest.skip("wget is missing")
    command = [sys.executable if program == "python3" else program]
    command += [word.replace(str(port), str(real)) for word in arguments]
    return subprocess.run(command, check=False, capture_output=True, timeout=30).returncode == 0
