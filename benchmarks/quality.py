"""What each way of quantizing costs in text: precision, rounding, block and bits, on one trained model.

    python benchmarks/quality.py [--checkpoint DIR --text FILE --calibration FILE] [--seconds 1800] [--tokens 16384]

Without a checkpoint the demo's model is trained on the standard library's text for `--seconds` first, measured on its
val.txt and calibrated on its train.txt: nothing that is measured on was trained or calibrated on. Every model is
compared with fp32: growth of perplexity (and the standard error that so few tokens leave), mean KL divergence,
agreement of the best token, and the bytes of the graph with its data.
"""

import argparse
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

from results import keep

from deploykit.artifact import Artifact
from deploykit.config import QuantizeConfig, ValidateConfig
from deploykit.convert import convert
from deploykit.optimize import optimize
from deploykit.quantize import quantize
from deploykit.validate.decoder import Decoder
from deploykit.validate.quality import Text, measure, summary
from deploykit.validate.text import read_text


def variants(calibration: Path | None) -> list[QuantizeConfig]:
    """Return what is measured."""
    int8 = QuantizeConfig(precision="int8")
    int4 = QuantizeConfig(precision="int4")
    gptq = replace(int4, rounding="gptq", calibration=calibration)
    wanted = [replace(int8, precision="dynamic-int8")]
    for block in (32, 128):
        four, best = replace(int4, block_size=block), replace(gptq, block_size=block)
        wanted += [
            replace(int8, block_size=block),
            four,
            replace(four, symmetric=False),
            replace(four, head_bits=4),
            replace(four, rounding="hqq"),
            best,
            replace(best, symmetric=False),
            replace(best, sensitive=10),
            replace(best, sensitive=25),
        ]
    return wanted


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--checkpoint", type=Path, help="a trained checkpoint")
    parser.add_argument("--text", type=Path, help="text to measure on")
    parser.add_argument("--calibration", type=Path, help="other text, for GPTQ and sensitivity")
    parser.add_argument("--seconds", type=float, default=1800, help="training time without --checkpoint")
    parser.add_argument("--tokens", type=int, default=16384, help="tokens of the text")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if options.checkpoint is None:
            options.checkpoint, options.text, options.calibration = train(folder, options.seconds)
        artifact = optimize(convert(options.checkpoint, folder / "converted"), folder / "fp32")
        text = read_text(artifact, ValidateConfig(text=options.text, tokens=options.tokens))
        rows = [row(artifact, config, text, folder / "out") for config in variants(options.calibration)]
    keep("quality", {"text": text.name, "tokens": options.tokens, "rows": rows})


def train(folder: Path, seconds: float) -> tuple[Path, Path, Path]:
    """Train the demo's model and return its checkpoint, and the texts to measure and to calibrate on."""
    sys.path.insert(0, str(Path(__file__).parents[1] / "examples"))
    from demo_data import write_stdlib_text

    data, checkpoint = folder / "data", folder / "checkpoint"
    write_stdlib_text(data)
    command = [sys.executable, "-m", "deploykit", "train", "--data", data, "-o", checkpoint, "--seconds", seconds]
    subprocess.run([str(word) for word in command], check=True)
    return checkpoint, data / "val.txt", data / "train.txt"


def row(artifact: Artifact, config: QuantizeConfig, text: Text, out: Path) -> dict[str, object]:
    """Quantize, measure, print and return one line of the table."""
    began = time.perf_counter()
    result = quantize(artifact, out, config, overwrite=True)
    seconds = time.perf_counter() - began
    precision, spec = result.manifest.served, artifact.manifest.decoder
    other = Decoder(result.graph(), result.contract())
    quality = summary(measure(Decoder(artifact.graph("fp32"), spec), {precision: other}, text).scores[precision])
    record = result.manifest.history[-1]
    figures = {
        **record.options,
        "perplexity_fp32": round(quality.perplexity_fp32, 3),
        "perplexity_loss_percent": round(100 * quality.perplexity_loss, 3),
        "plus_minus_percent": round(100 * quality.uncertainty, 3),
        "kl": float(f"{quality.kl:.3g}"),
        "top1_agreement": round(quality.top1_agreement, 4),
        "bytes": record.result["bytes_after"],
        "seconds": round(seconds, 2),
    }
    print("  ".join(f"{name}={value}" for name, value in figures.items()), flush=True)
    return figures


if __name__ == "__main__":
    main()
