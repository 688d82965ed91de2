"""The engine in a process of its own beside the same engine behind a real Triton, and what the client takes."""

from collections import defaultdict
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import alone
import exports
from contenders import Contender, show
from http_load import Streams, triton
from workloads import NEW, texts

from deploykit.artifact import Artifact
from deploykit.config import ServeConfig
from deploykit.serve import serve

LOADS = {1: 3, 8: 16, 16: 32}
"""Streams → requests."""


def measure(folder: Path, rounds: int) -> dict[str, Any]:
    """Return both ways' tokens a second in every round, by precision and streams.

    Triton isn't stopped while the other way is measured: its engine does nothing then but beat once a second.
    """
    source, found = exports.checkpoint(folder, "smol"), {}
    ports = ServeConfig(http_port=0, grpc_port=0, metrics_port=0, health_port=0)
    for precision in ("int8", "dynamic-int8"):
        artifact = Artifact.open(exports.ours(source, folder, precision))
        assert artifact.tokenizer
        prompts = texts(artifact.tokenizer, max(LOADS.values()))
        inside = alone.setup(f"ours {precision}", artifact.path, precision)
        with Contender(inside) as contender, serve(artifact.path, ports) as server:
            port = urlsplit(server.http_url).port
            assert port
            with Streams(triton(port, "model")) as outside:
                found[precision] = _alternate(contender, outside, prompts, rounds)
    return found


def _alternate(inside: Contender, outside: Streams, prompts: list[str], rounds: int) -> dict[str, Any]:
    how: dict[str, Any] = {"max_tokens": NEW, "ignore_eos": True}
    events = outside.events(prompts[0], **how, return_num_output_tokens=True)
    given = sum(int(event["num_output_tokens"]) for event in events)
    assert given == NEW, f"Triton generated {given} tokens, not {NEW}"
    inside.rate(prompts[:16], 16, NEW)
    outside.run(prompts[:16], 16, **how)
    found: dict[str, dict[str, list[float]]] = {}
    for number in range(rounds):
        for streams, count in LOADS.items():
            row = found.setdefault("1 stream" if streams == 1 else f"{streams} streams", defaultdict(list))
            for way in ("in-process", "triton") if number % 2 else ("triton", "in-process"):
                if way == "in-process":
                    row[way].append(inside.rate(prompts[:count], streams, NEW))
                    continue
                load = outside.run(prompts[:count], streams, **how)
                row[way].append(NEW * count / load.seconds)
                row["client's share of a core"].append(load.client_seconds / load.seconds)
                row["tokens a response"].append(NEW * count / load.responses)
    for name, row in found.items():
        show(f"{inside.setup.name}, {name}", row)
    return found
