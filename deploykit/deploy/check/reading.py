"""Files and folders of manifests, read into objects; what can't be read is a finding with its line."""

import json
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from deploykit.deploy.check.finding import Finding
from deploykit.deploy.check.manifests import Resource
from deploykit.deploy.check.yaml_nodes import DEEPEST, Document, YamlError, documents
from deploykit.errors import ConfigError

SUFFIXES: Final = (".yaml", ".yml", ".json")
KUSTOMIZATIONS: Final = ("kustomization.yaml", "kustomization.yml", "Kustomization")
STDIN: Final = "-"
MOST_BYTES: Final = 32 * 2**20
"""Bytes of a file, of standard input, and of what a kustomization comes to."""


class UnreadableError(Exception):
    """A file's text can't be had; the message says why."""


@dataclass(frozen=True, kw_only=True)
class Read:
    """What was found in a place."""

    resources: tuple[Resource, ...] = ()
    findings: tuple[Finding, ...] = ()

    def __add__(self, other: "Read") -> "Read":
        return Read(resources=self.resources + other.resources, findings=self.findings + other.findings)


def joined(reads: Sequence[Read]) -> Read:
    """Return what was found in several places, in their order."""
    return Read(
        resources=tuple(resource for read in reads for resource in read.resources),
        findings=tuple(finding for read in reads for finding in read.findings),
    )


def read_text(text: str, source: str, *, strict: bool = True) -> Read:
    """Return the objects in a text of YAML or JSON.

    Args:
        text: of any number of documents, lists of objects among them.
        source: what findings call it.
        strict: whether a document that is no object at all is a mistake; in a folder it may be somebody else's file.
    """
    if text.lstrip()[:1] in ("{", "[") and (found := _json(text)) is not None:
        return _objects(found, source, strict=strict)
    read: list[Read] = []
    try:
        for document in documents(text):
            read.append(_objects(document, source, strict=strict))  # noqa: PERF401 - those before a mistake are kept
    except YamlError as error:
        why = f"it can't be read from there on: {error.why}"
        if "{{" in text:
            why += "; it holds a template, which has to be rendered first, such as by helm template"
        finding = told(source, f"line {error.line}", "unreadable", why, "correct it", line=error.line)
        read.append(Read(findings=(finding,)))
    return joined(read)


def read_file(path: Path, source: str, *, strict: bool = True) -> Read:
    """Return the objects in a file."""
    try:
        text = text_of(path)
    except UnreadableError as error:
        return Read(findings=(told(source, "", "unreadable", str(error), "write the file again"),))
    read = read_text(text, source, strict=strict)
    if strict and not read.resources and not read.findings:
        return Read(findings=(told(source, "", "no-objects", "there is no object in it", "name a file that has some"),))
    return read


def text_of(path: Path) -> str:
    """Return the text of a file.

    Raises:
        UnreadableError: it can't be read, is no text, or is too long.
    """
    try:
        with path.open("rb") as file:
            found = file.read(MOST_BYTES + 1)
        if len(found) > MOST_BYTES:
            raise UnreadableError("it has more than 32 MiB")
        return found.decode("utf-8-sig")
    except OSError as error:
        raise UnreadableError(error.strerror or str(error)) from None
    except UnicodeDecodeError as error:
        raise UnreadableError(f"it isn't UTF-8 at byte {error.start}") from None


def read_folder(folder: Path, source: str) -> Read:
    """Return the objects in all files of a folder and those below it."""
    reads, charts = list[Read](), dict[Path, int]()
    for path in manifest_files(folder):
        if (chart := _chart(path, folder)) is not None:
            charts[chart] = charts.get(chart, 0) + 1
            continue
        reads.append(read_file(path, f"{source}/{path.relative_to(folder)}", strict=False))
    for chart, count in charts.items():
        name = chart.name or source
        why = f"{count} of its files belong to the Helm chart {name}: templates, which nobody applies as they are"
        remedy = f"check what it renders: helm template {name} | deploykit deploy --check -"
        reads.append(Read(findings=(told(source, "", "unreadable", why, remedy),)))
    read = joined(reads)
    if not read.resources and not read.findings:
        why = f"no object in any {', '.join(f'*{suffix}' for suffix in SUFFIXES)} of it"
        return Read(findings=(told(source, "", "no-objects", why, "name the folder that the manifests lie in"),))
    return read


def read_stdin(source: str = "stdin") -> Read:
    """Return the objects that come over standard input."""
    try:
        # Not as text: where no locale is set, bytes that are none would pass, and fail when they are shown.
        found = sys.stdin.buffer.read(MOST_BYTES + 1)
        text = found.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ConfigError(f"standard input isn't UTF-8 at byte {error.start}; pass YAML or JSON on") from None
    if len(found) > MOST_BYTES:
        return Read(findings=(told(source, "", "unreadable", "it has more than 32 MiB", "pass less on at once"),))
    read = read_text(text, source)
    if not read.resources and not read.findings:
        return Read(findings=(told(source, "", "no-objects", "there is no object in it", "pass manifests on"),))
    return read


def manifest_files(folder: Path) -> Sequence[Path]:
    """Return the YAML and JSON files of a folder and those below it, hidden ones left out, in order of their names."""
    return sorted(
        path
        for path in folder.rglob("*")
        if path.suffix in SUFFIXES
        and path.is_file()
        and not any(part.startswith(".") for part in path.relative_to(folder).parts)
    )


def _chart(path: Path, folder: Path) -> Path | None:
    """Return the folder of the Helm chart that a file belongs to, the outermost one; None where it is in none."""
    whole = folder.resolve()
    inside = [whole / parent for parent in path.relative_to(folder).parents]
    above = [whole.parent] if whole.name == "templates" else []
    return next((each for each in (*above, *reversed(inside)) if (each / "Chart.yaml").is_file()), None)


def told(source: str, field: str, rule: str, why: str, remedy: str, *, line: int | None = None) -> Finding:
    """Return a finding about a file, not about an object."""
    return Finding(
        rule=rule, level="error", object=source, field=field, value="", why=why, remedy=remedy,
        source=f"{source}:{line}" if line else source,
    )  # fmt: skip


def qualified(resources: Sequence[Resource]) -> list[Resource]:
    """Return the objects, those of equal kind and name in several namespaces marked so."""
    titles = [f"{resource.kind}/{resource.name}" for resource in resources]
    namespaces: dict[str, set[str]] = {}
    for title, resource in zip(titles, resources, strict=True):
        namespaces.setdefault(title, set()).add(resource.namespace)
    return [
        replace(resource, qualified=len(namespaces[title]) > 1)
        for title, resource in zip(titles, resources, strict=True)
    ]


def _json(text: str) -> Document | None:
    """Return a JSON text as a document, None where it is no JSON: it may be YAML in flow style."""
    doubled: list[tuple[str, int]] = []

    def pairs(found: list[tuple[str, Any]]) -> dict[str, Any]:
        names = Counter(name for name, _ in found)
        doubled.extend((name, 0) for name in sorted(names) if names[name] > 1)
        return dict(found)

    try:
        value = json.loads(text, object_pairs_hook=pairs)
    except (ValueError, RecursionError):
        return None
    # The reader of YAML says where it gets too deep.
    return None if _is_deep(value) else Document(value=value, line=0, lines={}, doubled=tuple(doubled))


def _is_deep(value: Any) -> bool:
    """Return whether a value is nested deeper than the reader of YAML takes."""
    level = [value]
    for _ in range(DEEPEST):
        level = [below for each in level for below in _parts(each)]
    return any(isinstance(each, (dict, list)) for each in level)


def _parts(value: Any) -> Iterable[Any]:
    return value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()


def _objects(document: Document, source: str, *, strict: bool) -> Read:
    read = Read(findings=tuple(_doubled(document, source)))
    return read + _unrolled(document.value, document.lines, document.line, source, strict=strict)


def _doubled(document: Document, source: str) -> Iterator[Finding]:
    for name, line in document.doubled:
        why = "the field stands twice: the last one counts, or the file is refused, depending on who reads it"
        yield told(source, name, "field-twice", why, "take one of them out", line=line or None)


def _unrolled(value: Any, lines: dict[str, int], line: int, source: str, *, strict: bool) -> Read:
    """Return an object, or those of a list of objects."""
    if not isinstance(value, dict) or not ("apiVersion" in value or "kind" in value):
        if not strict and not (isinstance(value, dict) and {"metadata", "spec"} <= value.keys()):
            return Read()
        what = "mapping without apiVersion and kind" if isinstance(value, dict) else type(value).__name__
        why, remedy = f"the document is a {what}, no object", "give it apiVersion and kind"
        return Read(findings=(told(source, f"line {line}", "no-object", why, remedy, line=line or None),))
    kind = str(value.get("kind") or "")
    if kind.endswith("List") and isinstance(value.get("items"), list):
        own_lines = _by_item(lines)
        read: list[Read] = []
        for index, item in enumerate(value["items"]):
            own = {"apiVersion": value.get("apiVersion"), "kind": kind[:-4]} if kind != "List" else {}
            body = {**own, **item} if isinstance(item, dict) else item
            below = own_lines.get(str(index), {})
            read.append(_unrolled(body, below, below.get("", line), source, strict=True))
        return joined(read)
    return Read(resources=(Resource(body=value, source=source, lines={**lines, **({"": line} if line else {})}),))


def _by_item(lines: Mapping[str, int]) -> dict[str, dict[str, int]]:
    """Return the lines of each item of a list of objects, by its index."""
    found: dict[str, dict[str, int]] = {}
    for path, line in lines.items():
        if path.startswith("items["):
            index, _, below = path.removeprefix("items[").partition("]")
            found.setdefault(index, {})[below[1:]] = line
    return found
