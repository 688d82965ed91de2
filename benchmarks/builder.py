"""The 134M Llama to ONNX, fp32 and int4: ours beside onnxruntime-genai's model builder, alternating in one run.

    python benchmarks/builder.py [--rounds 3]

Both write a fused graph from the weights. int4 is compared at the builder's own settings (block 32, symmetric,
rounded to nearest, 4 bits in head and embedding too) and at our defaults. Whole processes, imports included.
"""

import argparse
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path

from models import make
from peers import environment
from processes import alternate, medians
from results import keep


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=3)
    rounds = parser.parse_args().rounds
    builder = [environment("builder") / "python", "-m", "onnxruntime_genai.models.builder"]
    ours = [sys.executable, "-m", "deploykit"]
    with tempfile.TemporaryDirectory() as name:
        checkpoint = make("smol", Path(name) / "smol")
        theirs = [*builder, "-i", checkpoint, "-e", "cpu", "-c", Path(name) / "cache"]
        export = [*ours, "export", checkpoint, "--until", "quantized", "--quantize", "int4"]
        same = ["--block-size", "32", "--head-bits", "4", "--rounding", "rtn", "--symmetric"]
        fp32 = {
            "genai builder fp32": [*theirs, "-p", "fp32", "-o"],
            "deploykit fp32": [*ours, "convert", checkpoint, "-o"],
        }
        int4 = {
            "genai builder int4": [*theirs, "-p", "int4", "-o"],
            "deploykit int4, as the builder": [*export, *same, "-o"],
            "deploykit int4": [*export, "-o"],
        }
        graphs = {"deploykit fp32": "onnx/model.onnx*"} | dict.fromkeys(list(int4)[1:], "onnx/model_q4.onnx*")
        out = Path(name) / "out"
        runs = [alternate(commands, out, rounds=rounds, graph=graphs) for commands in (fp32, int4)]
    figures = [medians(part, who) for part, who in zip(runs, ("genai builder fp32", "genai builder int4"), strict=True)]
    keep(
        "builder",
        {
            "model": "Llama 134M, random weights",
            "runs": [asdict(run) for part in runs for run in part],
            "medians": {who: found for part in figures for who, found in part.items()},
        },
    )


if __name__ == "__main__":
    main()
