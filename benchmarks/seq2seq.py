"""One folder for every runtime: small random encoder-decoders in optimum and transformers.js, as PyTorch answers.

    python benchmarks/seq2seq.py [--models t5,bart] [--transformers-js FOLDER]

Each model is converted and handed, as it is, to optimum's `ORTModelForSeq2SeqLM` and, where FOLDER has it among its
node_modules, to transformers.js: greedy answers to ragged sources must be those of transformers' `generate`. A cell
that isn't says why, and the script then ends with 1.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any, Final

from peers import environment
from results import keep
from transformers import AutoModelForSeq2SeqLM, AutoTokenizer

from deploykit.convert import convert

MODELS: Final = ("t5", "mt5", "umt5", "bart", "mbart", "marian", "m2m_100", "pegasus", "deploykit_transformer")
TEXTS: Final = ("def greet(name): 你好", "f", "for number in range(10): return 1")
TOKENS: Final = 24
END: Final = 1
"""The token that ends answers: `</s>` of the tests' tokenizer."""
_UNKNOWN: Final = "has no such model type"
LIMITS: Final = {
    ("deploykit_transformer", "optimum"): _UNKNOWN,
    ("deploykit_transformer", "transformers.js"): _UNKNOWN,
    ("pegasus", "transformers.js"): _UNKNOWN,
    ("umt5", "transformers.js"): _UNKNOWN,
}
"""Where a runtime can't run a model whoever exported it: told, and no failure of ours."""
DRIVERS: Final = Path(__file__).parent / "drivers"


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--models", type=lambda text: text.split(","), default=list(MODELS))
    parser.add_argument("--transformers-js", type=Path)
    options = parser.parse_args()
    commands = {"optimum": [str(environment("optimum") / "python"), str(DRIVERS / "optimum_seq2seq.py")]}
    if options.transformers_js:
        commands["transformers.js"] = ["node", str(DRIVERS / "seq2seq.mjs"), str(options.transformers_js.resolve())]
    figures: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as name:
        for model in options.models:
            task = prepare(Path(name), model)
            for runtime, command in commands.items():
                found = measure(command, Path(name), task)
                if "failed" in found and (model, runtime) in LIMITS:
                    found = {"limit": LIMITS[model, runtime], "says": found["failed"]}
                figures.setdefault(model, {})[runtime] = found
                print(f"{model:<22} {runtime:<16} {found}", flush=True)
    keep("seq2seq", {"models": figures})
    failed = [
        cell for row in figures.values() for cell in row.values() if cell.get("equal", 1) != 1 or "failed" in cell
    ]
    sys.exit(1 if failed else 0)


def prepare(root: Path, model: str) -> dict[str, Any]:
    """Convert a small random checkpoint, and return what to ask of it and what PyTorch answers."""
    sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
    from seq2seq_models import make_pair

    checkpoint = make_pair(root / f"{model}.checkpoint", model, scale=0.15)
    convert(checkpoint, root / model)
    tokenizer = AutoTokenizer.from_pretrained(checkpoint)
    asked = tokenizer(list(TEXTS), return_tensors="pt", padding=True, padding_side="right")
    fed = {name: asked[name] for name in ("input_ids", "attention_mask")}
    torch_model = AutoModelForSeq2SeqLM.from_pretrained(checkpoint).eval()
    answers = torch_model.generate(**fed, do_sample=False, num_beams=1, max_new_tokens=TOKENS)
    rows = {name: tensor.tolist() for name, tensor in fed.items()}
    return {"folder": model, "tokens": TOKENS, **rows, "wanted": answers.tolist()}


def measure(command: list[str], root: Path, task: dict[str, Any]) -> dict[str, Any]:
    """Return the share of tokens that a runtime gives as PyTorch does, or why it gave none."""
    asked = json.dumps({**task, "root": str(root)})
    done = subprocess.run(command, input=asked, capture_output=True, text=True, check=False)
    if done.returncode:
        # Runtimes end their tracebacks with the reason.
        last = [line for line in done.stderr.splitlines() if line.strip()][-1:]
        return {"failed": "".join(last).replace(str(root), "")[:300]}
    answer = json.loads(done.stdout.splitlines()[-1])
    wanted, found = ([ended(row) for row in rows] for rows in (task["wanted"], answer["rows"]))
    pairs = [pair for rows in zip(wanted, found, strict=True) for pair in zip(*rows, strict=False)]
    same_lengths = [len(row) for row in wanted] == [len(row) for row in found]
    equal = sum(a == b for a, b in pairs) / len(pairs) if same_lengths else 0.0
    return {"runtime": answer["runtime"], "tokens": len(pairs), "equal": round(equal, 4)}


def ended(row: list[int]) -> list[int]:
    """Return an answer up to its end; what stands behind that, in a batch with longer ones, differs by runtime."""
    return row[: row.index(END, 1) + 1] if END in row[1:] else row


if __name__ == "__main__":
    main()
