"""From a GPT-2 124M checkpoint to ONNX: ours beside `optimum-cli export onnx`, alternating in one run.

    python benchmarks/export.py [--rounds 3]

Ours does the whole way (convert, optimize, quantize to int8, validate against PyTorch, package); it is also timed
for the conversion alone, which is what the peer does. Both are whole processes, imports included; memory is the
process's peak resident size. The checkpoint has random weights: what is measured doesn't depend on them.
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

PEER = "optimum-cli export onnx"


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=3)
    rounds = parser.parse_args().rounds
    optimum = environment("optimum") / "optimum-cli"
    ours = [sys.executable, "-m", "deploykit"]
    with tempfile.TemporaryDirectory() as name:
        checkpoint = make("gpt2", Path(name) / "gpt2")
        commands = {
            "deploykit export": [*ours, "export", checkpoint, "-o"],
            PEER: [optimum, "export", "onnx", "--task", "text-generation-with-past", "-m", checkpoint],
            "deploykit convert": [*ours, "convert", checkpoint, "-o"],
        }
        graphs = {"deploykit export": "onnx/model.onnx*", "deploykit convert": "onnx/model.onnx*"}
        runs = alternate(commands, Path(name) / "out", rounds=rounds, graph=graphs)
    keep(
        "export",
        {
            "model": "GPT-2 124M, random weights",
            "runs": [asdict(r) for r in runs],
            "medians": medians(runs, PEER),
        },
    )


if __name__ == "__main__":
    main()
