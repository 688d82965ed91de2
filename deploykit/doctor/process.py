"""What the engine's process takes before a model is in it: measured, in a process of its own."""

import subprocess
import sys
from pathlib import Path
from typing import Final

TYPICAL: Final = 65_000_000
"""Bytes of Python 3.11 with numpy, ONNX Runtime and tokenizers, where they can't be measured (x86-64 Linux)."""
_SCRIPT: Final = """
import sys
import deploykit.engine
from deploykit.engine.text import Codec
codec = Codec.open(sys.argv[1]) if len(sys.argv) > 1 else None
print(next(line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM")))
"""


def process_bytes(tokenizer: Path | None) -> tuple[int, str]:
    """Return the peak of a process that has imported the engine and read the tokenizer, and how that is known."""
    command = [sys.executable, "-c", _SCRIPT, *([str(tokenizer)] if tokenizer else [])]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)  # noqa: S603 - this Python
        return int(done.stdout) * 1024, "measured here"
    except (OSError, ValueError, subprocess.TimeoutExpired):
        return TYPICAL, "typical: the engine's packages are not installed here"
