"""Kustomize's own objects: what builds on what, and what is changed on the way.

https://kubectl.docs.kubernetes.io/references/kustomize/kustomization/
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from deploykit.deploy.yaml_text import Document

FILE: Final = "kustomization.yaml"


@dataclass(frozen=True, kw_only=True)
class Patch:
    """A change of objects that come from elsewhere."""

    file: str
    """The name of its file, beside the kustomization."""
    body: Mapping[str, Any] | Sequence[Mapping[str, Any]]
    """What is merged in, with `apiVersion`, `kind` and `metadata.name`; or operations of a JSON patch (RFC 6902)."""
    kind: str
    """Of the object that it changes."""
    name: str
    """Of the object that it changes."""
    annotation: str | None = None
    """`KEY=VALUE` that the object must have to be changed. One without it is no error."""

    def to_dict(self) -> dict[str, Any]:
        """Return the entry of a kustomization's `patches`."""
        target = {"kind": self.kind, "name": self.name, "annotationSelector": self.annotation}
        return {"path": self.file, "target": _given(target)}


def merge(
    file: str,
    kind: Mapping[str, str],
    name: str,
    *,
    spec: Mapping[str, Any] | None = None,
    metadata: Mapping[str, Any] | None = None,
    annotation: str | None = None,
) -> Patch:
    """Return a patch that is merged into one object: lists by their keys (containers by name), null deletes.

    Args:
        file: the name of its file.
        kind: `apiVersion` and `kind`, as `names.kind_of` gives them.
        name: the object's name.
        spec: what to merge into its `spec`.
        metadata: what to merge into its `metadata`.
        annotation: `KEY=VALUE` that the object must have to be changed.
    """
    body = {**kind, "metadata": {"name": name, **(metadata or {})}, "spec": spec}
    return Patch(file=file, body=_given(body), kind=kind["kind"], name=name, annotation=annotation)


@dataclass(frozen=True, kw_only=True)
class Image:
    """Which of an image's versions runs, wherever its name stands."""

    name: str
    tag: str | None = None
    digest: str | None = None

    @classmethod
    def parse(cls, reference: str) -> "Image":
        """Return what REPO@sha256:DIGEST or REPO:TAG says; of both, the digest counts, as it does for a node."""
        named, _, digest = reference.partition("@")
        folder, slash, last = named.rpartition("/")
        repository, _, tag = last.partition(":")
        return cls(name=folder + slash + repository, tag=None if digest else tag, digest=digest or None)

    def to_dict(self) -> dict[str, Any]:
        """Return the entry of a kustomization's `images`."""
        return _given({"name": self.name, "newTag": self.tag, "digest": self.digest})


@dataclass(frozen=True, kw_only=True)
class Kustomization:
    """What is applied together."""

    resources: Sequence[str] = ()
    """Files, and folders of other kustomizations."""
    components: Sequence[str] = ()
    """Folders of components, in the order in which they change what comes before."""
    namespace: str | None = None
    images: Sequence[Image] = ()

    def to_dict(self) -> dict[str, Any]:
        """Return it as plain values, fields left out that are empty."""
        return {
            "apiVersion": "kustomize.config.k8s.io/v1beta1",
            "kind": "Kustomization",
            **_given(
                {
                    "namespace": self.namespace,
                    "resources": list(self.resources),
                    "components": list(self.components),
                    "images": [image.to_dict() for image in self.images],
                }
            ),
        }


@dataclass(frozen=True, kw_only=True)
class Component:
    """A part that overlays may add: objects of its own, and changes of the base's."""

    name: str
    """The name of its folder below `components/`."""
    resources: Mapping[str, Sequence[Document]] = field(default_factory=dict)
    """Its objects, by the name of the file they stand in."""
    namespace: str | None = None
    """Of its objects."""
    patches: Sequence[Patch] = ()
    comment: str = ""
    """Why it is there, at the head of its kustomization."""

    def to_dict(self) -> dict[str, Any]:
        """Return its kustomization as plain values."""
        return {
            "apiVersion": "kustomize.config.k8s.io/v1alpha1",
            "kind": "Component",
            **_given(
                {
                    "namespace": self.namespace,
                    "resources": list(self.resources),
                    "patches": [patch.to_dict() for patch in self.patches],
                }
            ),
        }


def _given(values: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in values.items() if value is not None and value != []}
