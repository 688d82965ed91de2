"""The gateway beside the gRPC it stands before, under `aiperf`'s users, and what retries cost.

    python benchmarks/gateway.py [--only grpc,retries,aiperf] [--rounds 5] [--blocks 30] [--keep DIR]

A real Triton serves the 134M Llama of random weights in int8, and a real gateway stands before it. Whoever asks runs on
the same cores as they do, so each caller is as cheap as can be, and its processor time is told with its figures.
`--keep` finds the models of an earlier run again; parts that aren't run keep their figures of an earlier run.
"""

import argparse
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import beside_grpc
import retries
import users
from performance_page import write_page
from results import keep, kept, state


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--only", type=lambda text: text.split(","), default=list(PARTS))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--blocks", type=int, default=30, help="times that each caller asks five lone requests")
    parser.add_argument("--keep", type=Path, help="folder of the models; one that is removed at the end otherwise")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = options.keep or Path(name)
        folder.mkdir(parents=True, exist_ok=True)
        for part in options.only:
            print(f"\n{part}", flush=True)
            found = PARTS[part](folder, options)
            if part == "aiperf":
                keep("aiperf", found)
            else:
                keep("gateway", {**kept("gateway"), part: {"commit": state()["commit"], **found}})
    write_page()


PARTS: dict[str, Callable[[Path, argparse.Namespace], dict[str, Any]]] = {
    "grpc": lambda folder, options: beside_grpc.measure(folder, options.rounds, options.blocks),
    "retries": lambda *_: retries.measure(),
    "aiperf": lambda folder, _: users.measure(folder),
}

if __name__ == "__main__":
    main()
