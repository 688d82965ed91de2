"""`deploykit quantize`."""

from pathlib import Path
from typing import Any

import click

from deploykit.cli import console, options
from deploykit.config import QuantizeConfig


@click.command()
@options.artifact
@options.output
@options.quantizing
@options.as_json
def quantize(artifact: Path, output: Path, overwrite: bool, as_json: bool, **quantizing: Any) -> None:
    """Add a quantized model to an artifact and make it the one that is served."""
    config = QuantizeConfig(**quantizing)
    from deploykit.quantize import quantize as run

    with console.progress() as progress:
        result = run(artifact, output, config, overwrite=overwrite, progress=progress)
    console.print_artifact(result, json_wanted=as_json)
