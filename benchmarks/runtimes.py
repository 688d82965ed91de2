"""One folder for every runtime: small random models, each precision, in genai, optimum, ONNX Runtime and Triton.

    python benchmarks/runtimes.py [--models llama,gpt2] [--precisions fp32,int8] [--runtimes genai,triton]

What runs is `deploykit validate --against`: greedy generations of the other runtime, each of their logits compared with
ours. A cell that fails says why, and the script then ends with 1.
"""

import argparse
import sys
import tempfile
from pathlib import Path
from typing import Any, Final, get_args

from peers import environment
from results import keep

from deploykit.artifact import Artifact
from deploykit.config import PackageConfig, QuantizeConfig, ValidateConfig
from deploykit.convert import convert
from deploykit.errors import DeploykitError
from deploykit.optimize import optimize
from deploykit.package import package
from deploykit.quantize import quantize
from deploykit.validate.against import Runtime, against

MODELS: Final = ("llama", "gpt2", "qwen2", "mistral", "qwen3", "phi3", "gemma", "opt")
"""All fused but the last, which is traced."""
SMALL_OPT: Final = {
    "hidden_size": 64,
    "word_embed_proj_dim": 64,
    "ffn_dim": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 128,
}
LIMITS: Final = {
    (
        "phi3",
        "optimum",
    ): "optimum-onnx 0.1.0 makes its empty cache of as many key/value heads as attention heads, which "
    "phi3 may have fewer of",
}
"""Where a runtime can't run a model whoever exported it: told, and no failure of ours."""
PRECISIONS: Final = ("fp32", "int8", "int4", "dynamic-int8")


def main() -> None:
    parser = argparse.ArgumentParser()
    for name, choices in (("models", MODELS), ("precisions", PRECISIONS), ("runtimes", get_args(Runtime))):
        parser.add_argument(f"--{name}", type=lambda text: text.split(","), default=list(choices))
    options = parser.parse_args()
    figures: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as name:
        for model in options.models:
            for precision in options.precisions:
                artifact = make_artifact(Path(name), model, precision)
                for runtime in options.runtimes:
                    found = measure(artifact, runtime)
                    if "failed" in found and (model, runtime) in LIMITS:
                        found = {"limit": LIMITS[model, runtime], "says": found["failed"]}
                    figures.setdefault(model, {}).setdefault(precision, {})[runtime] = found
                    show(model, precision, runtime, found)
    keep("runtimes", {"models": figures})
    failed = [cell for by in figures.values() for row in by.values() for cell in row.values() if "failed" in cell]
    sys.exit(1 if failed else 0)


def make_artifact(folder: Path, model: str, precision: Any) -> Artifact:
    """Return a packaged artifact of a small random checkpoint that serves the precision."""
    sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
    from checkpoints import make_checkpoint

    if not (folder / model).exists():
        size: dict[str, Any] = SMALL_OPT if model == "opt" else {}
        convert(make_checkpoint(folder / f"{model}.checkpoint", model, **size), folder / f"{model}.onnx")
        optimize(folder / f"{model}.onnx", folder / model)
    place = folder / f"{model}.{precision}"
    quantizing = QuantizeConfig(precision="none" if precision == "fp32" else precision)
    quantize(folder / model, folder / f"{place.name}.quantized", quantizing)
    return package(folder / f"{place.name}.quantized", place, PackageConfig(name=model))


def measure(artifact: Artifact, runtime: Runtime) -> dict[str, Any]:
    """Return the largest error, what is allowed, and the share of equal tokens, over all cases; or why it failed."""
    python = environment(runtime) / "python" if runtime in ("genai", "optimum") else None
    try:
        found = against(artifact, runtime, ValidateConfig(), python=python)
    except DeploykitError as error:
        return {"failed": str(error).replace(str(artifact.path), "artifact")}
    cases = found.cases.values()
    tokens = sum(case["tokens"] for case in cases)
    return {
        "runtime": found.runtime,
        "onnxruntime": found.onnxruntime,
        "cases": len(cases),
        "tokens": tokens,
        "equal": round(sum(case["equal"] * case["tokens"] for case in cases) / tokens, 4),
        "max_abs_error": max(case["max_abs_error"] for case in cases),
        "allowed": float(f"{found.allowed:.3g}"),
    }


def show(model: str, precision: str, runtime: str, found: dict[str, Any]) -> None:
    what = (
        found.get("failed")
        or found.get("limit")
        or (
            f"{found['runtime']:<26} {found['cases']} cases, {found['equal']:.0%} of {found['tokens']} tokens equal, "
            f"max error {found['max_abs_error']:.1e} (allowed {found['allowed']:.1e})"
        )
    )
    print(f"{model:<8} {precision:<12} {runtime:<12} {what}", flush=True)


if __name__ == "__main__":
    main()
