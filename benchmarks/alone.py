"""What the engine is measured in without a peer: pauses of running streams, and memory."""

from collections import defaultdict
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import exports
from bandwidth import weight_bytes
from contenders import Contender, Setup, show, start
from workloads import LONG, NEW, works

from deploykit.artifact import Artifact


def setup(name: str, model: Path, precision: str, **config: Any) -> Setup:
    """Return our engine on what is served of a packaged artifact; `config` are fields of `EngineConfig`."""
    return Setup(
        name=name, driver="ours", model=exports.served(model), options={"precision": precision, "config": config}
    )


def stalls(folder: Path, rounds: int) -> dict[str, Any]:
    """Return the milliseconds between tokens of four streams while ten long prompts come one after the other.

    Prompts are read in chunks, as the engine does, and at once.
    """
    artifact = exports.ours(exports.checkpoint(folder, "smol"), folder, "int8")
    made = works(vocabulary=49152)
    running, arriving = made["8 streams"].prompts[:4], made["prefill"].prompts * 5
    row: dict[str, list[float]] = defaultdict(list)
    with ExitStack() as stack:
        ways = [setup("in chunks", artifact, "int8"), setup("at once", artifact, "int8", prefill_chunk=LONG)]
        contenders = start(ways, stack)
        for _ in range(rounds):
            for contender in contenders:
                found = contender.ask("stalls", prompts=running, new=1024, arriving=arriving)
                for figure in ("p50", "p99"):
                    row[f"{contender.setup.name}, {figure}"].append(found[figure])
    show("ms between tokens", row)
    return row


def memory(folder: Path) -> dict[str, Any]:
    """Return the bytes that a process with a model takes beyond one without, beside its weights and its cache.

    Sixteen rows run at once, each a long prompt and its answer.
    """
    source = exports.checkpoint(folder, "smol")
    prompts = works(vocabulary=49152)["prefill"].prompts * 8
    found: dict[str, Any] = {}
    for precision in ("int8", "int4", "dynamic-int8"):
        artifact = exports.ours(source, folder, precision)
        with Contender(setup(f"ours {precision}", artifact, precision)) as contender:
            row = contender.ask("memory", prompts=prompts, new=NEW)
        row["weights"] = weight_bytes(Artifact.open(artifact).graph(precision))
        found[precision] = row
        megabytes = "  ".join(f"{name} {value / 1e6:.0f} MB" for name, value in row.items())
        print(f"{precision:<14} {megabytes}", flush=True)
    return found
