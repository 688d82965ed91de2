"""What docs/performance.md says of the gateway and the client, from the kept figures."""

import statistics
from collections.abc import Mapping
from typing import Any, Final

import numpy as np
from results import kept
from tables import table

LATER: Final = 3.0
"""Milliseconds that the first token may come later than over gRPC itself."""
LEAST: Final = 0.95
"""Part of gRPC's tokens a second that must be left at 16 streams."""
STORM: Final = 1.1
"""Requests that may reach a server which fails every one, for each that was asked."""
SIZE: Final = 60.0
"""Megabytes that a client and all it needs may take."""
DIRECT: Final = "gRPC"


def gateway_section() -> str:
    """Return the section; empty where nothing was measured."""
    figures = kept("gateway")
    parts = [_goals(figures), _first(figures), _rates(figures), _users(kept("aiperf"))]
    found = "\n\n".join(part for part in parts if part)
    return f"## Through the gateway\n\n{found}" if found else ""


def _goals(figures: Mapping[str, Any]) -> str:
    rows = []
    if found := figures.get("grpc"):
        later = {who: _later(found, who) for who in ("gateway", "gateway, chat")}
        ratios = _ratios(found["rates"]["16 streams"], "gateway")
        reached = statistics.median(ratios)
        rows = [
            (f"first token after gRPC's, {way}, ms", f"≤ {LATER:g}", f"**{later[who]:.2f}**", _met(later[who] <= LATER))
            for way, who in (("completions", "gateway"), ("chat", "gateway, chat"))
        ]
        span = f"**{reached:.3f}** ({min(ratios):.2f}–{max(ratios):.2f})"
        rows.append(("tokens/s of 16 streams, of gRPC's", f"≥ {LEAST}", span, _met(reached >= LEAST)))
    for who, row in figures.get("retries", {}).items():
        if who != "commit":
            sent = row["a request"]
            title = f"requests sent where every one fails, each asked: {who}"
            rows.append((title, f"≤ {STORM}", f"**{sent:.3f}**", _met(sent <= STORM)))
    if "megabytes" in (client := kept("client_only")):
        size = client["megabytes"]
        rows.append(("a client and all it needs, MB", f"≤ {SIZE:g}", f"**{size:.1f}**", _met(size <= SIZE)))
        seconds = client["seconds_to_load"]
        took = (seconds["import deploykit.client"] - seconds["python alone"]) * 1e3
        rows.append(("`import deploykit.client`, ms of processor", "", f"{took:.0f}", ""))
    return table(("", "goal", "reached", ""), rows) if rows else ""


def _first(figures: Mapping[str, Any]) -> str:
    if not (found := figures.get("grpc")):
        return ""
    rows = [
        (
            who,
            f"{statistics.median(row['ms']):.2f}",
            f"{np.percentile(row['ms'], 95):.2f}",
            f"{_later(found, who):+.2f}",
            f"{_later(found, who, 95):+.2f}",
        )
        for who, row in found["first token"].items()
    ]
    return table(("first token, ms", "median", "p95", "after gRPC's, median", "p95"), rows)


def _rates(figures: Mapping[str, Any]) -> str:
    if not (found := figures.get("grpc")):
        return ""
    rows = []
    for streams, callers in found["rates"].items():
        for who, row in callers.items():
            ratios = _ratios(callers, who)
            costs = (f"{statistics.median(row[f'{of}, µs a token']):.0f}" for of in ("client", "gateway"))
            rows.append(
                (
                    "1 stream" if streams == "1 streams" else streams,
                    who,
                    f"{statistics.median(row['tokens/s']):.1f}",
                    f"{statistics.median(ratios):.3f} ({min(ratios):.2f}–{max(ratios):.2f})",
                    *costs,
                    f"{statistics.median(row['tokens a response']):.2f}",
                )
            )
    head = ("", "", "tokens/s", "of gRPC's", "caller, µs a token", "gateway, µs a token", "tokens a response")
    return table(head, rows)


def _users(figures: Mapping[str, Any]) -> str:
    rows = []
    for endpoint, found in figures.get("endpoints", {}).items():
        for users, row in found.items():
            first, between = row["time_to_first_token"], row["inter_token_latency"]
            rows.append(
                (
                    endpoint,
                    users.removesuffix(" users"),
                    f"{first['avg']:.0f}",
                    f"{first['p99']:.0f}",
                    f"{between['avg']:.1f}",
                    f"{row['output_token_throughput']['avg']:.1f}",
                    f"{row['request_throughput']['avg']:.2f}",
                    str(row["errors"]),
                    f"{row['cores']['aiperf']:.2f}",
                    f"{row['cores']['gateway']:.2f}",
                )
            )
    head = (
        f"aiperf {figures.get('aiperf', '')}", "users", "first token, ms", "p99", "between tokens, ms", "tokens/s",
        "requests/s", "errors", "aiperf, cores", "gateway, cores",
    )  # fmt: skip
    return table(head, rows) if rows else ""


def _later(found: Mapping[str, Any], who: str, percentile: float = 50) -> float:
    """Return the milliseconds by which the first token comes later than over gRPC itself."""
    rows = found["first token"]
    return float(np.percentile(rows[who]["ms"], percentile) - np.percentile(rows[DIRECT]["ms"], percentile))


def _ratios(callers: Mapping[str, Any], who: str) -> list[float]:
    """Return a caller's tokens a second over gRPC's in each round."""
    own, direct = callers[who]["tokens/s"], callers[DIRECT]["tokens/s"]
    return [one / other for one, other in zip(own, direct, strict=True)]


def _met(reached: bool) -> str:
    return "met" if reached else "missed"
