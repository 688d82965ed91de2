"""`deploykit convert`."""

from pathlib import Path
from typing import Any

import click

from deploykit.cli import console, options


@click.command()
@click.argument("checkpoint")
@options.output
@options.reading
@options.as_json
def convert(checkpoint: str, output: Path, overwrite: bool, as_json: bool, **reading: Any) -> None:
    """Turn CHECKPOINT (a Hugging Face folder or hub id) into ONNX with a key/value cache."""
    from deploykit.config import ConvertConfig

    config = ConvertConfig(**reading)
    from deploykit.convert import convert as run

    with console.progress() as progress:
        result = run(checkpoint, output, config, overwrite=overwrite, progress=progress)
    console.print_artifact(result, json_wanted=as_json)
