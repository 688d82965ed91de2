"""The gateway beside the gRPC that it stands before: the first token of lone requests, and tokens a second."""

import statistics
from collections import defaultdict
from pathlib import Path
from typing import Any, Final

import numpy as np
from chatting import chatting, question
from contenders import Contender, Setup, show
from exports import ours
from served import Served, gateway_process, processor_seconds, served
from workloads import NEW, texts

from deploykit.artifact import Artifact

LOADS: Final = {1: 3, 8: 16, 16: 32}
"""Streams → requests."""
LONE: Final = ("gRPC", "AsyncClient", "generate_stream", "gateway", "gateway, chat")
LOADED: Final = {
    1: ("gRPC", "gateway"),
    8: ("gRPC", "gateway"),
    16: ("gRPC", "AsyncClient", "generate_stream", "gateway"),
}
"""Who is measured at how many streams."""
BLOCK: Final = 5
"""Lone requests in a row, of one caller."""
BEGINNING: Final = 4
"""Tokens of a lone request's answer, of which the first is timed."""
GREEDY: Final = {"temperature": 0, "ignore_eos": True}


def artifact_of(folder: Path) -> Artifact:
    """Return what is served: the 134M Llama in int8, with a chat template."""
    return Artifact.open(ours(chatting(folder), folder, "int8"))


class Callers:
    """Those who ask, each with the same prompts, and the gateway's own processor time."""

    def __init__(self, contender: Contender, at: Served, tokenizer: Path, prompts: list[str]) -> None:
        self._contender, self._tokenizer, self._prompts = contender, tokenizer, prompts
        self._gateway = gateway_process(at.gateway)

    def run(self, who: str, count: int, streams: int, new: int, *, skip: int = 0) -> dict[str, Any]:
        """Return what `count` answers of `new` tokens took the caller and the gateway."""
        prompts = self._prompts[skip : skip + count]
        if who == "gateway, chat":
            prompts = [question(prompt, self._tokenizer) for prompt in prompts]
        used = processor_seconds(self._gateway)
        how = {"max_tokens": new, **GREEDY}
        found = self._contender.ask("run", who=who, prompts=prompts, streams=streams, parameters=how)
        return {**found, "gateway_seconds": processor_seconds(self._gateway) - used}


def measure(folder: Path, rounds: int, blocks: int) -> dict[str, Any]:
    """Return the first token's milliseconds of every lone request, and the rates of every round, by caller."""
    artifact = artifact_of(folder)
    assert artifact.tokenizer
    prompts = texts(artifact.tokenizer, max(*LOADS.values(), BLOCK * blocks))
    with served(artifact.path) as at:
        setup = Setup(name="callers", driver="callers", model=Path("model"), options=at.ports())
        with Contender(setup) as contender:
            _check(contender, prompts[0])
            callers = Callers(contender, at, artifact.tokenizer, prompts)
            for who in dict.fromkeys((*LONE, *LOADED[16])):
                callers.run(who, 16, 16, 8)  # caches are made, connections are open
            return {"first token": _first(callers, blocks), "rates": _rates(callers, rounds)}


def _check(contender: Contender, prompt: str) -> None:
    """Check that the gateway and Triton give the same answer, as long as it was asked for."""
    how = {"max_tokens": NEW, **GREEDY}
    own = contender.ask("events", who="generate_stream", prompt=prompt, parameters=how)["events"]
    usage = {"stream_options": {"include_usage": True}}
    ours = contender.ask("events", who="gateway", prompt=prompt, parameters={**how, **usage})["events"]
    assert ours[-1]["usage"]["completion_tokens"] == NEW, ours[-1]["usage"]
    text = "".join(choice["text"] for event in ours for choice in event["choices"])
    assert text == "".join(event["text_output"] for event in own), "the gateway's text isn't Triton's"


def _first(callers: Callers, blocks: int) -> dict[str, Any]:
    found: dict[str, dict[str, list[float]]] = {who: defaultdict(list) for who in LONE}
    for number in range(blocks):
        start = number % len(LONE)  # nobody always goes first
        for who in LONE[start:] + LONE[:start]:
            run = callers.run(who, BLOCK, 1, BEGINNING, skip=BLOCK * number)
            found[who]["ms"] += [seconds * 1e3 for seconds in run["first"]]
            found[who]["gateway, ms a request"].append(run["gateway_seconds"] / BLOCK * 1e3)
    direct = statistics.median(found["gRPC"]["ms"])
    for who, row in found.items():
        row["p95 ms"] = [float(np.percentile(row["ms"], 95))]
        show(f"first token, {who}", row)
        print(f"first token, {who}: {statistics.median(row['ms']) - direct:+.2f} ms beside gRPC", flush=True)
    return found


def _rates(callers: Callers, rounds: int) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for number in range(rounds):
        for streams, count in LOADS.items():
            turn = LOADED[streams]
            start = number % len(turn)
            for who in turn[start:] + turn[:start]:
                run = callers.run(who, count, streams, NEW)
                row = found.setdefault(f"{streams} streams", {}).setdefault(who, defaultdict(list))
                tokens = NEW * count
                row["tokens/s"].append(tokens / run["seconds"])
                row["client, µs a token"].append(run["client_seconds"] / tokens * 1e6)
                row["gateway, µs a token"].append(run["gateway_seconds"] / tokens * 1e6)
                row["tokens a response"].append(tokens / run["responses"])
    for name, rows in found.items():
        for who, row in rows.items():
            ratios = [one / other for one, other in zip(row["tokens/s"], rows["gRPC"]["tokens/s"], strict=True)]
            show(f"{name}, {who}", {**row, "of gRPC": ratios})
    return found
