"""The options of a training: one for each field of its configuration, explained by the field's own docstring."""

import ast
import dataclasses
import inspect
import itertools
import textwrap
from collections.abc import Iterator, Mapping
from types import UnionType
from typing import Any, Final, Literal, get_args, get_origin, get_type_hints

import click

from deploykit.train.config import GROUPS, TrainConfig

_ALIASES: Final = {
    "hidden_size": ("--d-model",),
    "num_heads": ("--nhead",),
    "intermediate_size": ("--dim-feedforward",),
}
"""Names that PyTorch's own Transformer has for the same."""
_TITLES: Final = {
    "model": "A new model",
    "data": "Data",
    "augment": "Augmentation",
    "optim": "Training",
    "lora": "LoRA",
    "": "Run",
}


class Grouped(click.Command):
    """A command whose help lists the configuration's options by group."""

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the command's own options first, then a section for each group."""
        sections: dict[str, list[tuple[str, str]]] = {"Options": []}
        titles = {name: _TITLES[group] for group, _, name in _fields()}
        for option in self.get_params(ctx):
            if line := option.get_help_record(ctx):
                sections.setdefault(titles.get(option.name or "", "Options"), []).append(line)
        for title, lines in sections.items():
            with formatter.section(title):
                formatter.write_dl(lines)


def hyperparameters(function: Any) -> Any:
    """Add an option for each field of the configuration; it is None where it isn't given."""
    explained = {kind: _docstrings(kind) for kind in (*GROUPS.values(), TrainConfig)}
    for _, kind, name in reversed(list(_fields())):
        function = _option(kind, name, explained[kind][name])(function)
    return function


def given(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return those options that were given, as `TrainConfig.but` takes them."""
    return {name: value for name, value in options.items() if value is not None}


def _fields() -> Iterator[tuple[str, type[Any], str]]:
    """Yield the fields that become options: their group, the class they are in, their name."""
    kinds: dict[str, type[Any]] = {**GROUPS, "": TrainConfig}
    for group, kind in kinds.items():
        for item in dataclasses.fields(kind):
            if item.name not in GROUPS and item.name != "task":
                yield group, kind, item.name


def _option(kind: type[Any], name: str, words: str) -> Any:
    default = getattr(kind, name)
    # A class in Python speaks of None where the command line has an option that isn't given.
    words = words.replace("where None", "by default")
    if default is not None:
        words += f"  [default: {'yes' if default is True else 'no' if default is False else default}]"
    spelled = f"--{name.replace('_', '-')}"
    value = _plain(get_type_hints(kind)[name])
    if value is bool:
        return click.option(f"{spelled}/--no-{spelled.removeprefix('--')}", name, default=None, help=words)
    taken = click.Choice(get_args(value)) if get_origin(value) is Literal else value
    return click.option(spelled, *_ALIASES.get(name, ()), name, type=taken, default=None, help=words)


def _plain(hint: Any) -> Any:
    """Return a field's type without the None that stands for a default."""
    if isinstance(hint, UnionType):
        return next(kind for kind in get_args(hint) if kind is not type(None))
    return hint


def _docstrings(config: type) -> dict[str, str]:
    """Return the string under each field of a dataclass, which Python itself throws away."""
    (definition,) = ast.parse(textwrap.dedent(inspect.getsource(config))).body
    assert isinstance(definition, ast.ClassDef)
    found: dict[str, str] = {}
    for item, text in itertools.pairwise(definition.body):
        match item, text:
            case ast.AnnAssign(target=ast.Name(id=name)), ast.Expr(value=ast.Constant(value=str(words))):
                found[name] = " ".join(words.split())
    return found
