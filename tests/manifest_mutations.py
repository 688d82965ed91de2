"""Correct manifests of other people's software, and single mistakes made in them."""

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import msgspec

from deploykit.deploy.check.custom_kinds import CUSTOM
from deploykit.deploy.check.finding import Finding
from deploykit.deploy.check.manifests import Manifests, Resource
from deploykit.deploy.check.reading import qualified, read_file
from deploykit.deploy.check.rules import RULES
from deploykit.deploy.check.typed import fields_of, kinds

CORRECT: Final = Path(__file__).parent / "deploy" / "check" / "correct"
GONE: Final = object()
"""In place of a value: take the field away."""


def objects(name: str) -> list[dict[str, Any]]:
    """Return the objects of a correct file."""
    read = read_file(CORRECT / f"{name}.yaml", name)
    assert not read.findings
    return copy.deepcopy([dict(each.body) for each in read.resources])


def found(bodies: list[dict[str, Any]]) -> list[Finding]:
    """Return what all rules find in objects."""
    resources = qualified([Resource(body=body, source="test.yaml") for body in bodies])
    manifests = Manifests(resources=resources, source="test.yaml")
    return list(dict.fromkeys(finding for rule in RULES for finding in rule(manifests, None)))


def changed(name: str, title: str, *edits: tuple[str, Any]) -> list[dict[str, Any]]:
    """Return a correct file's objects with fields of one of them changed: paths of keys and `[indices]`."""
    bodies = objects(name)
    body = next(each for each in bodies if f"{each['kind']}/{each['metadata'].get('name')}" == title)
    for path, value in edits:
        *before, last = keys(path)
        holder: Any = body
        for key in before:
            holder = holder[key]
        if value is GONE:
            del holder[last]
        elif isinstance(holder, list) and last == len(holder):
            holder.append(value)
        else:
            holder[last] = value(holder[last]) if isinstance(value, Callable) else value  # type: ignore[arg-type]
    return bodies


def keys(path: str) -> list[str | int]:
    """Return the parts of a path; a key with dots stands between backquotes."""
    parts: list[str | int] = []
    for index, piece in enumerate(path.split("`")):
        if index % 2:
            parts.append(piece)
            continue
        for part in piece.replace("[", ".[").split("."):
            if part.startswith("["):
                parts.append(int(part[1:-1]))
            elif part:
                parts.append(part)
    return parts


def all_structs() -> set[type[msgspec.Struct]]:
    """Return the types of all parts of all kinds that the linter knows, their status left out."""
    seen = set[type[msgspec.Struct]]()
    waiting: list[type[msgspec.Struct]] = [*kinds().values(), *CUSTOM.values()]
    while waiting:
        struct = waiting.pop()
        if struct not in seen:
            seen.add(struct)
            waiting += [each.struct for each in fields_of(struct).values() if each.struct and each.name != "status"]
    return seen
