"""`deploykit validate`."""

from functools import partial
from pathlib import Path
from typing import Any

import click

from deploykit.cli import comparing, console, options
from deploykit.config import ConvertConfig, ValidateConfig
from deploykit.errors import ConfigError, ParityError, QualityError


@click.command()
@options.artifact
@click.option(
    "--reference",
    metavar="CHECKPOINT",
    default=None,
    help="The checkpoint the artifact was made from; without it only the artifact's own consistency is checked.",
)
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    default=None,
    metavar="DIR",
    help="Write the artifact again with the figures in its manifest.",
)
@click.option("--overwrite", is_flag=True, help="Replace an artifact that is there already.")
@click.option("--bisect", is_flag=True, help="Find the place inside the graph where it begins to differ (--reference).")
@click.option(
    "--against",
    type=click.Choice(comparing.RUNTIMES),
    default=None,
    help="Run the same prompts in another runtime and compare; triton runs what is packaged.",
)
@click.option(
    "--python",
    type=click.Path(path_type=Path),
    default=None,
    metavar="FILE",
    help="The Python of the environment that has the other runtime; this one by default.",
)
@options.precision
@options.judging
@click.option("--trust-remote-code", is_flag=True, help="Run Python code that the checkpoint ships.")
@click.option("--allow-pickle", is_flag=True, help="Read pytorch_model.bin where there is no safetensors file.")
@options.as_json
def validate(
    artifact: Path,
    reference: str | None,
    output: Path | None,
    overwrite: bool,
    bisect: bool,
    against: Any,
    python: Path | None,
    precision: Any,
    trust_remote_code: bool,
    allow_pickle: bool,
    as_json: bool,
    **judging: Any,
) -> None:
    """Compare an artifact's models with PyTorch and with each other; fail past a limit."""
    config = ValidateConfig(**judging)
    reading = ConvertConfig(trust_remote_code=trust_remote_code, allow_pickle=allow_pickle)
    _check_together(reference, output, precision, python, config.report, bisect=bisect, against=against)
    if bisect:
        comparing.print_bisection(artifact, str(reference), config, reading, precision, json_wanted=as_json)
        return
    if against:
        comparing.print_against(artifact, against, config, precision, python, json_wanted=as_json)
        return
    from deploykit.artifact import Artifact
    from deploykit.validate import validate as run

    with console.progress() as progress:
        source = Artifact.open(artifact)
        truth = None
        if reference is not None:
            progress("load libraries", 0, 0)
            from deploykit.convert import torch_reference

            progress("load libraries", 1, 1)
            truth = partial(torch_reference, reference, reading)
        try:
            result = run(source, output, truth, config, overwrite=overwrite, progress=progress)
        except ParityError as error:
            # `--bisect` follows tokens through a decoder alone.
            alone = source.manifest.decoder.encoder is None
            if reference is not None and alone and not isinstance(error, QualityError):
                error.args = (f"{error}; rerun with --bisect to see in which layer it begins",)
            raise
    console.print_artifact(result, json_wanted=as_json)


def _check_together(
    reference: str | None,
    output: Path | None,
    precision: str | None,
    python: Path | None,
    report: Path | None,
    *,
    bisect: bool,
    against: str | None,
) -> None:
    """Refuse options that don't go together."""
    if bisect and against:
        raise ConfigError("--bisect and --against are two questions; ask one at a time")
    if bisect and reference is None:
        raise ConfigError("--bisect compares with PyTorch's hidden states; add --reference CHECKPOINT")
    if against and reference is not None:
        raise ConfigError("--against compares with ONNX Runtime here, not with PyTorch; leave out --reference")
    for option, value in (("-o", output), ("--report", report)):
        if (bisect or against) and value is not None:
            raise ConfigError(
                f"--{'bisect' if bisect else 'against'} only looks and writes nothing; leave out {option}"
            )
    if precision is not None and not (bisect or against):
        raise ConfigError("--precision goes with --bisect or --against; without them every precision is measured")
    if python is not None and against in (None, "triton"):
        raise ConfigError("--python goes with --against genai, optimum or onnxruntime")
