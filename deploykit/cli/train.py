"""`deploykit train`."""

import dataclasses
from pathlib import Path
from typing import Any

import click

from deploykit.cli import console, options
from deploykit.config import TrainConfig


def _hyperparameters(function: Any) -> Any:
    """Add an option for each field of the training configuration."""
    for field in reversed(dataclasses.fields(TrainConfig)):
        kind = int if "int" in str(field.type) else float
        function = click.option(
            f"--{field.name.replace('_', '-')}",
            type=kind,
            default=field.default,
            show_default=field.default is not None,
        )(function)
    return function


@click.command()
@click.option(
    "--data", type=click.Path(path_type=Path), required=True, metavar="DIR", help="Folder with train.txt and val.txt."
)
@options.output
@_hyperparameters
@options.as_json
def train(data: Path, output: Path, overwrite: bool, as_json: bool, **hyperparameters: Any) -> None:
    """Train a small Llama-style decoder with its own tokenizer on plain text."""
    config = TrainConfig(**hyperparameters)
    from deploykit.train import train as run

    with console.progress() as progress:
        result = run(data, output, config, overwrite=overwrite, progress=progress)
    if as_json:
        console.print_json(dataclasses.asdict(result))
        return
    for name, value in dataclasses.asdict(result).items():
        click.echo(f"{name:<16}  {f'{value:.4g}' if isinstance(value, float) else value}")
