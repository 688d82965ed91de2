"""`deploykit package`."""

from pathlib import Path
from typing import Any

import click

from deploykit.cli import console, options
from deploykit.config import PackageConfig


@click.command()
@options.artifact
@options.output
@click.option("--name", default=PackageConfig.name, show_default=True, help="The Triton model's name.")
@click.option(
    "--model-version",
    "version",
    type=int,
    default=PackageConfig.version,
    show_default=True,
    help="The Triton model's version.",
)
@options.throughput
@options.as_json
def package(artifact: Path, output: Path, overwrite: bool, as_json: bool, **settings: Any) -> None:
    """Add a Triton model repository to an artifact."""
    config = PackageConfig(**settings)
    from deploykit.package import package as run

    with console.progress() as progress:
        result = run(artifact, output, config, overwrite=overwrite, progress=progress)
    console.print_artifact(result, json_wanted=as_json)
