"""One checkpoint in every format that is measured, made once in a folder and found there again."""

import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from contenders import DRIVERS
from models import make
from peers import environment

from deploykit.config import PackageConfig, QuantizeConfig
from deploykit.convert import convert
from deploykit.optimize import optimize
from deploykit.package import package
from deploykit.quantize import quantize


def once(folder: Path, write: Callable[[Path], object]) -> Path:
    """Return the folder; if it isn't there, `write` makes it, under another name until it is whole."""
    if not folder.exists():
        print(f"making {folder.name} …", file=sys.stderr, flush=True)
        half = folder.with_name(f"half-{folder.name}")
        shutil.rmtree(half, ignore_errors=True)
        write(half)
        half.rename(folder)
    return folder


def checkpoint(folder: Path, name: str) -> Path:
    """Return the checkpoint of random weights."""
    return once(folder / name, lambda half: make(name, half))


def ours(source: Path, folder: Path, precision: Any, **options: Any) -> Path:
    """Return a packaged artifact that serves the precision."""
    label = "-".join([precision, *(f"{name}{value}" for name, value in options.items())])
    fp32 = once(folder / f"{source.name}-fp32", lambda half: _fp32(source, half))
    if precision == "fp32":
        return fp32
    config = QuantizeConfig(precision=precision, **options)

    def write(half: Path) -> None:
        with TemporaryDirectory(dir=folder) as between:
            package(quantize(fp32, Path(between) / "quantized", config), half, PackageConfig(name="model"))

    return once(folder / f"{source.name}-{label}", write)


def served(artifact: Path) -> Path:
    """Return the part of a packaged artifact that Triton serves: what our engine is measured on."""
    return artifact / "model_repository" / "model" / "1"


def _fp32(source: Path, out: Path) -> None:
    with TemporaryDirectory(dir=out.parent) as between:
        optimize(convert(source, Path(between) / "converted"), out)


def genai(source: Path, folder: Path) -> Path:
    """Return the model of genai's own builder in its int4, of its defaults."""
    command = [environment("builder") / "python", "-m", "onnxruntime_genai.models.builder"]

    def write(half: Path) -> None:
        how = ["-i", source, "-o", half, "-p", "int4", "-e", "cpu", "-c", folder / "cache"]
        _run([*command, *how])

    return once(folder / f"{source.name}-genai", write)


def llamacpp(source: Path, folder: Path) -> Path:
    """Return the folder of f32.gguf, q8_0.gguf and q4_0.gguf."""
    command = [environment("llamacpp") / "python", DRIVERS / "to_gguf.py", source]
    return once(folder / f"{source.name}-gguf", lambda half: _run([*command, half]))


def ctranslate2(source: Path, folder: Path, quantization: str) -> Path:
    """Return CTranslate2's model."""
    command = [environment("ctranslate2") / "python", DRIVERS / "to_ctranslate.py", source]
    place = folder / f"{source.name}-ctranslate2-{quantization}"
    return once(place, lambda half: _run([*command, half, quantization]))


def _run(command: list[object]) -> None:
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"{command[0]} failed:\n{done.stderr[-2000:]}")
