"""Rules on single values that the API server, a node or a command refuses."""

import re
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any, Final

from deploykit.deploy.check.amounts import whole
from deploykit.deploy.check.finding import Finding
from deploykit.deploy.check.manifests import Manifests, mapping, sequence
from deploykit.deploy.check.words import is_known, words
from deploykit.deploy.check.workloads import behind, listeners, port_number
from deploykit.deploy.facts import ModelFacts
from deploykit.deploy.grammar import DIGEST

_MOST: Final = 0o777
_FIELDS: Final = re.compile(
    r"metadata\.(name|namespace|uid|labels|annotations|(labels|annotations)\['[^']+'\])|"
    r"spec\.(nodeName|serviceAccountName)|status\.(hostIP|hostIPs|podIP|podIPs)"
)
"""https://kubernetes.io/docs/concepts/workloads/pods/downward-api/#available-fields."""
_ADDRESS: Final = re.compile(r"[0-9a-fA-F:.]*[:.][0-9a-fA-F:.]*")
_SLEEP: Final = re.compile(r"(\d+\.?\d*|\.\d+)[smhd]?|infinity")
"""What sleep of a Linux distribution takes."""


def file_mode(manifests: Manifests, _facts: ModelFacts | None) -> Iterator[Finding]:
    """Permissions of a volume's files that can't be, as 644 without the 0 of octal numbers, or that let nobody read."""
    for pods in manifests.pods():
        for index, volume in enumerate(map(mapping, sequence(pods.spec.get("volumes")))):
            for path, holder in _moded(volume, f"{pods.path}.volumes[{index}]"):
                for field in ("defaultMode", "mode"):
                    mode = whole(holder.get(field))
                    if mode is None or 0 < mode <= _MOST:
                        continue
                    digits = str(mode)
                    octal = digits if len(digits) == 3 and set(digits) <= set("01234567") else "440"
                    why = (
                        f"permissions are 0 to {_MOST} (0777); the API server refuses it"
                        if mode
                        else "nobody may read the files"
                    )
                    yield pods.resource.find(
                        "file-mode", f"{path}.{field}", mode, why, f"write 0{octal}, or {int(octal, 8)} in JSON"
                    )


def variable_of_unknown_field(manifests: Manifests, _facts: ModelFacts | None) -> Iterator[Finding]:
    """A variable from a field of the pod that isn't given to variables: the API server refuses it."""
    for pods in manifests.pods():
        for container in pods.containers:
            for index, entry in enumerate(map(mapping, sequence(container.body.get("env")))):
                path = mapping(mapping(entry.get("valueFrom")).get("fieldRef")).get("fieldPath")
                if isinstance(path, str) and not _FIELDS.fullmatch(path):
                    field = f"{container.path}.env[{index}].valueFrom.fieldRef.fieldPath"
                    yield pods.resource.find(
                        "variable-of-unknown-field", field, path,
                        "no such field can be given to a variable; the API server refuses it",
                        "write metadata.name, metadata.namespace, spec.nodeName or status.podIP",
                    )  # fmt: skip


def cluster_ip(manifests: Manifests, _facts: ModelFacts | None) -> Iterator[Finding]:
    """A Service's address that is none: the API server refuses it."""
    for service in manifests.of_kind("Service"):
        value = service.spec.get("clusterIP")
        if isinstance(value, str) and value not in ("", "None") and not _ADDRESS.fullmatch(value):
            why = "it is an address, or None with a capital letter for a headless Service; the API server refuses it"
            yield service.find("cluster-ip", "spec.clusterIP", value, why, "write clusterIP: None")


def image_volume(manifests: Manifests, _facts: ModelFacts | None) -> Iterator[Finding]:
    """A volume from an image that is named nowhere, or by a digest that can't be: its pods don't start."""
    for pods in manifests.pods():
        for index, volume in enumerate(map(mapping, sequence(pods.spec.get("volumes")))):
            if not isinstance(volume.get("image"), dict):
                continue
            reference = volume["image"].get("reference")
            field = f"{pods.path}.volumes[{index}].image.reference"
            if not reference:
                why = "a volume from an image wants one; the API server refuses it"
                yield pods.resource.find("image-volume", field, None, why, "add reference: REPOSITORY@DIGEST")
            elif "@" in str(reference) and not DIGEST.fullmatch(str(reference).rpartition("@")[2]):
                why = "a digest is sha256: and 64 of 0-9a-f: the image can't be pulled"
                yield pods.resource.find("image-volume", field, reference, why, "write the whole digest")


def pause_unreadable(manifests: Manifests, _facts: ModelFacts | None) -> Iterator[Finding]:
    """A hook that sleeps for a time that sleep can't read: it fails at once, and there is no pause."""
    for pods in manifests.pods():
        for container in pods.containers:
            hook = mapping(mapping(mapping(container.body.get("lifecycle")).get("preStop")).get("exec"))
            command = [str(word) for word in sequence(hook.get("command"))]
            if len(command) < 2 or command[0].rpartition("/")[2] != "sleep":
                continue
            for index, word in enumerate(command[1:], 1):
                if not _SLEEP.fullmatch(word) and is_known(word) and not word.startswith("-"):
                    yield pods.resource.find(
                        "pause-unreadable", f"{container.path}.lifecycle.preStop.exec.command[{index}]", word,
                        "sleep doesn't take that: the hook fails at once, and the container ends without a pause",
                        "write seconds alone",
                    )  # fmt: skip


def rule_labels(manifests: Manifests, _facts: ModelFacts | None) -> Iterator[Finding]:
    """A label or an annotation of an alert that is no text: the API server refuses it."""
    for resource in manifests.of_kind("PrometheusRule"):
        for index, group in enumerate(map(mapping, sequence(resource.spec.get("groups")))):
            for place, rule in enumerate(map(mapping, sequence(group.get("rules")))):
                for kind in ("labels", "annotations"):
                    for key, value in mapping(rule.get(kind)).items():
                        field = f"spec.groups[{index}].rules[{place}].{kind}.{key}"
                        if not isinstance(value, str):
                            why = "values are texts here; the API server refuses it"
                            yield resource.find("rule-labels", field, value, why, f"write '{value}'")
                        elif value.count("{{") != value.count("}}"):
                            why = "a template's braces aren't closed: Prometheus refuses the group"
                            yield resource.find("rule-labels", field, value, why, "write {{ … }}")


def flag_twice(manifests: Manifests, _facts: ModelFacts | None) -> Iterator[Finding]:
    """A flag of deploykit that is given twice: the first of them is lost."""
    for pods in manifests.pods():
        for container in pods.containers:
            given = words(container)
            if not given or given[0].text.rpartition("/")[2] != "deploykit":
                continue
            flags = [(word, word.text.partition("=")[0]) for word in given if word.text.startswith("--")]
            counts = Counter(flag for _, flag in flags if flag != "--cors-origin")
            for word, flag in {flag: (word, flag) for word, flag in flags if counts[flag] > 1}.values():
                yield pods.resource.find(
                    "flag-twice", f"{container.path}.{word.field}", word.text,
                    f"{flag} is given {counts[flag]} times, and this one holds", "take the others out",
                    level="warning",
                )  # fmt: skip


def app_protocol(manifests: Manifests, _facts: ModelFacts | None) -> Iterator[Finding]:
    """A Service's port that promises another protocol than what listens there speaks."""
    for service in manifests.of_kind("Service"):
        for index, port in enumerate(map(mapping, sequence(service.spec.get("ports")))):
            promised = str(port.get("appProtocol") or "")
            for pods in behind(manifests, service):
                number = port_number(pods, port.get("targetPort", port.get("port")))
                for _, _, name in listeners(pods, number) if number else ():
                    speaks = "kubernetes.io/h2c" if name == "grpc" else "http"
                    wrong = ("http", "https") if name == "grpc" else ("kubernetes.io/h2c", "grpc", "https")
                    if promised in wrong:
                        yield service.find(
                            "app-protocol", f"spec.ports[{index}].appProtocol", promised,
                            f"it sends to port {name} ({number}) of {pods.resource.title}, which doesn't speak that: "
                            "gateways and meshes that go by it get no answer",
                            f"write {speaks}, or send to another port", level="warning",
                        )  # fmt: skip


def _moded(volume: Mapping[str, Any], path: str) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Yield the parts of a volume that may set permissions."""
    for kind in ("secret", "configMap", "downwardAPI", "projected"):
        source = mapping(volume.get(kind))
        yield f"{path}.{kind}", source
        for index, item in enumerate(map(mapping, sequence(source.get("items")))):
            yield f"{path}.{kind}.items[{index}]", item


RULES: Final = (
    file_mode, variable_of_unknown_field, cluster_ip, image_volume, pause_unreadable,
    rule_labels, flag_twice, app_protocol,
)  # fmt: skip
