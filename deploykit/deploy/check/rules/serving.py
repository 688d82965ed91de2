"""Rules on the model: whether it is where the command looks for it, and whether it is the one that is meant."""

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import PurePosixPath
from typing import Any, Final

from deploykit.config import EngineConfig
from deploykit.deploy.check.commands import Server, parse
from deploykit.deploy.check.finding import Finding
from deploykit.deploy.check.manifests import Container, Manifests, Pods, mapping, sequence
from deploykit.deploy.check.volumes import Mount, holds, mounted_at, mounts
from deploykit.deploy.check.workloads import servers, stays
from deploykit.deploy.facts import ModelFacts
from deploykit.errors import ConfigError
from deploykit.sizes import parse_bytes

_ENGINE: Final = "DEPLOYKIT_ENGINE"
_MODEL_IN_PATH: Final = re.compile(r"/v2/models/([^/]+)")
_HEX: Final = re.compile(r"[0-9a-f]{64}")


def models_empty(manifests: Manifests, _facts: ModelFacts | None) -> Iterator[Finding]:
    """An empty volume where a server looks for its model, and nothing that fills it."""
    for pods, container, _, path, mount in _read(manifests):
        if mount.source == "emptyDir" and not _fillers(pods, container, mount):
            why = (
                f"it begins empty, hides what the image has at {path}, and no init container writes to it: no model "
                "is found"
            )
            remedy = "add an init container that does (deploykit pull … -o), or take the mount out"
            yield pods.resource.find("models-empty", mount.field, mount.path, why, remedy)


def models_hidden(manifests: Manifests, _facts: ModelFacts | None) -> Iterator[Finding]:
    """Settings, keys or memory mounted where a server looks for its model: it finds those instead."""
    for pods, _, _, path, mount in _read(manifests):
        if mount.source in ("configMap", "secret", "downwardAPI"):
            why = f"it hides what is at {path}, and a {mount.source} can't hold a model"
            yield pods.resource.find("models-hidden", mount.field, mount.path, why, "mount it elsewhere")


def models_not_shared(manifests: Manifests, _facts: ModelFacts | None) -> Iterator[Finding]:
    """A model that is downloaded to one place and looked for in another."""
    for pods in manifests.pods():
        for container, output, server in _downloads(pods):
            mount = mounted_at(pods, container, output)
            field = f"{container.path}.{server.field('-o') if '-o' in server.options else server.field('--output')}"
            if mount is None:
                if container.kind == "initContainers":
                    why = "no volume is mounted there, so that it is gone with the init container"
                    yield pods.resource.find("models-not-shared", field, output, why, "mount an emptyDir there")
            elif not _is_read(pods, mount, output):
                looked = ", ".join(f"{path} of {each.name}" for each, path in _looked_for(pods)) or "nowhere"
                if any(_looked_for(pods)):
                    why = (
                        f"volume {mount.name!r} isn't mounted where the model is looked for ({looked}): it isn't found"
                    )
                    yield pods.resource.find("models-not-shared", field, output, why, "mount the volume there")


def download_read_only(manifests: Manifests, _facts: ModelFacts | None) -> Iterator[Finding]:
    """A download to a place that can't be written."""
    for pods in manifests.pods():
        for container, output, _ in _downloads(pods):
            mount = mounted_at(pods, container, output)
            if mount is not None and mount.is_read_only:
                why = f"deploykit pull writes to {output}, which it can't: the pod never starts"
                yield pods.resource.find("download-read-only", mount.field, mount.path, why, "mount it writable here")


def download_beside_servers(manifests: Manifests, _facts: ModelFacts | None) -> Iterator[Finding]:
    """A download beside the server instead of before it: they start together, and it ends and starts again."""
    for pods in manifests.pods():
        for container, _, _ in _downloads(pods):
            if container.kind == "containers" and any(servers(pods)):
                why = (
                    "containers of a pod start together: the server finds no model, and the download is repeated for "
                    "ever"
                )
                yield pods.resource.find(
                    "download-beside-servers", container.path, container.name, why, "move it to initContainers"
                )


def fingerprint_differs(manifests: Manifests, facts: ModelFacts | None) -> Iterator[Finding]:
    """A fingerprint that isn't the artifact's: the download is refused."""
    for pods in manifests.pods():
        for container in pods.containers:
            server = parse(container)
            option = server.options.get("--fingerprint") if server else None
            if server is None or option is None or option.value is None:
                continue
            field = f"{container.path}.{option.field}"
            if not _HEX.fullmatch(option.text):
                why = "a fingerprint is 64 hexadecimal digits: the download is refused"
                yield pods.resource.find("fingerprint-differs", field, option.text, why, "copy all of it")
            elif facts is not None and option.text != facts.fingerprint:
                why = f"the artifact's is {facts.fingerprint}: the download is refused"
                yield pods.resource.find("fingerprint-differs", field, option.text, why, "write that one")


def model_path_relative(manifests: Manifests, _facts: ModelFacts | None) -> Iterator[Finding]:
    """A relative path of a model: it depends on the image's working directory."""
    for pods in manifests.pods():
        for container, server in servers(pods, "serve", "gateway"):
            for path in server.models:
                if not path.startswith("/") and not container.body.get("workingDir"):
                    why = "it is looked for in the image's working directory, which the manifest doesn't say"
                    yield pods.resource.find(
                        "model-path-relative",
                        f"{container.path}.args",
                        path,
                        why,
                        "write it from / on",
                        level="warning",
                    )


def other_model_in_route(manifests: Manifests, facts: ModelFacts | None) -> Iterator[Finding]:
    """A route, an ingress or a probe for another model than the one that is served."""
    for resource in manifests.of_kind("HTTPRoute", "Ingress") if facts else ():
        assert facts is not None
        for field, text in _texts(resource.body.get("spec"), "spec"):
            found = _MODEL_IN_PATH.search(text)
            if found and found[1] != facts.name and re.fullmatch(r"[A-Za-z0-9._-]+", found[1]):
                why = f"the model that is served is called {facts.name}: requests are answered with 404"
                yield resource.find("other-model-in-route", field, text, why, f"write /v2/models/{facts.name}")


def engine_settings(manifests: Manifests, _facts: ModelFacts | None) -> Iterator[Finding]:
    """Settings of the engine in a variable that it can't read, or refuses: the model doesn't load."""
    for pods in manifests.pods():
        for container, _ in servers(pods, "serve", "tritonserver"):
            for index, entry in enumerate(map(mapping, sequence(container.body.get("env")))):
                value = entry.get("value")
                if entry.get("name") != _ENGINE or not isinstance(value, str) or "$(" in value:
                    continue
                if problem := _engine_problem(value):
                    field, why = f"{container.path}.env[{index}].value", f"{problem}: the model doesn't load"
                    yield pods.resource.find("engine-settings", field, value, why, "correct it, or take it out")


def cache_below_one_request(manifests: Manifests, facts: ModelFacts | None) -> Iterator[Finding]:
    """A cache that holds less than one request at its longest: such requests are refused."""
    for pods in manifests.pods() if facts else ():
        assert facts is not None
        for container, server in servers(pods, "serve"):
            engine, cache = server.engine, facts.memory.get("cache")
            if engine is None or engine.cache_memory is None or not cache:
                continue
            row = cache * (engine.max_context or facts.context) // max(1, facts.rows * facts.context)
            if engine.cache_memory < row:
                yield pods.resource.find(
                    "cache-below-one-request", f"{container.path}.{server.field('--cache-memory')}",
                    engine.cache_memory,
                    f"one request of {engine.max_context or facts.context} tokens takes {row} bytes of keys and values",
                    "write more, or a smaller --max-context", level="warning",
                )  # fmt: skip


def _read(manifests: Manifests) -> Iterator[tuple[Pods, Container, Server, str, Mount]]:
    """Yield what is mounted where servers look for their models."""
    for pods in manifests.pods():
        for container, server in servers(pods):
            for path in server.models:
                mount = mounted_at(pods, container, path)
                if mount is not None and path.startswith("/"):
                    yield pods, container, server, path, mount


def _fillers(pods: Pods, reader: Container, mount: Mount) -> list[Container]:
    """Return the other containers that can write to a volume."""
    return [
        container
        for container in pods.containers
        if container.path != reader.path
        and any(each.name == mount.name and each.body.get("readOnly") is not True for each in mounts(pods, container))
        and not (stays(container) and parse(container) is not None)
    ]


def _downloads(pods: Pods) -> Iterator[tuple[Container, str, Server]]:
    for container in pods.containers:
        server = parse(container)
        if server is not None and server.kind == "pull" and server.output:
            yield container, server.output, server


def _looked_for(pods: Pods) -> list[tuple[Container, str]]:
    return [(container, path) for container, server in servers(pods) for path in server.models]


def _is_read(pods: Pods, mount: Mount, output: str) -> bool:
    """Return whether a server looks into the volume that was written to, where it was written."""
    inner = PurePosixPath(output).relative_to(PurePosixPath(mount.path))
    for container, path in _looked_for(pods):
        seen = mounted_at(pods, container, path)
        if seen is not None and seen.name == mount.name:
            there = PurePosixPath(path).relative_to(PurePosixPath(seen.path))
            if holds(f"/{there}", f"/{inner}") or holds(f"/{inner}", f"/{there}") or mount.body.get("subPath"):
                return True
    return False


def _texts(value: object, path: str) -> Iterator[tuple[str, str]]:
    if isinstance(value, str):
        yield path, value
    pairs: Mapping[Any, Any] = value if isinstance(value, dict) else {}
    for key, each in pairs.items():
        yield from _texts(each, f"{path}.{key}")
    for index, each in enumerate(sequence(value)):
        yield from _texts(each, f"{path}[{index}]")


def _engine_problem(text: str) -> str | None:
    """Return why the engine refuses its settings, None where it takes them."""
    try:
        settings = json.loads(text)
    except ValueError:
        return "it is no JSON"
    if not isinstance(settings, dict):
        return "it is no JSON object"
    if unknown := sorted(set(settings) - set(EngineConfig.__dataclass_fields__)):
        return f"the engine has no setting {', '.join(unknown)}"
    try:
        if isinstance(settings.get("cache_memory"), str):
            settings["cache_memory"] = parse_bytes(settings["cache_memory"])
        EngineConfig(**settings)
    except (ConfigError, TypeError) as error:
        return str(error)
    return None


RULES: Final = (
    models_empty, models_hidden, models_not_shared, download_read_only, download_beside_servers, fingerprint_differs,
    model_path_relative, other_model_in_route, engine_settings, cache_below_one_request,
)  # fmt: skip
