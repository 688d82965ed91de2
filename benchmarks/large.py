"""A random 1.5B checkpoint in fp16 to int4: seconds and peak memory of the whole process.

python benchmarks/large.py [--checkpoint DIR]
"""

import argparse
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path

from models import make
from processes import measure
from results import keep

LIMIT_MB = 4096


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--checkpoint", type=Path, default=None, help="made once and kept there; else temporary")
    kept = parser.parse_args().checkpoint
    with tempfile.TemporaryDirectory() as name:
        checkpoint = kept or Path(name) / "large"
        if not checkpoint.exists():
            make("large", checkpoint)
        command = [sys.executable, "-m", "deploykit", "export", checkpoint, "--until", "quantized"]
        out = Path(name) / "out"
        run = measure("deploykit export, int4", [*command, "--quantize", "int4", "-o"], out, graph="onnx/model_q4*")
    print(f"peak {run.peak_mb:.0f} MB of {LIMIT_MB} allowed: {'within' if run.peak_mb <= LIMIT_MB else 'BEYOND'}")
    keep("large", {"model": "Qwen2 1.5B, random weights, fp16 on disk", "limit_mb": LIMIT_MB, **asdict(run)})


if __name__ == "__main__":
    main()
