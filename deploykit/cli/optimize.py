"""`deploykit optimize`."""

from pathlib import Path

import click

from deploykit.cli import console, options


@click.command()
@options.artifact
@options.output
@options.as_json
def optimize(artifact: Path, output: Path, overwrite: bool, as_json: bool) -> None:
    """Simplify an artifact's fp32 graph, keeping its results."""
    from deploykit.optimize import optimize as run

    with console.progress() as progress:
        result = run(artifact, output, overwrite=overwrite, progress=progress)
    console.print_artifact(result, json_wanted=as_json)
