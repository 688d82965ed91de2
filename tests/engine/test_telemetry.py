"""Nothing leaves the machine, and nothing waits to: ONNX Runtime keeps no device id and no queue of events."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

_OPEN = """
import sys
from pathlib import Path
from deploykit.artifact import Artifact
from deploykit.engine.session import open_session
open_session(Artifact.open(Path(sys.argv[1])), threads=1)
"""


@pytest.mark.parametrize(("set_by_user", "kept"), [(None, False), ("0", True)])
def test_a_session_leaves_nothing_in_the_home_folder(tmp_path: Path, set_by_user: str | None, kept: bool) -> None:
    model = Path(__file__).parents[2] / "model_repository" / "tiny-python" / "1"
    environment = {name: value for name, value in os.environ.items() if name not in ("ORT_DISABLE_TELEMETRY", "CI")}
    environment |= {"HOME": str(tmp_path), "TMPDIR": str(tmp_path)}
    if set_by_user is not None:
        environment["ORT_DISABLE_TELEMETRY"] = set_by_user
    subprocess.run([sys.executable, "-c", _OPEN, str(model)], env=environment, check=True, timeout=60)
    # With the user's own word it does, but in CI, which shows that these are the places to look at.
    assert any("icrosoft" in str(path) for path in tmp_path.rglob("*")) == kept
