"""`deploykit validate`."""

from pathlib import Path
from typing import Any

import click

from deploykit.cli import console, options
from deploykit.config import ConvertConfig, ValidateConfig


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
@options.judging
@click.option("--trust-remote-code", is_flag=True, help="Run Python code that the checkpoint ships.")
@click.option("--allow-pickle", is_flag=True, help="Read pytorch_model.bin where there is no safetensors file.")
@options.as_json
def validate(
    artifact: Path,
    reference: str | None,
    output: Path | None,
    overwrite: bool,
    trust_remote_code: bool,
    allow_pickle: bool,
    as_json: bool,
    **judging: Any,
) -> None:
    """Compare an artifact's models with PyTorch and with each other; fail past a limit."""
    config = ValidateConfig(**judging)
    from deploykit.artifact import Artifact
    from deploykit.validate import validate as run

    with console.progress() as progress:
        source = Artifact.open(artifact)
        truth = None
        if reference is not None:
            progress("load the reference", 0, 0)
            from deploykit.convert import torch_reference

            reading = ConvertConfig(trust_remote_code=trust_remote_code, allow_pickle=allow_pickle)
            truth = torch_reference(reference, reading)
            progress("load the reference", 1, 1)
        result = run(source, output, truth, config, overwrite=overwrite, progress=progress)
    console.print_artifact(result, json_wanted=as_json)
