"""Whole processes, timed one after the other: seconds, peak memory, and what they left on disk."""

import os
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

Command = Sequence[object]


@dataclass(frozen=True, kw_only=True)
class Run:
    """One process."""

    who: str
    seconds: float
    peak_mb: float
    """Largest resident size, pages of mapped files included."""
    output_mb: float
    """Every file that it wrote."""
    weights_mb: float
    """Those of them that hold the graph it was asked for."""


def alternate(commands: Mapping[str, Command], out: Path, *, rounds: int, graph: Mapping[str, str]) -> list[Run]:
    """Run the commands in turn, each on a clean output, and return every run.

    Args:
        commands: by name; the output folder is put behind each.
        out: the output folder.
        rounds: how often each is run.
        graph: by name, a glob of the files under `out` whose size is compared.
    """
    return [
        measure(who, command, out, graph=graph.get(who, "**/*.onnx*"))
        for _ in range(rounds)
        for who, command in commands.items()
    ]


def measure(who: str, command: Command, out: Path, *, graph: str = "**/*.onnx*") -> Run:
    """Run one command on a clean output and return what it took; end this program if it fails."""
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
    run = Run(
        who=who,
        seconds=round(seconds, 2),
        peak_mb=round(usage.ru_maxrss / 1024),
        output_mb=_megabytes(out, "**/*"),
        weights_mb=_megabytes(out, graph),
    )
    print(
        f"{who:<34} {run.seconds:7.2f} s  peak {run.peak_mb:6.0f} MB  output {run.output_mb:6.0f} MB"
        f"  graph {run.weights_mb:6.1f} MB",
        flush=True,
    )
    return run


def medians(runs: Sequence[Run], peer: str) -> dict[str, dict[str, float]]:
    """Return each one's median seconds, peak and graph size, and its ratios to the peer; print them, too."""
    names = dict.fromkeys(run.who for run in runs)
    figures = {who: {what: _median(runs, who, what) for what in ("seconds", "peak_mb", "weights_mb")} for who in names}
    print()
    for who, found in figures.items():
        ratios = {f"{what}_ratio": round(found[what] / figures[peer][what], 3) for what in tuple(found)}
        print(
            f"{who:<34} median {found['seconds']:6.2f} s = {ratios['seconds_ratio']:.2f} × {peer}, "
            f"peak {ratios['peak_mb_ratio']:.2f} ×, graph {ratios['weights_mb_ratio']:.2f} ×"
        )
        found.update(ratios)
    return figures


def _median(runs: Sequence[Run], who: str, what: str) -> float:
    return float(statistics.median(getattr(run, what) for run in runs if run.who == who))


def _megabytes(folder: Path, pattern: str) -> float:
    return round(sum(p.stat().st_size for p in folder.glob(pattern) if p.is_file()) / 1e6, 1)
