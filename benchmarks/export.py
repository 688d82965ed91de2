"""From a GPT-2 124M checkpoint to ONNX: ours beside `optimum-cli export onnx`, alternating in one run.

    python benchmarks/export.py [--rounds 3]

Ours does the whole way (convert, optimize, quantize to int8, validate against PyTorch, package); it is also timed
for the conversion alone, which is what the peer does. Both are whole processes, imports included; memory is the
process's peak resident size. The checkpoint has random weights: what is measured doesn't depend on them.
"""

import argparse
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path

from peers import environment
from results import keep


@dataclass(frozen=True, kw_only=True)
class Run:
    """One process."""

    who: str
    seconds: float
    peak_mb: float
    output_mb: float


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=3)
    rounds = parser.parse_args().rounds
    optimum = environment("optimum")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        checkpoint = make_gpt2(folder / "gpt2")
        commands = {
            "deploykit export": [sys.executable, "-m", "deploykit", "export", checkpoint, "-o"],
            "optimum-cli export onnx": [
                optimum / "optimum-cli",
                "export",
                "onnx",
                "--task",
                "text-generation-with-past",
                "-m",
                checkpoint,
            ],
            "deploykit convert": [sys.executable, "-m", "deploykit", "convert", checkpoint, "-o"],
        }
        runs = [measure(who, command, folder / "out") for _ in range(rounds) for who, command in commands.items()]
    report(runs)


def make_gpt2(folder: Path) -> Path:
    """Save GPT-2 124M with random weights and return its folder."""
    sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
    from checkpoints import make_checkpoint

    return make_checkpoint(
        folder, "gpt2", n_embd=768, n_layer=12, n_head=12, n_positions=1024, vocab_size=50257, scale=0.02
    )


def measure(who: str, command: list[object], out: Path) -> Run:
    """Run one command on a clean output and return what it took."""
    shutil.rmtree(out, ignore_errors=True)
    began = time.perf_counter()
    process = subprocess.Popen(
        [*map(str, command), str(out)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        env={**os.environ, "HF_HUB_OFFLINE": "1"},
    )
    assert process.stderr is not None
    tail = process.stderr.read()[-2000:]
    _, status, usage = os.wait4(process.pid, 0)
    seconds = time.perf_counter() - began
    if status:
        sys.exit(f"{who} failed:\n{tail.decode(errors='replace')}")
    size = sum(p.stat().st_size for p in out.rglob("*") if p.is_file())
    run = Run(who=who, seconds=round(seconds, 2), peak_mb=round(usage.ru_maxrss / 1024), output_mb=round(size / 1e6))
    print(f"{run.who:<26} {run.seconds:7.2f} s  peak {run.peak_mb:6.0f} MB  output {run.output_mb:5.0f} MB", flush=True)
    return run


def report(runs: list[Run]) -> None:
    """Print medians and ratios, and keep them."""
    medians = {
        who: statistics.median(r.seconds for r in runs if r.who == who) for who in dict.fromkeys(r.who for r in runs)
    }
    peer = medians["optimum-cli export onnx"]
    print()
    for who, seconds in medians.items():
        print(f"{who:<26} median {seconds:6.2f} s = {seconds / peer:.2f} × optimum-cli")
    keep(
        "export", {"model": "GPT-2 124M, random weights", "runs": [asdict(r) for r in runs], "median_seconds": medians}
    )


if __name__ == "__main__":
    main()
