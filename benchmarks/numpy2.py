"""Proof that the engine gives the same tokens under numpy 2, in an environment of its own.

    python benchmarks/numpy2.py

The embedded Triton brings numpy 1.26, so the test suite runs on that, and NVIDIA's images install numpy<2 for the
Python backend (build.py, 24.10 to 26.08). Who runs the engine elsewhere has numpy 2.
"""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from peers import environment
from results import keep

ROOT = Path(__file__).parents[1]
CACHE = 4 * 2 * 2 * 32 * 4 * 512
"""Bytes that 512 tokens of the committed model take: one of its rows at most, of eight."""
SCRIPT = """
import json, sys, numpy
from queue import SimpleQueue
from deploykit.config import EngineConfig
from deploykit.engine import Engine, SamplingParams
SETTINGS = [
    {},
    {"temperature": 0.8, "top_k": 40, "top_p": 0.9, "seed": 3},
    {"temperature": 1.5, "top_p": 0.95, "seed": 4, "n": 2, "logprobs": 3},
    {"min_p": 0.01, "seed": 5, "logit_bias": {"7": 4.0, "9": -100}},
    {"temperature": 100, "top_p": 0.99, "seed": 6},
    {"repetition_penalty": 1.3, "presence_penalty": 0.5, "frequency_penalty": 0.3, "logprobs": 5},
    {"bad_words": ["self", "import"], "stop": ["\\n\\n\\n"], "min_tokens": 12, "seed": 7, "stop_token_ids": [9]},
]
asks = [
    (prompt, SamplingParams.from_mapping({"max_tokens": 48, "ignore_eos": True, **settings}))
    for settings in SETTINGS
    for prompt in ("def ", "import os", "Grüße 你好 👋", numpy.arange(3, 70))
]
with Engine.open(sys.argv[1], EngineConfig(max_rows=8, threads=1, cache_memory=int(sys.argv[2]))) as engine:
    # All at once, in a cache too small for them: some are set aside and come back.
    events = SimpleQueue()
    for number, (prompt, params) in enumerate(asks):
        engine.submit(prompt, params, on_event=lambda event, number=number: events.put((number, event)))
    found, unfinished = {}, sum(params.n for _, params in asks)
    while unfinished:
        number, event = events.get(timeout=60)
        assert event.finish_reason in (None, "stop", "length"), event
        unfinished -= event.finish_reason is not None
        found.setdefault(f"{number}.{event.index}", []).append(event)
    figures = {sample.name: sample.value for sample in engine.metrics.samples()}
    assert figures["num_preemptions_total"] > 0
    assert engine.stats().used_tokens == 0
forbidden = {"torch", "transformers", "onnx", "click"} & set(sys.modules)
assert not forbidden, forbidden
print(json.dumps({
    "numpy": numpy.__version__,
    "answers": {name: [token for event in told for token in event.token_ids] for name, told in found.items()},
    "texts": {name: "".join(event.text for event in told) for name, told in found.items()},
    "logprobs": {name: [
        [token.logprob, *(logprob for _, _, logprob in token.top)] for event in told for token in event.logprobs
    ] for name, told in found.items()},
}))
"""


def main() -> None:
    model = next((ROOT / "model_repository").glob("*/1"))
    ours, theirs = (ask(python, model) for python in (Path(sys.executable), environment("numpy2") / "python"))
    assert theirs["numpy"].startswith("2."), theirs["numpy"]
    assert ours["answers"] == theirs["answers"], "numpy 1 and 2 give different tokens"
    assert ours["texts"] == theirs["texts"], "numpy 1 and 2 give different texts"
    assert ours["logprobs"] == theirs["logprobs"], "numpy 1 and 2 give different log-probabilities"
    tokens = sum(map(len, ours["answers"].values()))
    print(f"numpy {ours['numpy']} and {theirs['numpy']}: the same {tokens} tokens and log-probabilities")
    keep("numpy2", {"numpy": [ours["numpy"], theirs["numpy"]], "tokens": tokens, "equal": True})


def ask(python: Path, model: Path) -> dict[str, Any]:
    """Return what the script printed under another interpreter."""
    run = subprocess.run(
        [python, "-c", SCRIPT, model, str(CACHE)],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=True,
    )
    return dict(json.loads(run.stdout))


if __name__ == "__main__":
    main()
