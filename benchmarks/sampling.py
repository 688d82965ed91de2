"""Milliseconds that choosing the tokens of one step takes, by rows, vocabulary and way of choosing.

    python benchmarks/sampling.py [--rounds 30] [--rows 1 8 16] [--engine]

Logits are random: "flat" as those of a model with random weights, where thousands of tokens hold the mass, "peaked" as
those of a trained one, where tens do. Ways and their logits alternate within a round; figures are the least of all
rounds. With `--engine` the 134M Llama (int8) decodes as many streams as there are rows, and what choosing from its
vocabulary takes is shown as a share of its step as well.
"""

import argparse
import tempfile
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from exports import checkpoint, ours, served
from numpy.typing import NDArray
from results import keep

from deploykit.config import EngineConfig
from deploykit.engine import Engine, SamplingParams
from deploykit.engine.sampling import Sampler, choose

VOCABULARIES = (32000, 49152, 128256, 151936)
SPREADS = {"flat": 0.5, "peaked": 3.0}
WAYS: Mapping[str, SamplingParams] = {
    "greedy": SamplingParams(),
    "temperature": SamplingParams(temperature=0.8, seed=1),
    "top-k 40": SamplingParams(temperature=0.8, top_k=40, seed=1),
    "top-p 0.9": SamplingParams(temperature=0.8, top_p=0.9, seed=1),
    "top-k 40, top-p 0.9": SamplingParams(temperature=0.8, top_k=40, top_p=0.9, seed=1),
    "min-p 0.05": SamplingParams(temperature=0.8, min_p=0.05, seed=1),
    "penalties, greedy": SamplingParams(repetition_penalty=1.2, presence_penalty=0.5, frequency_penalty=0.5),
    "penalties, top-k 40": SamplingParams(temperature=0.8, top_k=40, repetition_penalty=1.2, seed=1),
    "greedy, logprobs 5": SamplingParams(logprobs=5),
}
PROMPT = range(100, 612)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--rows", type=int, nargs="+", default=[1, 8, 16])
    parser.add_argument("--engine", action="store_true")
    options = parser.parse_args()
    steps = decode_steps(options.rows) if options.engine else {}
    figures = {
        str(vocabulary): {str(rows): compare(rows, vocabulary, options.rounds) for rows in options.rows}
        for vocabulary in VOCABULARIES
    }
    show(figures, steps)
    keep("sampling", {"milliseconds_a_step": figures, "decode_step_milliseconds": steps})


def compare(rows: int, vocabulary: int, rounds: int) -> dict[str, dict[str, float]]:
    """Return milliseconds a step: way → kind of logits → least."""
    numbers = np.random.default_rng(0)
    noise = numbers.standard_normal((rows, vocabulary), np.float32)
    samplers = {way: [Sampler(params, prompt=PROMPT, vocab_size=vocabulary)] * rows for way, params in WAYS.items()}
    seen: dict[str, dict[str, list[float]]] = {way: {kind: [] for kind in SPREADS} for way in WAYS}
    for _ in range(rounds):
        for kind, spread in SPREADS.items():
            for way, those in samplers.items():
                seen[way][kind].append(1000 * measure(those, noise * np.float32(spread)))
    return {way: {kind: round(min(times), 4) for kind, times in kinds.items()} for way, kinds in seen.items()}


def measure(samplers: Sequence[Sampler], logits: NDArray[np.float32]) -> float:
    began = time.perf_counter()
    choose(samplers, logits)
    return time.perf_counter() - began


def decode_steps(row_counts: Sequence[int]) -> dict[str, float]:
    """Return the milliseconds of a greedy step of the 134M Llama, by rows."""
    with tempfile.TemporaryDirectory() as name:
        artifact = served(ours(checkpoint(Path(name), "smol"), Path(name), "int8"))
        return {str(rows): round(1000 * decode_step(artifact, rows), 3) for rows in row_counts}


def decode_step(artifact: Path, rows: int) -> float:
    """Return the least of the streams' median seconds between two tokens, prompts of one token."""
    params = SamplingParams(max_tokens=64, ignore_eos=True)
    with Engine.open(artifact, EngineConfig(max_rows=rows)) as engine, ThreadPoolExecutor(rows) as pool:

        def arrivals(token: int) -> list[float]:
            return [time.perf_counter() for _ in engine.stream([token], params)]

        times = list(pool.map(arrivals, range(100, 100 + rows)))
    return min(float(np.median(np.diff(stream))) for stream in times)


def show(figures: Mapping[str, Mapping[str, Mapping[str, Mapping[str, float]]]], steps: Mapping[str, float]) -> None:
    for vocabulary, by_rows in figures.items():
        for rows, ways in by_rows.items():
            print(f"\nvocabulary {vocabulary}, {rows} rows: ms a step (of a row: µs)")
            step = steps.get(rows) if vocabulary == "49152" else None
            for way, kinds in ways.items():
                cells = (f"{kind} {ms:7.3f} ({1000 * ms / int(rows):4.0f})" for kind, ms in kinds.items())
                share = f"  {100 * max(kinds.values()) / step:5.1f} % of a step" if step else ""
                print(f"  {way:20}", "  ".join(cells), share)


if __name__ == "__main__":
    main()
