"""Tokens a second of the engine, in this process and behind Triton, at 1 and 8 streams.

    python benchmarks/decode.py [--quantize int8] [--rounds 3]

The model is a 134M Llama (hidden 576, 30 layers, 9 heads, 3 key/value heads, vocabulary 49152) with random weights;
each request has a 64-token prompt and generates 64 tokens greedily. Rounds alternate between the two ways; figures
include prefill.
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from models import make_smol
from results import keep

import deploykit
from deploykit.artifact import Artifact
from deploykit.client import Client
from deploykit.config import ServeConfig
from deploykit.engine import Engine, SamplingParams
from deploykit.serve import serve

PROMPT_TOKENS = 64
NEW_TOKENS = 64


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--quantize", default="int8")
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        artifact = make_artifact(Path(name), options.quantize)
        figures = compare(artifact, options.rounds)
    keep("decode", {"model": "Llama 134M, random weights", "precision": options.quantize, "tokens_per_second": figures})


def make_artifact(folder: Path, precision: str) -> Artifact:
    """Export the model; its fp32 parity is the export's own affair and not repeated here."""
    checkpoint = make_smol(folder / "smol")
    return deploykit.export(checkpoint, folder / "artifact", quantize=precision, name="smol")  # type: ignore[arg-type]


def prompts(artifact: Artifact) -> list[str]:
    """Return texts of exactly `PROMPT_TOKENS` tokens each, all different."""
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(artifact.tokenizer))
    numbers = np.random.default_rng(0)
    # Characters that the tokenizer knows only as single bytes: one token each.
    letters = [c for c in "QXZJKVWYBPMDGH" if len(tokenizer.encode(c).ids) == 1]
    texts = ["".join(numbers.choice(letters, PROMPT_TOKENS)) for _ in range(16)]
    assert all(len(tokenizer.encode(text).ids) == PROMPT_TOKENS for text in texts)
    return texts


def compare(artifact: Artifact, rounds: int) -> dict[str, dict[str, float]]:
    """Measure both ways in turns and return tokens a second: way → streams → median."""
    texts = prompts(artifact)
    params = SamplingParams(max_tokens=NEW_TOKENS, ignore_eos=True)
    seen: dict[str, dict[str, list[float]]] = {"in-process": {}, "triton": {}}
    ports = ServeConfig(http_port=0, grpc_port=0, metrics_port=0, health_port=0)
    for _ in range(rounds):
        with Engine.open(artifact.path) as engine:
            for streams in (1, 8):
                rate = measure(lambda text: sum(1 for _ in engine.stream(text, params)), texts, streams)
                seen["in-process"].setdefault(str(streams), []).append(rate)
        with serve(artifact.path, ports) as server, Client(server.grpc_url, model="smol") as client:

            def ask(text: str) -> int:
                return sum(1 for _ in client.generate(text, stream=True, max_tokens=NEW_TOKENS, ignore_eos=True))

            for streams in (1, 8):
                seen["triton"].setdefault(str(streams), []).append(measure(ask, texts, streams))
    figures = {way: {n: round(statistics.median(rates), 1) for n, rates in by.items()} for way, by in seen.items()}
    for n in ("1", "8"):
        ratio = figures["triton"][n] / figures["in-process"][n]
        ours, served = figures["in-process"][n], figures["triton"][n]
        print(f"{n} streams: in-process {ours} tokens/s, Triton {served} = {ratio:.2f} ×")
    return figures


def measure(ask: Callable[[str], int], texts: list[str], streams: int) -> float:
    """Return tokens a second of `streams` closed loops, after one request to warm up."""
    ask(texts[0])
    work = texts[: 3 if streams == 1 else 16]
    with ThreadPoolExecutor(streams) as pool:
        began = time.perf_counter()
        tokens = sum(pool.map(ask, work))
        return tokens / (time.perf_counter() - began)


if __name__ == "__main__":
    main()
