"""Rules on places that a command names: folders of models, files of keys, object stores."""

from collections.abc import Iterator
from typing import Final

from deploykit.deploy.check.finding import Finding
from deploykit.deploy.check.manifests import Container, Manifests, Pods, Resource, mapping, sequence
from deploykit.deploy.check.rules.network import admits, isolating
from deploykit.deploy.check.volumes import Mount, mounted_at, mounts
from deploykit.deploy.check.words import is_known
from deploykit.deploy.check.workloads import servers
from deploykit.deploy.facts import ModelFacts

_STORES: Final = ("s3", "gs", "az", "abfss", "file")
"""What `deploykit pull` opens; a test holds it to pull's own list, which this package doesn't import."""
_MODELS: Final = ("image", "persistentVolumeClaim", "nfs", "csi", "ephemeral")
"""Volumes that come with something in them, and that aren't there for settings."""


def models_not_mounted(manifests: Manifests, _facts: ModelFacts | None) -> Iterator[Finding]:
    """A container that reads models where none of its volumes is, while the pod has them on one."""
    for pods in manifests.pods():
        for container, server in servers(pods, "serve", "gateway"):
            for folder in server.models:
                if not folder.startswith("/") or mounted_at(pods, container, folder) is not None:
                    continue
                if any(mount.path.startswith(f"{folder.rstrip('/')}/") for mount in mounts(pods, container)):
                    continue
                for why, sure in _elsewhere(pods, container, folder):
                    yield pods.resource.find(
                        "models-not-mounted", f"{container.path}.args", folder,
                        f"no volume of container {container.name!r} is mounted there, and {why}: unless the image has "
                        "models there, it ends at once",
                        f"mount that volume at {folder}, or name where it is mounted",
                        level="error" if sure else "warning",
                    )  # fmt: skip
                    break


def keys_not_mounted(manifests: Manifests, _facts: ModelFacts | None) -> Iterator[Finding]:
    """A file of API keys that no volume puts where the command reads it: the gateway ends at once."""
    for pods in manifests.pods():
        for container, server in servers(pods, "serve", "gateway"):
            path = server.options["--api-keys"].text if "--api-keys" in server.options else ""
            if not path.startswith("/") or not is_known(path):
                continue
            field = f"{container.path}.{server.field('--api-keys')}"
            mount = mounted_at(pods, container, path)
            secrets = [each for each in mounts(pods, container) if each.source == "secret"]
            if mount is None:
                where = ", ".join(each.path for each in secrets)
                why = f"no volume is mounted there{f', but a Secret at {where}' if where else ''}: it ends at once"
                yield pods.resource.find(
                    "keys-not-mounted", field, path, why, "name the file where its Secret is mounted",
                    level="error" if secrets else "warning",
                )  # fmt: skip
            elif files := _files(mount):
                inside = path.removeprefix(mount.path.rstrip("/")).strip("/")
                if inside not in files:
                    why = f"{mount.volume_field}.secret.items puts {', '.join(files)} there alone: it ends at once"
                    remedy = f"name one of those, or write path: {inside}"
                    yield pods.resource.find("keys-not-mounted", field, path, why, remedy)


def credentials_not_mounted(manifests: Manifests, _facts: ModelFacts | None) -> Iterator[Finding]:
    """A folder of credentials that no volume puts where `deploykit pull` reads it: it ends at once."""
    for pods in manifests.pods():
        for container, server in servers(pods, "pull"):
            path = server.options["--credentials"].text if "--credentials" in server.options else ""
            if path.startswith("/") and is_known(path) and mounted_at(pods, container, path) is None:
                where = ", ".join(each.path for each in mounts(pods, container) if each.source == "secret")
                why = f"no volume is mounted there{f', but a Secret at {where}' if where else ''}: it ends at once"
                yield pods.resource.find(
                    "credentials-not-mounted", f"{container.path}.{server.field('--credentials')}", path, why,
                    "name the folder where its Secret is mounted", level="error" if where else "warning",
                )  # fmt: skip


def pull_without_store(manifests: Manifests, _facts: ModelFacts | None) -> Iterator[Finding]:
    """A `deploykit pull` from what is no address of an object store: it ends at once."""
    for pods in manifests.pods():
        for container, server in servers(pods, "pull"):
            for url in server.models:
                scheme, _, rest = url.partition("://")
                if scheme not in _STORES or not rest.strip("/"):
                    yield pods.resource.find(
                        "pull-without-store", f"{container.path}.args", url,
                        f"that is no address of a store that deploykit pull opens ({', '.join(_STORES)}): it ends",
                        "write s3://BUCKET/PATH",
                    )  # fmt: skip


def policy_shuts_store(manifests: Manifests, _facts: ModelFacts | None) -> Iterator[Finding]:
    """A policy that doesn't let a `deploykit pull` out to its object store: it waits, and its pods don't start."""
    for pods in manifests.pods():
        policies = isolating(manifests, pods, "Egress")
        for container, server in servers(pods, "pull") if policies else ():
            remote = any(url.partition("://")[0] in _STORES[:-1] for url in server.models)
            if remote and not any(admits(policy, None, 443, "egress") for policy in policies):
                # A store of one's own may answer on another port, which a variable in a Secret may tell.
                other = any(_other_ports(policy) for policy in policies)
                yield policies[0].find(
                    "policy-shuts-store", "spec.egress", "",
                    f"container {container.name!r} of {pods.resource.title} pulls from {server.models[0]}, and no "
                    "policy lets it out to port 443: it doesn't come to its end",
                    "add a rule for the store's port, 443", level="warning" if other else "error",
                )  # fmt: skip


def _other_ports(policy: Resource) -> bool:
    ports = [
        mapping(port).get("port")
        for rule in sequence(policy.spec.get("egress"))
        for port in sequence(mapping(rule).get("ports"))
    ]
    return any(port not in (53, 5353, "dns", "dns-tcp") for port in ports)


def _elsewhere(pods: Pods, container: Container, folder: str) -> Iterator[tuple[str, bool]]:
    """Yield where the pod has its models, and whether that is certain."""
    for other, server in servers(pods, "serve", "gateway", "pull"):
        reads = server.models if server.kind != "pull" else (server.output or "",)
        if other.path != container.path and folder in reads and (mount := mounted_at(pods, other, folder)):
            yield f"{other.name!r} has them on volume {mount.name!r}", True
    for mount in mounts(pods, container):
        if mount.source in _MODELS:
            yield f"its volume {mount.name!r} is at {mount.path}", False


def _files(mount: Mount) -> list[str]:
    """Return the files of a Secret's volume, where they are chosen one by one."""
    return [str(mapping(item).get("path")) for item in sequence(mapping(mount.volume.get("secret")).get("items"))]


RULES: Final = (
    models_not_mounted, keys_not_mounted, credentials_not_mounted, pull_without_store, policy_shuts_store,
)  # fmt: skip
