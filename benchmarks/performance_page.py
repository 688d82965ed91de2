"""docs/performance.md and its plots, written from the kept figures: `python benchmarks/performance_page.py`."""

import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from bars import Bar, write_bars
from gateway_page import gateway_section
from results import kept
from tables import table

DOCS = Path(__file__).parents[1] / "docs"
MARK = "<!-- figures: written by benchmarks/performance_page.py -->"
"""What stands before it in the page is written by hand and kept."""
LONG = {"8 streams, top-k 40": "8 streams, sampling (top-k 40, temperature 0.8)", "prefill": "reading a prompt of 512"}


def write_page() -> None:
    """Write the part of the page below its mark, and the plots."""
    figures, page = kept("engine"), DOCS / "performance.md"
    words = page.read_text(encoding="utf-8").partition(MARK)[0]
    parts = [_goals(figures), _speed(figures), _gpt2(figures), _quality(figures), _triton(figures), _alone(figures)]
    parts.append(gateway_section())
    page.write_text("\n\n".join([words + MARK, *(part for part in parts if part), _state(figures)]), encoding="utf-8")


def _goals(figures: Mapping[str, Any]) -> str:
    rows = [
        (
            found["title"],
            found["goal"],
            f"**{found['reached']:.3f}** ({found['low']:.2f}–{found['high']:.2f})",
            "met" if found["met"] else _missed(found),
            found["how"],
        )
        for found in figures.get("verdicts", [])
    ]
    if not rows:
        return ""
    head = "## Goals\n\nRatios: the median of the rounds, the lowest and the highest.\n\n"
    return head + table(("work", "goal", "reached", "", "compared"), rows)


def _missed(found: Mapping[str, Any]) -> str:
    goal = float(found["goal"].split()[1])
    away = abs(found["reached"] / goal - 1)
    reached = found["reached"] >= goal if found["goal"].startswith("≥") else found["reached"] <= goal
    return "missed: at a lower quality" if reached else f"missed by {away:.1%}"


def _speed(figures: Mapping[str, Any]) -> str:
    rates = figures.get("speed", {}).get("rates")
    if not rates:
        return ""
    many = {name: _bars(rates[name]) for name in ("1 stream", "8 streams", "16 streams")}
    write_bars(
        DOCS / "images" / "streams.svg", many, unit="tokens/s, prompts' time counted",
        label="Tokens a second of each contender at 1, 8 and 16 streams",
    )  # fmt: skip
    others = {LONG[name]: _bars(rates[name]) for name in LONG}
    write_bars(
        DOCS / "images" / "prefill.svg", others, unit="tokens/s",
        label="Tokens a second of each contender reading a prompt, and sampling",
    )  # fmt: skip
    return (
        "## Llama, 134M parameters\n\n![Tokens a second at 1, 8 and 16 streams](images/streams.svg)\n\n"
        "![Tokens a second reading prompts, and sampling](images/prefill.svg)"
    )


def _gpt2(figures: Mapping[str, Any]) -> str:
    rates = figures.get("gpt2", {}).get("rates")
    if not rates:
        return ""
    write_bars(
        DOCS / "images" / "gpt2.svg", {name: _bars(row) for name, row in rates.items()}, unit="tokens/s",
        label="Tokens a second of the engine and of CTranslate2",
    )  # fmt: skip
    return "## GPT-2, 124M parameters\n\n![Tokens a second of the engine and of CTranslate2](images/gpt2.svg)"


def _quality(figures: Mapping[str, Any]) -> str:
    if not (found := figures.get("quality")):
        return ""
    rows = [
        (
            name,
            f"{row['kl']:.1e}",
            f"{row['perplexity']:.2f}",
            f"{row['top1_agreement']:.1%}",
            f"{row['same_beside_others']:.0%}" if "same_beside_others" in row else "",
        )
        for name, row in found["contenders"].items()
    ]
    head = (
        f"## Quality\n\nA trained Llama on {found['tokens']} tokens of text that it hasn't seen, each runtime beside "
        "our fp32 graph. The last column: requests that get the same greedy tokens alone and among seven others.\n\n"
    )
    return head + table(("", "KL, nats", "perplexity", "same best token", "independent"), rows)


def _triton(figures: Mapping[str, Any]) -> str:
    rows = []
    for precision, loads in figures.get("triton", {}).items():
        for streams, row in loads.items() if precision != "commit" else ():
            inside, outside, share, tokens = (
                statistics.median(row[name])
                for name in ("in-process", "triton", "client's share of a core", "tokens a response")
            )
            rows.append(
                (precision, streams, f"{inside:.0f}", f"{outside:.0f}", f"{share:.1%}", f"{tokens:.2f}")
            )  # fmt: skip
    head = ("", "", "in-process, tokens/s", "through Triton", "client, of a core", "tokens a response")
    return "## Through Triton\n\n" + table(head, rows) if rows else ""


def _alone(figures: Mapping[str, Any]) -> str:
    parts = []
    if row := figures.get("stalls"):
        ways = ("in chunks", "at once")
        rows = [(way, *(f"{statistics.median(row[f'{way}, {p}']):.0f}" for p in ("p50", "p99"))) for way in ways]
        parts.append("## Pauses and memory\n\n" + table(("prompts read", "p50, ms", "p99, ms"), rows))
    if found := figures.get("memory"):
        rows = [
            (name, *(f"{row[what] / 1e6:.0f}" for what in ("bytes", "weights", "cache")))
            for name, row in found.items()
            if name != "commit"
        ]
        parts.append(table(("", "taken, MB", "weights", "cache"), rows))
    return "\n\n".join(parts)


def _state(figures: Mapping[str, Any]) -> str:
    versions: dict[str, str] = {}
    for part in ("speed", "gpt2"):
        for found in figures.get(part, {}).get("versions", {}).values():
            versions |= found
    versions.pop("system", None)
    runtimes = ", ".join(f"{name} {version}" for name, version in sorted(versions.items()))
    machine = f"{figures.get('cores')} cores, {', '.join(figures.get('instructions', []))}"
    return f"*{machine}; Python {figures.get('python')}; {runtimes}; commit {figures.get('commit')}.*\n"


def _bars(row: Mapping[str, Sequence[float]]) -> dict[str, Bar]:
    return {name: (statistics.median(found), min(found), max(found)) for name, found in row.items()}


if __name__ == "__main__":
    write_page()
