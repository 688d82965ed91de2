"""Files and folders of manifests, read into objects; what can't be read is a finding with its line."""

import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from deploykit.deploy.check.finding import Finding
from deploykit.deploy.check.manifests import Resource
from deploykit.deploy.check.yaml_nodes import Document, YamlError, documents
from deploykit.errors import ConfigError

SUFFIXES: Final = (".yaml", ".yml", ".json")
KUSTOMIZATIONS: Final = ("kustomization.yaml", "kustomization.yml", "Kustomization")
STDIN: Final = "-"
_MOST_BYTES: Final = 32 * 2**20


@dataclass(frozen=True, kw_only=True)
class Read:
    """What was found in a place."""

    resources: tuple[Resource, ...] = ()
    findings: tuple[Finding, ...] = ()

    def __add__(self, other: "Read") -> "Read":
        return Read(resources=self.resources + other.resources, findings=self.findings + other.findings)


def read_text(text: str, source: str, *, strict: bool = True) -> Read:
    """Return the objects in a text of YAML or JSON.

    Args:
        text: of any number of documents, lists of objects among them.
        source: what findings call it.
        strict: whether a document that is no object at all is a mistake; in a folder it may be somebody else's file.
    """
    if text.lstrip()[:1] in ("{", "[") and (found := _json(text)) is not None:
        return _objects(found, source, strict=strict)
    read = Read()
    try:
        for document in documents(text):
            read += _objects(document, source, strict=strict)
    except YamlError as error:
        why = f"it can't be read from there on: {error.why}"
        if "{{" in text:
            why += "; it holds a template, which has to be rendered first, such as by helm template"
        return read + Read(
            findings=(told(source, f"line {error.line}", "unreadable", why, "correct it", line=error.line),)
        )
    return read


def read_file(path: Path, source: str, *, strict: bool = True) -> Read:
    """Return the objects in a file."""
    try:
        if path.stat().st_size > _MOST_BYTES:
            return Read(findings=(told(source, "", "unreadable", "it has more than 32 MiB", "name a smaller file"),))
        text = path.read_bytes().decode("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else f"it isn't UTF-8 at byte {error.start}"
        return Read(findings=(told(source, "", "unreadable", str(why), "write the file again"),))
    read = read_text(text, source, strict=strict)
    if strict and not read.resources and not read.findings:
        return Read(findings=(told(source, "", "no-objects", "there is no object in it", "name a file that has some"),))
    return read


def read_folder(folder: Path, source: str) -> Read:
    """Return the objects in all files of a folder and those below it."""
    read, charts = Read(), dict[Path, int]()
    for path in manifest_files(folder):
        if (chart := _chart(path, folder)) is not None:
            charts[chart] = charts.get(chart, 0) + 1
            continue
        read += read_file(path, f"{source}/{path.relative_to(folder)}", strict=False)
    for chart, count in charts.items():
        name = chart.name or source
        why = f"{count} of its files belong to the Helm chart {name}: templates, which nobody applies as they are"
        remedy = f"check what it renders: helm template {name} | deploykit deploy --check -"
        read += Read(findings=(told(source, "", "unreadable", why, remedy),))
    if not read.resources and not read.findings:
        why = f"no object in any {', '.join(f'*{suffix}' for suffix in SUFFIXES)} of it"
        return Read(findings=(told(source, "", "no-objects", why, "name the folder that the manifests lie in"),))
    return read


def read_stdin(source: str = "stdin") -> Read:
    """Return the objects that come over standard input."""
    try:
        text = sys.stdin.read()
    except UnicodeDecodeError as error:
        raise ConfigError(f"standard input isn't UTF-8 at byte {error.start}; pass YAML or JSON on") from None
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
        names = [name for name, _ in found]
        doubled.extend((name, 0) for name in sorted({name for name in names if names.count(name) > 1}))
        return dict(found)

    try:
        return Document(value=json.loads(text, object_pairs_hook=pairs), line=0, lines={}, doubled=tuple(doubled))
    except (ValueError, RecursionError):
        return None


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
        read = Read()
        for index, item in enumerate(value["items"]):
            own = {"apiVersion": value.get("apiVersion"), "kind": kind[:-4]} if kind != "List" else {}
            body = {**own, **item} if isinstance(item, dict) else item
            below = {
                path[len(f"items[{index}]") + 1 :]: at
                for path, at in lines.items()
                if path.startswith(f"items[{index}]")
            }
            read += _unrolled(body, below, below.get("", line), source, strict=True)
        return read
    return Read(resources=(Resource(body=value, source=source, lines={**lines, **({"": line} if line else {})}),))
