"""Kustomizations: which there are, what they name, and what they come to."""

import json
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Final

from deploykit.deploy.check.finding import Finding
from deploykit.deploy.check.manifests import Resource, mapping, sequence
from deploykit.deploy.check.reading import (
    KUSTOMIZATIONS,
    MOST_BYTES,
    Read,
    UnreadableError,
    read_file,
    read_text,
    text_of,
    told,
)
from deploykit.deploy.check.yaml_nodes import YamlError, documents
from deploykit.errors import ConfigError

_TIMEOUT: Final = 120
"""Seconds for one rendering; a base somewhere on the network takes the longest."""
_NAMING: Final = (
    "resources",
    "bases",
    "components",
    "crds",
    "configurations",
    "generators",
    "transformers",
    "validators",
)
"""Fields that list files and folders."""
_REMOTE: Final = re.compile(
    r"://|\?(?:ref|version|timeout|submodules)=|^(?:git::|gh:|[\w.-]+@[\w.-]+[:/]|(?:www\.)?github\.com[:/])",
    re.IGNORECASE,
)
_HOST: Final = re.compile(r"[\w-]+(?:\.[\w-]+)*\.[a-z]{2,}(?::\d+)?/[\w.-]+/[\w.-]+(?:/|$|\.git)")
"""`host.example.com/group/repository`, which may be a folder as well."""
_NO_NETWORK: Final = {
    **dict.fromkeys(("HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy"), "http://127.0.0.1:9"),
    "NO_PROXY": "", "no_proxy": "", "GIT_ALLOW_PROTOCOL": "none", "GIT_TERMINAL_PROMPT": "0",
}  # fmt: skip
"""Variables under which nothing is fetched that a plugin's own file names."""
_KLOG: Final = re.compile(r"^[EFIW]\d{4} [\d:.]+\s+\d+ [^\]\s]+\] \"[^\"]*\" err=(\".*\")$", re.DOTALL)
"""How kubectl says that a command failed, after the time and the process's number."""
_MOST_SHOWN: Final = (200, 400)
"""Characters of a reason that are shown of its beginning and of its end, where the cause stands."""


@dataclass(frozen=True, kw_only=True)
class Kustomization:
    """A folder with a kustomization.yaml."""

    folder: Path
    source: str
    """What findings call its file."""
    resource: Resource
    """Its file as an object."""

    @property
    def title(self) -> str:
        """What findings call the folder."""
        return self.source.rpartition("/")[0] or "."

    @property
    def body(self) -> Mapping[str, Any]:
        """Its fields."""
        return self.resource.body

    @property
    def is_component(self) -> bool:
        """Whether it can only be part of others."""
        return self.resource.kind == "Component"

    @cached_property
    def entries(self) -> list[tuple[str, Path]]:
        """Fields that name a file or a folder, with the place that they name; addresses on the network left out."""
        return [
            (field, (self.folder / text).resolve())
            for field, text in self._texts()
            if text and "\0" not in text and not is_remote(text)
        ]

    @cached_property
    def remotes(self) -> list[tuple[str, str]]:
        """Fields that name a place on the network, with the place; a folder that is here under that name isn't one."""
        return [
            (field, text)
            for field, text in self._texts()
            if is_remote(text) or (_HOST.match(text) and not (self.folder / text).exists())
        ]

    @cached_property
    def folders(self) -> list[Path]:
        """Folders that it builds on, in order."""
        return [path for field, path in self.entries if field.partition("[")[0] in _NAMING and path.is_dir()]

    @cached_property
    def files(self) -> list[Path]:
        """Files that it names as resources."""
        return [path for field, path in self.entries if field.partition("[")[0] in _NAMING and path.is_file()]

    def _field(self, name: str) -> Any:
        """Return a field as kustomize finds it: in small letters and capitals alike."""
        return next((value for key, value in self.body.items() if key.lower() == name.lower()), None)

    def _texts(self) -> Iterator[tuple[str, str]]:
        for name in (*_NAMING, "patchesStrategicMerge"):
            for index, text in enumerate(sequence(self._field(name))):
                if _is_path(text):
                    yield f"{name}[{index}]", text
        for name in ("patches", "patchesJson6902", "replacements"):
            for index, entry in enumerate(map(mapping, sequence(self._field(name)))):
                if _is_path(entry.get("path")):
                    yield f"{name}[{index}].path", entry["path"]
        for name in ("configMapGenerator", "secretGenerator"):
            for index, entry in enumerate(map(mapping, sequence(self._field(name)))):
                yield from _generating(f"{name}[{index}]", entry)
        schema = mapping(self._field("openapi"))
        if _is_path(schema.get("path")):
            yield "openapi.path", schema["path"]


def _generating(field: str, entry: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield the files that a generator of ConfigMaps or Secrets reads."""
    for key in ("files", "envs"):
        for index, text in enumerate(sequence(entry.get(key))):
            if isinstance(text, str):
                yield f"{field}.{key}[{index}]", text.rpartition("=")[2]
    if _is_path(entry.get("env")):
        yield f"{field}.env", entry["env"]


def is_remote(text: str) -> bool:
    """Return whether kustomize would fetch what a text names, or clone it."""
    return _REMOTE.search(text.strip()) is not None


def _is_path(value: object) -> bool:
    """Return whether a text may be a path, not a document written in its place."""
    return isinstance(value, str) and "\n" not in value.strip() and not value.lstrip().startswith("{")


def kustomization_file(folder: Path) -> Path | None:
    """Return the file that makes a folder one for kustomize."""
    return next((folder / name for name in KUSTOMIZATIONS if (folder / name).is_file()), None)


def open_kustomization(folder: Path, source: str, name: str) -> tuple[Kustomization | None, Read]:
    """Return a folder's kustomization, None where it can't be read, and what was found while reading."""
    file = kustomization_file(folder)
    assert file is not None
    called = f"{source}/{file.name}"
    try:
        found = list(documents(text_of(file)))
    except YamlError as error:
        return None, Read(
            findings=(told(called, f"line {error.line}", "unreadable", error.why, "correct it", line=error.line),)
        )
    except UnreadableError as error:
        return None, Read(findings=(told(called, "", "unreadable", str(error), "write the file again"),))
    if len(found) != 1 or not isinstance(found[0].value, dict):
        return None, Read(findings=(told(called, "", "unreadable", "it isn't one mapping", "write a Kustomization"),))
    body = {"kind": "Kustomization", **found[0].value, "metadata": {"name": name}}
    resource = Resource(body=body, source=called, lines={**found[0].lines, "": found[0].line})
    doubled = tuple(
        told(called, name, "field-twice", "the field stands twice: one of them is lost", "take one out", line=line)
        for name, line in found[0].doubled
    )
    return Kustomization(folder=folder.resolve(), source=called, resource=resource), Read(findings=doubled)


def find_kustomizations(folder: Path, source: str) -> tuple[list[Kustomization], Read]:
    """Return all kustomizations of a folder and those below it, and those that they build on elsewhere."""
    here = folder.resolve()
    waiting = sorted({file.parent for name in KUSTOMIZATIONS for file in here.rglob(name) if ".git" not in file.parts})
    found: dict[Path, Kustomization] = {}
    read, seen = Read(), set[Path]()
    while waiting:
        each = waiting.pop(0)
        if each in seen or kustomization_file(each) is None:
            continue
        seen.add(each)
        kustomization, more = open_kustomization(
            each, _called(each, here, source), str(each.relative_to(here)) if each.is_relative_to(here) else each.name
        )
        read += more
        if kustomization is not None:
            found[each] = kustomization
            waiting += kustomization.folders
    return list(found.values()), read


def _called(folder: Path, here: Path, source: str) -> str:
    return (
        source
        if folder == here
        else f"{source}/{folder.relative_to(here)}"
        if folder.is_relative_to(here)
        else str(folder)
    )


def roots(kustomizations: Sequence[Kustomization]) -> list[Kustomization]:
    """Return those that somebody would apply: no other one builds on them."""
    used = {folder for each in kustomizations for folder in each.folders}
    return [each for each in kustomizations if not each.is_component and each.folder not in used]


def closure(kustomization: Kustomization, all_of_them: Sequence[Kustomization]) -> list[Kustomization]:
    """Return a kustomization and all that it builds on."""
    by_folder = {each.folder: each for each in all_of_them}
    found: dict[Path, Kustomization] = {}
    waiting = [kustomization.folder]
    while waiting:
        folder = waiting.pop()
        if folder in by_folder and folder not in found:
            found[folder] = by_folder[folder]
            waiting += by_folder[folder].folders
    return list(found.values())


def raw_objects(kustomizations: Sequence[Kustomization]) -> list[Resource]:
    """Return the objects in the files that kustomizations name, as they are before anything changes them."""
    files = {path: each for each in kustomizations for path in each.files}
    return [resource for path in files for resource in read_file(path, str(path), strict=False).resources]


def find_renderer() -> list[str] | None:
    """Return the command that renders a folder, None where there is none."""
    for command in (["kubectl", "kustomize"], ["kustomize", "build"]):
        if path := shutil.which(command[0]):
            return [path, command[1]]
    return None


def renderer() -> list[str]:
    """Return the command that renders a folder.

    Raises:
        ConfigError: neither kubectl nor kustomize is there.
    """
    if found := find_renderer():
        return found
    raise ConfigError(
        "a folder with a kustomization.yaml is rendered by kubectl or kustomize, and neither is on PATH; install one, "
        "or check what `kubectl kustomize DIR` prints: deploykit deploy --check -"
    )


def is_here(kustomization: Kustomization, all_of_them: Sequence[Kustomization]) -> bool:
    """Return whether all that a kustomization builds on is here, and was read."""
    parts = closure(kustomization, all_of_them)
    read = {each.folder for each in parts}
    return not any(each.remotes for each in parts) and all(
        folder in read or kustomization_file(folder) is None for each in parts for folder in each.folders
    )


def remote_bases(kustomization: Kustomization) -> Iterator[Finding]:
    """A kustomization that builds on something on the network: a check fetches nothing."""
    for field, text in kustomization.remotes:
        why = (
            "it lies on the network, a check fetches nothing, and what it comes to may change from one day to the next"
        )
        remedy = "keep a copy of it beside the kustomization and name that, or check with --remote if you trust it"
        yield kustomization.resource.find("remote-base", field, text, why, remedy)


def render(kustomization: Kustomization, command: Sequence[str], *, remote: bool = False) -> Read:
    """Return the objects that a kustomization comes to; that it comes to none is a finding."""
    try:
        with tempfile.TemporaryFile() as output:
            done = subprocess.run(  # noqa: S603 - what PATH has under that name
                [*command, str(kustomization.folder)],
                stdout=output,
                stderr=subprocess.PIPE,
                timeout=_TIMEOUT,
                check=False,
                stdin=subprocess.DEVNULL,
                env={**os.environ, **({} if remote else _NO_NETWORK)},
            )
            output.seek(0)
            found = output.read(MOST_BYTES + 1)
    except (OSError, subprocess.TimeoutExpired) as error:
        return Read(findings=(_failed(kustomization, f"it doesn't run: {error}"),))
    if len(found) > MOST_BYTES:
        return Read(findings=(_failed(kustomization, "it comes to more than 32 MiB"),))
    if done.returncode:
        return Read(findings=(_failed(kustomization, _reason(done.stderr.decode(errors="replace"), kustomization)),))
    read = read_text(found.decode(errors="replace"), kustomization.title)
    # Lines of what was rendered lead nobody anywhere.
    resources = tuple(Resource(body=each.body, source=each.source) for each in read.resources)
    if not resources and not read.findings:
        return Read(findings=(_failed(kustomization, "it comes to no object", rule="no-objects"),))
    return Read(resources=resources, findings=read.findings)


def _failed(kustomization: Kustomization, why: str, *, rule: str = "kustomize") -> Any:
    return told(
        kustomization.source, "", rule, why, "correct the kustomization: kubectl apply -k fails in the same way"
    )


def _reason(stderr: str, kustomization: Kustomization) -> str:
    """Return what kustomize says went wrong, paths as the user wrote them."""
    lines = [line for line in stderr.splitlines() if line.strip() and not line.startswith("# Warning")]
    text = " ".join(" ".join(_plain(line) for line in lines).split()).removeprefix("error: ").removeprefix("Error: ")
    text = re.sub(rf"{re.escape(str(kustomization.folder))}/?", "", text)
    first, last = _MOST_SHOWN
    if len(text) > first + last:
        text = f"{text[:first]} … {text[-last:]}"
    return f"kustomize refuses it: {text}" if text else "kustomize refuses it without a reason"


def _plain(line: str) -> str:
    """Return a line of kubectl's log as what it says."""
    found = _KLOG.match(line.strip())
    try:
        return str(json.loads(found[1])) if found else line
    except ValueError:
        return found[1].strip('"') if found else line
