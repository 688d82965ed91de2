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
SCRIPT = """
import json, sys, numpy
from deploykit.engine import Engine, SamplingParams
forbidden = {"torch", "transformers", "onnx", "click"} & set(sys.modules)
assert not forbidden, forbidden
answers = []
with Engine.open(sys.argv[1]) as engine:
    for settings in ({}, {"temperature": 0.8, "top_k": 40, "top_p": 0.9, "seed": 3}):
        params = SamplingParams.from_mapping({"max_tokens": 48, **settings})
        answers += [engine.generate(p, params).token_ids for p in ("def ", "import os", "Grüße 你好 👋")]
print(json.dumps({"numpy": numpy.__version__, "answers": answers}))
"""


def main() -> None:
    model = next((ROOT / "model_repository").glob("*/1"))
    ours, theirs = (ask(python, model) for python in (Path(sys.executable), environment("numpy2") / "python"))
    assert theirs["numpy"].startswith("2."), theirs["numpy"]
    assert ours["answers"] == theirs["answers"], "numpy 1 and 2 give different tokens"
    print(f"numpy {ours['numpy']} and {theirs['numpy']}: the same {sum(map(len, ours['answers']))} tokens")
    keep("numpy2", {"numpy": [ours["numpy"], theirs["numpy"]], "tokens": sum(map(len, ours["answers"])), "equal": True})


def ask(python: Path, model: Path) -> dict[str, Any]:
    """Return what the script printed under another interpreter."""
    run = subprocess.run(
        [python, "-c", SCRIPT, model],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=True,
    )
    return dict(json.loads(run.stdout))


if __name__ == "__main__":
    main()
