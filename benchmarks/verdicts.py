"""All verdicts on a run, from its kept figures."""

import statistics
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from goals import GOALS, Verdict, compare, judge

TRITON = {"1 stream": 0.95, "8 streams": 0.90, "16 streams": 0.88}
BANDWIDTH = {"int8": 0.70, "int4": 0.60}
STALLS = 0.25
MEMORY = 1.15


def verdicts(figures: Mapping[str, Any]) -> list[Verdict]:
    """Return the verdict on every goal whose figures are there."""
    return [*_peers(figures), *_triton(figures), *_stalls(figures), *_memory(figures), *_bandwidth(figures)]


def _peers(figures: Mapping[str, Any]) -> Iterator[Verdict]:
    rates = dict(figures.get("speed", {}).get("rates", {}))
    rates |= {f"GPT-2, {work}": row for work, row in figures.get("gpt2", {}).get("rates", {}).items()}
    if costs := figures.get("quality", {}).get("contenders"):
        yield from (compare(goal, rates, costs) for goal in GOALS if goal.work in rates)


def _triton(figures: Mapping[str, Any]) -> Iterator[Verdict]:
    for precision, loads in figures.get("triton", {}).items():
        if precision != "commit":
            for streams, row in loads.items():
                title = f"through Triton, {precision}, {streams}"
                yield _ratio(title, row["triton"], row["in-process"], TRITON[streams], unit="tokens/s")


def _stalls(figures: Mapping[str, Any]) -> Iterator[Verdict]:
    if row := figures.get("stalls"):
        ours, other = row["in chunks, p99"], row["at once, p99"]
        yield _ratio("p99 between tokens, of unchunked", ours, other, STALLS, unit="ms", most=True)


def _memory(figures: Mapping[str, Any]) -> Iterator[Verdict]:
    for precision, row in figures.get("memory", {}).items():
        if precision != "commit":
            taken, needed = row["bytes"] / 1e6, (row["weights"] + row["cache"]) / 1e6
            yield _ratio(f"memory, {precision}", [taken], [needed], MEMORY, unit="MB", most=True)


def _bandwidth(figures: Mapping[str, Any]) -> Iterator[Verdict]:
    """Yield, by precision, the verdict on the block size that uses most."""
    found = figures.get("speed", {})
    rates = found.get("rates", {})
    for precision, goal in BANDWIDTH.items() if rates else ():
        made = []
        for name in (name for name in rates["decode only"] if name.startswith(f"ours {precision}")):
            used = [rate * found["bytes_per_token"][name] / 1e9 for rate in rates["decode only"][name]]
            tests = [rate / 1e9 for rate in rates["read test"]["read test"]]
            made.append(_ratio(f"bandwidth, {name.removeprefix('ours ')}", used, tests, goal, unit="GB/s"))
        yield max(made, key=lambda verdict: verdict.reached)


def _ratio(
    title: str, ours: Sequence[float], other: Sequence[float], goal: float, *, unit: str, most: bool = False
) -> Verdict:
    ratios = [mine / theirs for mine, theirs in zip(ours, other, strict=True)]
    how = f"{statistics.median(ours):.4g} {unit} beside {statistics.median(other):.4g}"
    return judge(title, ratios, goal, how=how, most=most)
