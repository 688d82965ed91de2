"""Manifests in, findings out."""

import json
import re
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import deploykit.deploy.check.kustomization_rules as kustomization_rules
from deploykit.deploy.check.finding import Finding
from deploykit.deploy.check.kustomizing import (
    Kustomization,
    find_kustomizations,
    is_here,
    kustomization_file,
    remote_bases,
    render,
    renderer,
    roots,
)
from deploykit.deploy.check.manifests import Manifests, Resource
from deploykit.deploy.check.reading import (
    STDIN,
    Read,
    UnreadableError,
    qualified,
    read_file,
    read_folder,
    read_stdin,
    text_of,
    told,
)
from deploykit.deploy.check.rules import RULES
from deploykit.deploy.facts import FILE, ModelFacts
from deploykit.errors import ConfigError

_PARENTS: Final = 4
"""Folders above a checked one that may hold the facts: a file in base/, or overlays/cpu/."""


@dataclass(frozen=True, kw_only=True)
class Checked:
    """What a check found."""

    findings: tuple[Finding, ...]
    """In the order of the objects and their fields; what several overlays share stands there once."""
    objects: int
    """Different objects that were looked at."""
    sources: tuple[str, ...]
    """Overlays, files and folders that were checked each as a whole."""
    facts: ModelFacts | None
    """What was known of the model."""

    @property
    def errors(self) -> int:
        """Findings that break something."""
        return sum(finding.level == "error" for finding in self.findings)

    @property
    def warnings(self) -> int:
        """Findings that may be meant."""
        return len(self.findings) - self.errors

    def failed(self, *, strict: bool = False) -> bool:
        """Return whether the manifests shouldn't be applied."""
        return bool(self.errors or (strict and self.warnings))

    def to_json(self) -> dict[str, Any]:
        """Return all of it as plain JSON values."""
        return {
            "errors": self.errors,
            "warnings": self.warnings,
            "objects": self.objects,
            "sources": list(self.sources),
            "model": self.facts.name if self.facts else None,
            "findings": [finding.to_json() for finding in self.findings],
        }


def check(paths: Sequence[Path | str], *, facts: ModelFacts | None = None, remote: bool = False) -> Checked:
    """Return what would break if what is at some paths were applied.

    Args:
        paths: files, folders, kustomizations, and `-` for standard input. Objects in plain files and folders are
            taken to be applied together, and together with each kustomization.
        facts: what is known of the model; read from the `deploykit.json` that lies beside the manifests where None.
        remote: whether kustomizations may fetch what they name on the network; a finding where not.

    Raises:
        ConfigError: nothing is at a path, its `deploykit.json` is damaged, or a kustomization is there and nothing
            that renders it.
    """
    facts = facts or next((known for path in paths if (known := find_facts(path))), None)
    plain, rendered = Read(), list[tuple[Kustomization, Read]]()
    kustomizations = list[Kustomization]()
    for path in paths:
        read, more, results = _read(path, remote=remote)
        plain += read
        kustomizations += more
        rendered += results
    sets = [_set([*plain.resources, *read.resources], each.title) for each, read in rendered if read.resources]
    if not rendered and plain.resources:
        sets = [_set(plain.resources, ", ".join(str(path) for path in paths))]
    found = [*plain.findings, *(finding for _, read in rendered for finding in read.findings)]
    found += _shared([(each.source, _checked(each, facts)) for each in sets])
    found += kustomization_rules.check(kustomizations, {each.folder: read.resources for each, read in rendered})
    every = {(r.api_version, r.title) for each in sets for r in each.resources}
    return Checked(
        findings=tuple(dict.fromkeys(found)),
        objects=len(every),
        sources=tuple(each.source for each in sets),
        facts=facts,
    )


def find_facts(path: Path | str) -> ModelFacts | None:
    """Return the facts in a `deploykit.json` beside a path or in a folder above it, None where there is none.

    Raises:
        ConfigError: there is one, and it can't be read.
    """
    if str(path) == STDIN:
        return None
    start = Path(path).resolve()
    for folder in [start, *start.parents][: _PARENTS + 1]:
        file = folder / FILE
        if file.is_file():
            try:
                return ModelFacts.from_json(json.loads(text_of(file))["model"])
            except (UnreadableError, ValueError, TypeError, KeyError, RecursionError) as error:
                raise ConfigError(
                    f"{file}: not as deploykit deploy wrote it ({type(error).__name__}: {error}); name the model by "
                    "--artifact, or write the manifests again"
                ) from None
    return None


def _read(path: Path | str, *, remote: bool) -> tuple[Read, list[Kustomization], list[tuple[Kustomization, Read]]]:
    """Return plain objects at a path, and the kustomizations there with what they come to."""
    if str(path) == STDIN:
        return read_stdin(), [], []
    place, source = Path(path), str(path).rstrip("/") or "/"
    if place.is_file():
        return read_file(place, source), [], []
    if not place.is_dir():
        raise ConfigError(f"{path}: no such file or folder; name manifests, or a folder that deploykit deploy wrote")
    found, read = find_kustomizations(place, source)
    if not found and not read.findings:
        return read_folder(place, source), [], []
    tops = roots(found)
    if kustomization_file(place) is None and not tops and not read.findings:
        read += Read(findings=(told(source, "", "no-objects", "it holds components alone", "add an overlay"),))
    if not remote:
        tops = [each for each in tops if is_here(each, found)]
        read += Read(findings=tuple(finding for each in found for finding in remote_bases(each)))
    command = renderer()
    # As many at once as there are cores: each is a process that reads a few files.
    with ThreadPoolExecutor(max_workers=4) as pool:
        results = list(pool.map(lambda each: render(each, command, remote=remote), tops))
    return read, found, list(zip(tops, results, strict=True))


def _set(resources: Sequence[Resource], source: str) -> Manifests:
    return Manifests(resources=tuple(qualified(resources)), source=source)


def _checked(manifests: Manifests, facts: ModelFacts | None) -> list[Finding]:
    """Return the findings of all rules, by object and field."""
    order = {resource.title: index for index, resource in reversed(list(enumerate(manifests.resources)))}
    found = dict.fromkeys(finding for rule in RULES for finding in rule(manifests, facts))
    return sorted(found, key=lambda each: (order.get(each.object, len(order)), _natural(each.field)))


def _natural(field: str) -> list[tuple[int, str]]:
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", field)]


def _shared(results: Sequence[tuple[str, Sequence[Finding]]]) -> Iterable[Finding]:
    """Return the findings of several overlays, those that they share once, naming the overlays."""
    where: dict[Finding, list[str]] = {}
    for source, findings in results:
        for finding in findings:
            # What comes from a plain file has its own source in every overlay.
            key = replace(finding, source="") if finding.source == source else finding
            where.setdefault(key, []).append(source)
    for key, sources in where.items():
        if key.source or len(results) == 1:
            yield replace(key, source=key.source or sources[0])
        else:
            yield replace(
                key, source=f"all of {', '.join(sources)}" if len(sources) == len(results) else ", ".join(sources)
            )
