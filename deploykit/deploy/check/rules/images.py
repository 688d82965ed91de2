"""Rules on images, and on what a container is told through its variables."""

import base64
import binascii
import re
from collections.abc import Iterator, Mapping
from typing import Any, Final

from deploykit.deploy.check.finding import Finding
from deploykit.deploy.check.manifests import Container, Manifests, Pods, mapping, sequence
from deploykit.deploy.check.workloads import servers
from deploykit.deploy.facts import ModelFacts
from deploykit.deploy.grammar import DIGEST
from deploykit.listening import is_loopback

_REPOSITORY: Final = re.compile(
    r"(?:(?:[A-Za-z0-9](?:[A-Za-z0-9-]*[A-Za-z0-9])?(?:\.[A-Za-z0-9](?:[A-Za-z0-9-]*[A-Za-z0-9])?)*|\[[0-9a-fA-F:]+\])(?::[0-9]+)?/)?"
    r"[a-z0-9]+(?:(?:\.|_{1,2}|-+)[a-z0-9]+)*(?:/[a-z0-9]+(?:(?:\.|_{1,2}|-+)[a-z0-9]+)*)*"
)
_TAG: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}")
_PLACEHOLDER: Final = re.compile(r"[${}<>]")
_BUILT_LATER: Final = "ko://"
"""What stands before a program's path where ko builds the image and writes its name."""
_SECRET: Final = re.compile(r"(^|_)(PASSWORD|PASSWD|SECRET|TOKEN|API_?KEYS?|ACCESS_KEY|PRIVATE_KEY|CREDENTIALS)$")
_KEYS: Final = "DEPLOYKIT_API_KEYS"
_SHORTEST_KEY: Final = 8
"""Characters of a key of the gateway (deploykit.gateway.keys)."""


def image_name(manifests: Manifests, _facts: ModelFacts | None) -> Iterator[Finding]:
    """An image whose name, tag or digest can't be one: the kubelet says InvalidImageName."""
    for pods, container, image in _images(manifests):
        repository, tag, digest = _parts(image)
        if image.startswith(_BUILT_LATER):
            continue
        if not image or _PLACEHOLDER.search(image):
            why = "nothing stands for it in the manifest" if image else "a container needs an image"
            remedy = "write the image's name"
        elif not _REPOSITORY.fullmatch(repository):
            why, remedy = "a repository is written in small letters, digits, '.', '_', '-' and '/'", "write it so"
        elif digest is not None and not DIGEST.fullmatch(digest):
            why, remedy = "a digest is sha256: and 64 hexadecimal digits", "copy all of it"
        elif tag is not None and not _TAG.fullmatch(tag):
            why, remedy = "a tag has up to 128 letters, digits, '.', '_' and '-'", "write such a tag"
        else:
            continue
        why = f"{why}: the kubelet says InvalidImageName"
        yield pods.resource.find("image-name", f"{container.path}.image", image, why, remedy)


def image_moves(manifests: Manifests, _facts: ModelFacts | None) -> Iterator[Finding]:
    """An image without tag or digest, or `latest`: what runs depends on when a node has pulled it."""
    for pods, container, image in _images(manifests):
        _, tag, digest = _parts(image)
        if digest is None and tag in (None, "latest") and image and not image.startswith(_BUILT_LATER):
            kept = container.body.get("imagePullPolicy") in ("IfNotPresent", "Never")
            beside = ", and with this imagePullPolicy nodes keep different ones" if kept else ""
            why = (
                f"{'no tag means latest, which' if tag is None else 'latest'} is another image from day to day{beside}"
            )
            yield pods.resource.find(
                "image-moves", f"{container.path}.image", image, why, "write a digest or a version", level="warning"
            )


def secret_in_the_open(manifests: Manifests, _facts: ModelFacts | None) -> Iterator[Finding]:
    """A password or key as a plain variable: whoever may read the manifests has it."""
    for pods, container, index, entry in _variables(manifests):
        name, value = str(entry.get("name")), entry.get("value")
        if isinstance(value, str) and value and _SECRET.search(name.upper()) and not value.startswith(("$(", "/")):
            field = f"{container.path}.env[{index}].value"
            why = f"{name} looks like a secret, and whoever may read the manifests has it"
            remedy = "keep it in a Secret: valueFrom: {secretKeyRef: …}"
            yield pods.resource.find("secret-in-the-open", field, "…", why, remedy, level="warning")


def gateway_keys(manifests: Manifests, _facts: ModelFacts | None) -> Iterator[Finding]:
    """Keys for the gateway that it refuses: none at all, or one that is too short."""
    for pods, container, index, entry in _variables(manifests):
        if entry.get("name") != _KEYS or not isinstance(entry.get("value"), str) or "$(" in entry["value"]:
            continue
        if not any(each.path == container.path for each, _ in servers(pods, "gateway", "serve")):
            continue
        keys = [key.strip().rpartition(":")[2] for key in entry["value"].split(",") if key.strip()]
        field = f"{container.path}.env[{index}].value"
        if not keys:
            why = "a variable that is set and empty is an error: the gateway doesn't start"
            yield pods.resource.find("gateway-keys", field, "", why, "write keys into a Secret, or take it out")
        elif any(len(key) < _SHORTEST_KEY for key in keys):
            why = f"a key has {_SHORTEST_KEY} characters at least: the gateway doesn't start"
            yield pods.resource.find("gateway-keys", field, "…", why, "write longer ones")


def gateway_open(manifests: Manifests, _facts: ModelFacts | None) -> Iterator[Finding]:
    """A gateway without keys that the pod's network reaches: whoever does may generate text."""
    for pods in manifests.pods():
        for container, server in servers(pods, "gateway", "serve"):
            host = server.hosts.get("openai")
            if "openai" in server.ports and host is not None and not is_loopback(host) and not server.guarded:
                yield pods.resource.find(
                    "gateway-open", f"{container.path}.env", None,
                    "neither --api-keys nor DEPLOYKIT_API_KEYS is set: the gateway answers everybody who reaches it",
                    "take DEPLOYKIT_API_KEYS from a Secret", level="warning",
                )  # fmt: skip


def secret_not_base64(manifests: Manifests, _facts: ModelFacts | None) -> Iterator[Finding]:
    """A value under a Secret's `data` that isn't base64: the API server refuses it."""
    for secret in manifests.of_kind("Secret"):
        for key, value in mapping(secret.body.get("data")).items():
            if isinstance(value, str) and not _is_base64(value):
                why = "values under data are base64; the API server refuses it"
                yield secret.find("secret-not-base64", f"data.{key}", "…", why, "write it under stringData, as it is")


def _is_base64(text: str) -> bool:
    try:
        base64.b64decode("".join(text.split()), validate=True)
    except (binascii.Error, ValueError):
        return False
    return True


def _parts(image: str) -> tuple[str, str | None, str | None]:
    """Return repository, tag and digest."""
    rest, at, digest = image.partition("@")
    slash = rest.rfind("/")
    colon = rest.find(":", slash + 1)
    return (
        (rest, None, digest if at else None) if colon < 0 else (rest[:colon], rest[colon + 1 :], digest if at else None)
    )


def _images(manifests: Manifests) -> Iterator[tuple[Pods, Container, str]]:
    for pods in manifests.pods():
        for container in pods.containers:
            if isinstance(container.body.get("image"), str):
                yield pods, container, container.body["image"]


def _variables(manifests: Manifests) -> Iterator[tuple[Pods, Container, int, Mapping[str, Any]]]:
    for pods in manifests.pods():
        for container in pods.containers:
            for index, entry in enumerate(map(mapping, sequence(container.body.get("env")))):
                yield pods, container, index, entry


RULES: Final = (image_name, image_moves, secret_in_the_open, gateway_keys, gateway_open, secret_not_base64)
