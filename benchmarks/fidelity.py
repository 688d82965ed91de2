"""What each contender's precision costs on one trained model: KL divergence and perplexity beside our fp32 graph.

And whether a request's tokens depend on its neighbours: the share of requests that get the same greedy tokens alone and
among seven others, prompts of many lengths.

Every runtime reads the same windows of token ids and gives the logits of every token. Full precision of each of them
comes along: that it agrees with ours shows that the same function is compared.
"""

from contextlib import ExitStack
from pathlib import Path
from typing import Any

import exports
import numpy as np
from contenders import Contender, Setup
from numpy.typing import NDArray

from deploykit.artifact import Artifact
from deploykit.validate.decoder import Decoder

WINDOW = 256
CHUNK = 128
"""Tokens our graphs read at once, as the engine does."""

Logits = NDArray[np.float32]
"""[windows, tokens, V]"""


def measure(checkpoint: Path, text: Path, folder: Path, tokens: int) -> dict[str, dict[str, float]]:
    """Return, by contender, its divergence from fp32 and its perplexity."""
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(checkpoint / "tokenizer.json"))
    ids = tokenizer.encode(text.read_text(encoding="utf-8")[: 16 * tokens]).ids[:tokens]
    windows = np.array(ids[: len(ids) // WINDOW * WINDOW]).reshape(-1, WINDOW)
    exact = _ours(exports.ours(checkpoint, folder, "fp32"), "fp32", windows)
    figures = {"ours fp32": _cost(exact, exact, windows)}
    for name, (precision, options) in OURS.items():
        artifact = exports.ours(checkpoint, folder, precision, **options, **ROUNDED.get(name, {}))
        found = _ours(artifact, precision, windows)
        figures[name] = _cost(exact, found, windows)
    for setup in _peers(checkpoint, folder):
        figures[setup.name] = _cost(exact, _theirs(setup, windows, folder / "logits.npy"), windows)
    for setup in [*_engines(checkpoint, folder), *_peers(checkpoint, folder, way="engine")]:
        figures[setup.name]["same_beside_others"] = _independence(setup, windows)
    for name, row in figures.items():
        print(f"{name:<26} {row}", flush=True)
    return figures


OURS: dict[str, tuple[str, dict[str, Any]]] = {
    "ours int8": ("int8", {}),
    "ours int8 block 128": ("int8", {"block_size": 128}),
    "ours int4": ("int4", {}),
    "ours int4 block 128 GPTQ": ("int4", {"block_size": 128}),
    "ours int4 all GPTQ": ("int4", {"head_bits": 4}),
    "ours int4 all, block 128 GPTQ": ("int4", {"block_size": 128, "head_bits": 4}),
    "ours int4 head, sensitive GPTQ": ("int4", {"head_bits": 4, "table_bits": 8, "sensitive": 5.0}),
    "ours dynamic-int8": ("dynamic-int8", {}),
}
"""Our precisions, and what of quantizing decides their speed."""
ROUNDED: dict[str, dict[str, Any]] = {name: {"rounding": "gptq"} for name in OURS if name.endswith("GPTQ")}
"""What decides their quality only, so that random weights go without."""


def _engines(checkpoint: Path, folder: Path) -> list[Setup]:
    made = []
    for name, (precision, options) in OURS.items():
        artifact = exports.ours(checkpoint, folder, precision, **options, **ROUNDED.get(name, {}))
        made.append(Setup(name=name, driver="ours", model=exports.served(artifact), options={"precision": precision}))
    return made


def _peers(checkpoint: Path, folder: Path, way: str = "generator") -> list[Setup]:
    gguf = exports.llamacpp(checkpoint, folder)
    genai = exports.genai(checkpoint, folder)
    found = [
        Setup(name=f"llama.cpp {kind}", driver="llamacpp", python="llamacpp", model=gguf / f"{kind}.gguf")
        for kind in ("f32", "q8_0", "q4_0")
    ]
    found.append(Setup(name="genai int4", driver="genai", python="genai", model=genai, options={"way": way}))
    for compute in ("float32", "int8"):
        model = exports.ctranslate2(checkpoint, folder, compute)
        found.append(
            Setup(
                name=f"CTranslate2 {compute}", driver="ctranslate", python="ctranslate2", model=model,
                options={"compute": compute},
            )
        )  # fmt: skip
    return found


def _ours(path: Path, precision: Any, windows: NDArray[np.int64]) -> Logits:
    artifact = Artifact.open(path)
    decoder = Decoder(artifact.graph(precision), artifact.contract(precision))
    found = []
    for window in windows:
        cache, parts = decoder.empty_cache(1, WINDOW), []
        for start in range(0, WINDOW, CHUNK):
            mask = np.ones((1, start + CHUNK), np.int64)
            parts.append(decoder.run_in_place(window[None, start : start + CHUNK], mask, cache)[0].copy())
        found.append(np.concatenate(parts))
    return np.stack(found)


def _theirs(setup: Setup, windows: NDArray[np.int64], file: Path) -> Logits:
    with ExitStack() as stack:
        contender = stack.enter_context(Contender(setup))
        contender.ask("logits", windows=windows.tolist(), file=str(file))
    found: Logits = np.load(file)
    file.unlink()
    return found


def _independence(setup: Setup, windows: NDArray[np.int64]) -> float:
    """Return the share of requests whose tokens are the same alone and among others."""
    ids = windows.reshape(-1)
    prompts = [ids[start : start + 16 + 5 * number % 180].tolist() for number, start in enumerate(range(0, 6400, 100))]
    with Contender(setup) as contender:
        together, alone = (contender.outputs(prompts, streams, 48) for streams in (8, 1))
    return round(float(np.mean([one == other for one, other in zip(together, alone, strict=True)])), 4)


def _cost(exact: Logits, other: Logits, windows: NDArray[np.int64]) -> dict[str, float]:
    kl, loss, same = [], [], []
    for right, left, ids in zip(exact, other, windows, strict=True):
        # A peer may keep more columns than the vocabulary has, to round it up.
        p, q = _log_softmax(right), _log_softmax(left[:, : right.shape[1]])
        kl.append((np.exp(p) * (p - q)).sum(-1).mean())
        loss.append(-q[np.arange(len(ids) - 1), ids[1:]].mean())
        same.append((p.argmax(-1) == q.argmax(-1)).mean())
    figures = {"kl": np.mean(kl), "perplexity": np.exp(np.mean(loss)), "top1_agreement": np.mean(same)}
    return {name: float(f"{value:.4g}") for name, value in figures.items()}


def _log_softmax(logits: Logits) -> NDArray[np.float64]:
    shifted = logits.astype(np.float64) - logits.max(-1, keepdims=True)
    return np.asarray(shifted - np.log(np.exp(shifted).sum(-1, keepdims=True)))
