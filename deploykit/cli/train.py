"""`deploykit train`."""

import dataclasses
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import click

from deploykit.cli import console, options, train_options
from deploykit.errors import ConfigError
from deploykit.progress import silent
from deploykit.train.config import Task, TrainConfig

_PARTS: Final = frozenset({"padding", "token_accuracy", "accuracy", "exact_match"})
"""Figures that are parts of a whole."""


@click.command(cls=train_options.Grouped)
@click.option(
    "--data",
    type=click.Path(path_type=Path),
    required=True,
    metavar="DIR",
    help="Folder with train.txt and val.txt (running text, `source<TAB>target` or `label<TAB>text`), or .tsv, .jsonl, "
    ".csv.",
)
@options.output
@click.option(
    "--task",
    type=options.choices(Task),
    default=None,
    help="What the model learns.  [default: that of --from, else text-generation]",
)
@click.option(
    "--from", "base", default=None, metavar="CHECKPOINT", help="Fine-tune this checkpoint, a folder or hub id."
)
@click.option(
    "--config",
    "config_file",
    type=click.Path(path_type=Path, dir_okay=False),
    default=None,
    metavar="FILE",
    help="Options as YAML, such as the train.yaml beside a model; those of the command line come before them.",
)
@click.option("--resume", is_flag=True, help="Go on with a training that was interrupted, or that kept its last state.")
@click.option("--sweep", "search", is_flag=True, help="Search the options that the section `sweep` of --config names.")
@click.option(
    "--tensorboard",
    type=click.Path(path_type=Path, file_okay=False),
    default=None,
    metavar="DIR",
    help="Write scalars, samples of text and the attention of one sentence for TensorBoard.",
)
@click.option(
    "--trace",
    type=click.Path(path_type=Path, file_okay=False),
    default=None,
    metavar="DIR",
    help="Write a profile of a few steps: a Chrome trace, and a table of the dearest operators.",
)
@options.as_json
@train_options.hyperparameters
def train(
    data: Path,
    output: Path,
    overwrite: bool,
    task: Task | None,
    base: str | None,
    config_file: Path | None,
    resume: bool,
    search: bool,
    tensorboard: Path | None,
    trace: Path | None,
    as_json: bool,
    **hyperparameters: Any,
) -> None:
    """Train a model on text: a decoder, an encoder-decoder or a classifier, new or from a checkpoint.

    Several processes train one model together: torchrun --nproc-per-node 2 -m deploykit train ...
    """
    changed = train_options.given({**hyperparameters, "task": task})
    config, space = _configuration(config_file, output if resume else None, changed)
    if search and not space:
        raise ConfigError("--sweep needs a --config whose section `sweep` says what to vary, and between which bounds")
    if trace:
        # PyTorch's profiler would write lines of its own between ours; it asks for this when torch is loaded.
        os.environ.setdefault("KINETO_LOG_LEVEL", "6")
    with _reporting() as (progress, leads):
        progress("load libraries", 0, 0)
        from deploykit.train.run import train as run

        progress("load libraries", 1, 1)
        if search:
            from deploykit.train.search import sweep

            found = sweep(
                data,
                output,
                config,
                space=space or {},
                base=base,
                resume=resume,
                overwrite=overwrite,
                progress=progress,
            )
            result: Any = found.best
        else:
            result = run(
                data,
                output,
                config,
                base=base,
                resume=resume,
                overwrite=overwrite,
                tensorboard=tensorboard,
                trace=trace,
                progress=progress,
            )
    if not leads:
        return
    for note in result.notes:
        click.echo(note, err=True)
    if as_json:
        console.print_json({**dataclasses.asdict(result), **({"trials": found.to_json()} if search else {})})
        return
    if search:
        click.echo(found.table())
    _print(result.figures(), path=output)


def _configuration(
    file: Path | None, resumed: Path | None, changed: Mapping[str, Any]
) -> tuple[TrainConfig, Mapping[str, Any] | None]:
    """Return the options: those of the file, or of the training to go on with, changed by the command line's."""
    config, space = TrainConfig(), None
    if resumed is not None and file is None:
        from deploykit.train.partial import saved_config

        file = saved_config(resumed)
    if file is not None:
        from deploykit.train.config_file import read_config

        config, space = read_config(file)
    return config.but(changed), space


@contextmanager
def _reporting() -> Iterator[tuple[Any, bool]]:
    """Show progress in the process that leads, and say on the way out how an interrupted training can go on."""
    # One of several that torchrun started: the first speaks for all.
    leads = os.environ.get("RANK", "0") == "0"
    try:
        if not leads:
            yield silent, False
            return
        with console.progress() as progress:
            yield progress, True
    except (KeyboardInterrupt, SystemExit) as stop:
        for note in getattr(stop, "__notes__", []):
            click.echo(note, err=True)
        raise


def _print(figures: Mapping[str, Any], *, path: Path) -> None:
    rows = {"path": path, **{name: value for name, value in figures.items() if name != "metrics"}, **figures["metrics"]}
    width = max(map(len, rows))
    for name, value in rows.items():
        click.echo(f"{name.replace('_', ' '):<{width}}  {_number(name, value)}")


def _number(name: str, value: Any) -> str:
    """Return a figure as a person reads it: parts as percents, large numbers whole."""
    if isinstance(value, int):
        return f"{value:,}"
    if not isinstance(value, float):
        return str(value)
    if name in _PARTS:
        return f"{value:.1%}"
    return f"{value:,.0f}" if abs(value) >= 1e4 else f"{value:.4g}"
