"""The engine beside what people use now: onnxruntime-genai, llama.cpp and CTranslate2, alternating in one run.

    python benchmarks/serving.py [--only quality,speed,gpt2,triton,stalls,memory] [--rounds 5] [--keep DIR]
                                 [--checkpoint DIR --text FILE] [--seconds 240] [--tokens 8192]

Each contender is a process with one model loaded and two threads, stopped while another is measured; in every round
each works for some seconds on the same prompts, so that a ratio compares what ran within seconds of each other. Medians
over the rounds are printed, with the lowest and the highest. Speed is measured with random weights, quality with the
demo's model, trained for `--seconds` where no checkpoint is given. `--keep` finds the models of an earlier run again;
parts that aren't run keep their figures of an earlier run.
"""

import argparse
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import alone
import exports
import fidelity
import through_triton
from bandwidth import ReadTest, bytes_per_token
from contenders import Setup, alternate
from performance_page import write_page
from quality import train
from results import keep, kept, state
from verdicts import verdicts
from workloads import Work, works

from deploykit.artifact import Artifact


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--only", type=lambda text: text.split(","), default=list(PARTS))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--keep", type=Path, help="folder of the models; one that is removed at the end otherwise")
    parser.add_argument("--checkpoint", type=Path, help="a trained Llama checkpoint")
    parser.add_argument("--text", type=Path, help="text to measure its quality on")
    parser.add_argument("--seconds", type=float, default=240, help="training time without --checkpoint")
    parser.add_argument("--tokens", type=int, default=8192, help="tokens of the text")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = options.keep or Path(name)
        folder.mkdir(parents=True, exist_ok=True)
        figures = kept("engine")
        for part in options.only:
            print(f"\n{part}", flush=True)
            figures[part] = {"commit": state()["commit"], **PARTS[part](folder, options)}
            keep("engine", figures)
    found = verdicts(figures)
    keep("engine", {**figures, "verdicts": [verdict.to_json() for verdict in found]})
    print("\n" + "\n".join(verdict.line() for verdict in found))
    write_page()


def quality(folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Return what each contender's precision costs on a trained model."""
    checkpoint, text = options.checkpoint, options.text
    if checkpoint is None:
        checkpoint, text, _ = train(folder, options.seconds)
    return {"tokens": options.tokens, "contenders": fidelity.measure(checkpoint, text, folder, options.tokens)}


def speed(folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Return the rates of all contenders with the 134M Llama, and what memory gives in the same rounds."""
    source = exports.checkpoint(folder, "smol")
    ours = [
        alone.setup(name, exports.ours(source, folder, precision, **how), precision)
        for name, (precision, how) in fidelity.OURS.items()
    ]
    found = alternate(
        [*ours, *_peers(source, folder)],
        list(works(vocabulary=49152).values()),
        options.rounds,
        fits=_fits,
        beside={"read test": ReadTest().rate},
    )
    graphs = {setup.name: Artifact.open(setup.model).graph(setup.options["precision"]) for setup in ours}
    return {**found, "bytes_per_token": {name: bytes_per_token(graph) for name, graph in graphs.items()}}


def _peers(source: Path, folder: Path) -> list[Setup]:
    genai, gguf = exports.genai(source, folder), exports.llamacpp(source, folder)
    ways = {"genai int4": "engine", "genai int4, one batch": "generator"}
    return [
        *(
            Setup(name=name, driver="genai", python="genai", model=genai, options={"way": way})
            for name, way in ways.items()
        ),
        *(
            Setup(name=f"llama.cpp {kind}", driver="llamacpp", python="llamacpp", model=gguf / f"{kind}.gguf")
            for kind in ("q4_0", "q8_0")
        ),
    ]


def _fits(setup: Setup, work: Work) -> bool:
    """Return whether a contender does a work: not what it has no way for, nor what another of its ways does as well."""
    if work.name == "decode only":
        return setup.driver == "ours"
    if setup.driver == "genai":
        return work.sampling is None and (work.streams > 1 or setup.options["way"] == "engine")
    return True


def gpt2(folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Return the rates of ours and of CTranslate2 with GPT-2 124M."""
    source = exports.checkpoint(folder, "gpt2")
    ours = [
        alone.setup(f"ours {precision}", exports.ours(source, folder, precision), precision)
        for precision in ("int8", "dynamic-int8")
    ]
    model = exports.ctranslate2(source, folder, "int8")
    peer = Setup(name="CTranslate2 int8", driver="ctranslate", python="ctranslate2", model=model)
    wanted = [work for work in works(vocabulary=50257).values() if work.sampling is None and work.name != "decode only"]
    return alternate([*ours, peer], wanted, options.rounds)


PARTS: dict[str, Callable[[Path, argparse.Namespace], dict[str, Any]]] = {
    "quality": quality,
    "speed": speed,
    "gpt2": gpt2,
    "triton": lambda folder, options: through_triton.measure(folder, options.rounds),
    "stalls": lambda folder, options: alone.stalls(folder, options.rounds),
    "memory": lambda folder, _: alone.memory(folder),
}

if __name__ == "__main__":
    main()
