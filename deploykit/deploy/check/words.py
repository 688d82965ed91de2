"""The words of a container's command line, as its process gets them."""

import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from deploykit.deploy.check.manifests import Container, mapping, sequence

UNKNOWN: Final = "\0"
"""Stands in a word for a variable whose value the manifests don't say."""

_REFERENCE: Final = re.compile(r"\$\$|\$\(([-._a-zA-Z0-9]+)\)")
"""`$(NAME)`, and `$$`, which Kubernetes turns into `$`."""
_SHELL_VARIABLE: Final = re.compile(r"\$(?:\{([A-Za-z_]\w*)\}|([A-Za-z_]\w*))")
_NOT_PLAIN: Final = re.compile(r"[;|&<>()$`\n*?\[\]#~]")
"""Signs that a shell gives a meaning of their own: what it runs then isn't one command's words."""
_SHELLS: Final = ("sh", "bash", "dash", "ash", "zsh")
_ASSIGNMENT: Final = re.compile(r"[A-Za-z_]\w*=.*", re.DOTALL)


@dataclass(frozen=True, kw_only=True)
class Word:
    """A word of a command line."""

    text: str
    field: str
    """Path below the container: `args[3]`."""


def words(container: Container) -> list[Word]:
    """Return the words that the process sees, without a shell or an init before them; none where the image decides.

    A shell's script counts where it is one plain command. `args` alone count as what the image's entry point runs.
    """
    known = environment(container)
    given = [
        Word(text=_expand(str(text), known), field=f"{key}[{index}]")
        for key in ("command", "args")
        for index, text in enumerate(sequence(container.body.get(key)))
        if isinstance(text, str | int | float)
    ]
    if not container.body.get("command") and given and given[0].text in ("serve", "gateway", "pull"):
        # The image of deploykit runs it without being told to.
        image = str(container.body.get("image") or "").rpartition("/")[2]
        return [Word(text="deploykit", field="args"), *given] if image.startswith("deploykit") else []
    return _without_starters(given, known)


def environment(container: Container) -> Mapping[str, str]:
    """Return the variables of a container whose values stand in the manifest."""
    found: dict[str, str] = {}
    for entry in map(mapping, sequence(container.body.get("env"))):
        name, value = entry.get("name"), entry.get("value")
        if isinstance(name, str):
            found.pop(name, None)
            if isinstance(value, str | int | float) and "valueFrom" not in entry:
                found[name] = _expand(str(value), found)
    return found


def is_known(text: str) -> bool:
    """Return whether nothing in a word depends on what the manifests don't say."""
    return UNKNOWN not in text


def references(text: str) -> list[str]:
    """Return the names of the variables that a word has as `$(NAME)`."""
    return [found[1] for found in _REFERENCE.finditer(text) if found[1]]


def _expand(text: str, known: Mapping[str, str]) -> str:
    return _REFERENCE.sub(lambda found: known.get(found[1], UNKNOWN) if found[1] else "$", text)


def _without_starters(given: Sequence[Word], known: Mapping[str, str]) -> list[Word]:
    """Return the words from the program's own name on."""
    rest = list(given)
    while rest:
        name = rest[0].text.rpartition("/")[2]
        if name in ("exec", "env", "nice") or _ASSIGNMENT.fullmatch(rest[0].text):
            rest = rest[1:]
        elif name in ("tini", "dumb-init", "catatonit"):
            rest = _behind_options(rest[1:])
        elif name in _SHELLS and len(rest) >= 3 and re.fullmatch(r"-[a-z]*c", rest[1].text):
            rest = _script(rest[2], known)
        elif re.fullmatch(r"python[0-9.]*", name):
            return _module(rest[1:])
        else:
            break
    return rest


def _behind_options(rest: list[Word]) -> list[Word]:
    for index, word in enumerate(rest):
        if word.text == "--":
            return rest[index + 1 :]
        if not word.text.startswith("-"):
            return rest[index:]
    return []


def _module(rest: Sequence[Word]) -> list[Word]:
    """Return what `python -m MODULE …` runs, none where it is something else."""
    for index, word in enumerate(rest):
        if word.text == "-m":
            return list(rest[index + 1 :])
        if not re.fullmatch(r"-[A-Za-z]", word.text):
            break
    return []


def _script(script: Word, known: Mapping[str, str]) -> list[Word]:
    """Return the words of a script of one plain command, none of any other."""
    text = _SHELL_VARIABLE.sub(
        lambda found: known.get(found[1] or found[2], UNKNOWN), script.text.strip().replace("\\\n", " ")
    )
    if _NOT_PLAIN.search(text):
        return []
    try:
        return [Word(text=part, field=script.field) for part in shlex.split(text)]
    except ValueError:
        return []
