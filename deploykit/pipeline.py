"""The whole way from a checkpoint to a Triton repository: the only file that knows every stage and their order."""

import re
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Final, get_args

from deploykit.artifact import Artifact
from deploykit.auto import choose
from deploykit.config import ConvertConfig, PackageConfig, Quantization, QuantizeConfig, Until, ValidateConfig
from deploykit.convert import convert as run_convert
from deploykit.convert import torch_reference
from deploykit.draft import check_target, hidden_folder
from deploykit.engine.speed import measure_speed
from deploykit.errors import ConfigError, DeploykitError, ParityError, QualityError
from deploykit.optimize import optimize as run_optimize
from deploykit.package import package as run_package
from deploykit.progress import Progress, silent
from deploykit.quantize import quantize as run_quantize
from deploykit.spec import FAST
from deploykit.text import read_end, read_start
from deploykit.validate import check_page, measure_quality
from deploykit.validate import validate as run_validate

STAGES: Final[tuple[Until, ...]] = get_args(Until)
"""Where an export can stop, in order: one name a stage, for what the stage leaves behind."""


def export(
    checkpoint: str | Path,
    output: str | Path,
    *,
    quantize: Quantization | QuantizeConfig = "int8",
    name: str | None = None,
    throughput: bool = False,
    until: Until = "packaged",
    convert: ConvertConfig | None = None,
    validate: ValidateConfig | None = None,
    overwrite: bool = False,
    progress: Progress = silent,
) -> Artifact:
    """Turn a checkpoint into a validated, quantized artifact that Triton serves, and return it.

    Args:
        checkpoint: a Hugging Face folder, a hub id, or what `deploykit train` wrote.
        output: the artifact's folder; it appears only when everything has succeeded.
        quantize: the precision to serve, or all of its options.
        name: the Triton model's name; the checkpoint's own where None.
        throughput: whether to add a dynamic-int8 model, for `serve` in mode `throughput`.
        until: the last stage to run.
        convert: options of the conversion.
        validate: limits of the validation.
        overwrite: whether an artifact at `output` may be replaced.
        progress: told how far the export is.

    Raises:
        DeploykitError: one of its subclasses, from the stage that failed; `output` is untouched then.

    Example:
        >>> import deploykit
        >>> artifact = deploykit.export("my-checkpoint", "out", quantize="int4")  # doctest: +SKIP
        >>> artifact.manifest.parity["fp32"]  # doctest: +SKIP
    """
    if until not in STAGES:
        raise ConfigError(f"until must be one of {', '.join(STAGES)}; got {until!r}")
    target = Path(output)
    check_target(target, overwrite=overwrite)
    reading = convert or ConvertConfig()
    precision = quantize if isinstance(quantize, QuantizeConfig) else QuantizeConfig(precision=quantize)
    validating = validate or ValidateConfig()
    packaging = PackageConfig(name=name or model_name(checkpoint), throughput=throughput)

    def check(source: Artifact, out: Path, **how: bool) -> Artifact:
        reference = partial(torch_reference, checkpoint, reading)
        with _look_inside(source, f"deploykit validate {target} --reference {checkpoint} --bisect"):
            return run_validate(source, out, reference, validating, name=packaging.name, progress=progress, **how)

    _check_together(until, precision, validating, throughput=throughput)
    with _workshop(target) as workshop:
        quantizing = (
            partial(_quantize_best, judging=validating, folder=workshop)
            if precision.precision == "auto"
            else run_quantize
        )
        stages: list[Callable[..., Artifact]] = [
            partial(run_optimize, progress=progress),
            partial(quantizing, config=precision, progress=progress),
            check,
            partial(run_package, config=packaging, progress=progress),
        ]
        stages = stages[: STAGES.index(until)]
        if throughput and precision.precision != FAST:
            # Before the other, since the last one is served.
            stages.insert(1, partial(run_quantize, config=QuantizeConfig(precision="dynamic-int8"), progress=progress))
        last = not stages
        artifact = run_convert(
            checkpoint, target if last else workshop / "0", reading, overwrite=last and overwrite, progress=progress
        )
        for number, stage in enumerate(stages, start=1):
            last = number == len(stages)
            artifact = stage(
                artifact, target if last else workshop / str(number), overwrite=last and overwrite, link=True
            )
            shutil.rmtree(workshop / str(number - 1))
    return artifact


@contextmanager
def _look_inside(source: Artifact, how_to: str) -> Iterator[None]:
    """Let an error of parity say how to find the layer where it begins."""
    try:
        yield
    except QualityError:
        raise
    except ParityError as error:
        # `--bisect` follows tokens through a decoder alone.
        if not source.manifest.decoder.encoder:
            # What failed is not kept, so it must be made again to be looked into.
            error.args = (f"{error}; to see in which layer it begins, export with --until quantized and run: {how_to}",)
        raise


def _check_together(until: Until, quantizing: QuantizeConfig, validating: ValidateConfig, *, throughput: bool) -> None:
    """Say before the checkpoint is converted, not after it, what a later stage would refuse.

    Raises:
        ConfigError: a text can't be read, `auto` may choose what the gate doesn't let pass, or the export ends before
            the model that `throughput` adds.
        OutputError: the page can't be written.
    """
    if STAGES.index(until) >= STAGES.index("quantized") and quantizing.calibration:
        read_end(quantizing.calibration, 1, option="--calibration")
    if STAGES.index(until) >= STAGES.index("validated"):
        for file in validating.text_files().values():
            read_start(file, 1, option="--text")
        check_page(validating.report)
        if quantizing.precision == "auto" and quantizing.max_quality_loss > validating.max_perplexity_loss:
            raise ConfigError(
                f"max_quality_loss {quantizing.max_quality_loss:g} lets auto choose what validation refuses past "
                f"max_perplexity_loss {validating.max_perplexity_loss:g}; lower the one or raise the other"
            )
    if throughput and STAGES.index(until) < STAGES.index("quantized"):
        raise ConfigError(
            f"throughput adds a quantized model, and until {until} ends before that; leave one of them out"
        )


def _quantize_best(
    source: Artifact,
    out: Path,
    *,
    config: QuantizeConfig,
    judging: ValidateConfig,
    folder: Path,
    progress: Progress,
    **how: bool,
) -> Artifact:
    """Return the artifact at `out`, quantized in the way that measures best here."""
    with tempfile.TemporaryDirectory(prefix="auto.", dir=folder) as candidates:
        choice = choose(
            source,
            Path(candidates),
            config,
            max_kl=judging.max_kl,
            quantize=run_quantize,
            quality=partial(measure_quality, config=judging),
            speed=measure_speed,
            progress=progress,
        )
    notes = {"chosen_because": choice.why, "candidates": list(choice.candidates)}
    return run_quantize(source, out, choice.config, notes=notes, progress=progress, **how)


def model_name(checkpoint: str | Path) -> str:
    """Return a Triton model name made of the last part of a checkpoint's path or hub id."""
    last = Path(str(checkpoint)).name or Path(checkpoint).resolve().name
    return re.sub(r"[^A-Za-z0-9._-]+", "-", last).strip("._-")[:128] or "model"


@contextmanager
def _workshop(target: Path) -> Iterator[Path]:
    """Open a hidden folder beside the target: on the same file system, so that stages hand files on as hard links."""
    with hidden_folder(target.absolute()) as folder:
        try:
            yield folder
        except DeploykitError as error:
            # A stage names the hidden folder it worked in; the user knows only the output.
            hidden = rf"{re.escape(str(folder))}/(?:auto\.[^/]+/)?\d+(?:/whole|/served)?"
            error.args = (re.sub(hidden, lambda _: str(target), str(error)),)
            raise
