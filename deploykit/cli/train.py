"""`deploykit train`."""

import ast
import dataclasses
import inspect
import itertools
import textwrap
from pathlib import Path
from typing import Any

import click

from deploykit.cli import console, options
from deploykit.config import TrainConfig


def _hyperparameters(function: Any) -> Any:
    """Add an option for each field of the training configuration, explained by the field's own docstring."""
    explained = _field_docstrings(TrainConfig)
    for field in reversed(dataclasses.fields(TrainConfig)):
        function = click.option(
            f"--{field.name.replace('_', '-')}",
            type=int if "int" in str(field.type) else float,
            default=field.default,
            show_default=field.default is not None,
            help=explained.get(field.name),
        )(function)
    return function


def _field_docstrings(config: type) -> dict[str, str]:
    """Return the string under each field of a dataclass, which Python itself throws away."""
    (definition,) = ast.parse(textwrap.dedent(inspect.getsource(config))).body
    assert isinstance(definition, ast.ClassDef)
    found: dict[str, str] = {}
    for field, text in itertools.pairwise(definition.body):
        match field, text:
            case ast.AnnAssign(target=ast.Name(id=name)), ast.Expr(value=ast.Constant(value=str(words))):
                found[name] = " ".join(words.split())
    return found


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
        click.echo(f"{name.replace('_', ' '):<18} {f'{value:.4g}' if isinstance(value, float) else value}")
