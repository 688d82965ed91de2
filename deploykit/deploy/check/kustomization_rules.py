"""Rules on kustomizations: what kustomize itself passes over without a word."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from deploykit.deploy.check.finding import Finding
from deploykit.deploy.check.kustomizing import Kustomization, closure, raw_objects, roots
from deploykit.deploy.check.manifests import Resource, mapping, sequence
from deploykit.deploy.check.nearest import nearest
from deploykit.deploy.check.patterns import matches
from deploykit.deploy.check.reading import KUSTOMIZATIONS, manifest_files, read_file
from deploykit.deploy.check.selecting import selects

_DEPRECATED: Final[Mapping[str, str]] = {
    "bases": "resources",
    "commonLabels": "labels (with includeSelectors: true for what commonLabels did)",
    "patchesStrategicMerge": "patches",
    "patchesJson6902": "patches",
    "vars": "replacements",
    "imageTags": "images",
}
"""Fields that kustomize 5 warns of, and what took their place."""


@dataclass(frozen=True, kw_only=True)
class Tree:
    """Kustomizations that lie together, and what those come to that would be applied."""

    kustomizations: Sequence[Kustomization]
    rendered: Mapping[Path, Sequence[Resource]]

    def reached(self, kustomization: Kustomization) -> list[Resource] | None:
        """Return all objects that a kustomization may see, under their first names and their last ones.

        None where a part of them is elsewhere, or wasn't rendered.
        """
        found: list[Resource] = []
        for root in roots(self.kustomizations):
            parts = closure(root, self.kustomizations)
            if kustomization in parts:
                found += [*raw_objects(parts), *self.rendered.get(root.folder, ())]
                if not self.rendered.get(root.folder):
                    return None
        return found or None


KustomizationRule = Callable[[Tree], Iterator[Finding]]


def check(kustomizations: Sequence[Kustomization], rendered: Mapping[Path, Sequence[Resource]]) -> list[Finding]:
    """Return what is wrong with kustomizations, given what the topmost of them come to."""
    tree = Tree(kustomizations=kustomizations, rendered=rendered)
    return [finding for rule in RULES for finding in rule(tree)] if kustomizations else []


def unnamed_file(tree: Tree) -> Iterator[Finding]:
    """A file with objects beside a kustomization that doesn't name it: it is never applied."""
    named = {path for each in tree.kustomizations for _, path in each.entries}
    folders = {each.folder for each in tree.kustomizations}
    for each in tree.kustomizations:
        for path in manifest_files(each.folder):
            owner = next(folder for folder in path.parents if folder in folders)
            if owner != each.folder or path.name in KUSTOMIZATIONS or path in named:
                continue
            if read_file(path, path.name, strict=False).resources:
                why, remedy = "no kustomization names this file, so nothing of it is applied", "name it under resources"
                yield each.resource.find(
                    "unnamed-file", "resources", path.relative_to(each.folder), why, remedy, level="warning"
                )


def unused_component(tree: Tree) -> Iterator[Finding]:
    """A component that no kustomization uses."""
    used = {folder for each in tree.kustomizations for folder in each.folders}
    for each in tree.kustomizations:
        if each.is_component and each.folder not in used:
            why, remedy = "no kustomization uses this component", "name it under components of an overlay, or delete it"
            yield each.resource.find("unused-component", "", None, why, remedy, level="warning")


def entry_twice(tree: Tree) -> Iterator[Finding]:
    """A file or folder that a kustomization names twice: kustomize refuses to add an object again."""
    for each in tree.kustomizations:
        seen: dict[tuple[str, Path], str] = {}
        for field, path in each.entries:
            key = (field.partition("[")[0], path)
            if key in seen and not field.endswith(".path") and "Generator" not in field:
                value = path.name
                yield each.resource.find("entry-twice", field, value, f"{seen[key]} names it already", "take it out")
            seen.setdefault(key, field)


def deprecated_field(tree: Tree) -> Iterator[Finding]:
    """A field of a kustomization that kustomize will drop."""
    for each in tree.kustomizations:
        for name, instead in _DEPRECATED.items():
            if name in each.body:
                why = "kustomize has deprecated it, and a later release stops reading it"
                yield each.resource.find("deprecated-field", name, None, why, f"write {instead}", level="warning")


def _meant(kustomization: Kustomization, target: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return a patch's target without its selectors where those say when it counts: a component is used by several."""
    if kustomization.body.get("kind") != "Component":
        return target
    return {key: value for key, value in target.items() if key not in ("labelSelector", "annotationSelector")}


def patch_without_target(tree: Tree) -> Iterator[Finding]:
    """A patch whose target is no object: kustomize leaves it out without a word."""
    for each in tree.kustomizations:
        patches = list(enumerate(map(mapping, sequence(each.body.get("patches")))))
        if not any(patch.get("target") for _, patch in patches) or (reached := tree.reached(each)) is None:
            continue
        for index, patch in patches:
            target = mapping(patch.get("target"))
            if target and not any(_is_target(_meant(each, target), resource) for resource in reached):
                names = {f"{r.kind}/{r.name}" for r in reached if r.kind == target.get("kind")}
                there = (
                    f"{target.get('kind')} objects are {', '.join(sorted(names))}"
                    if names
                    else "there is none of its kind"
                )
                yield each.resource.find(
                    "patch-without-target", f"patches[{index}].target", _spelled(target),
                    f"it selects no object ({there}), so the patch changes nothing", "name an object that is there",
                )  # fmt: skip


def image_without_container(tree: Tree) -> Iterator[Finding]:
    """An entry of `images` whose name no container has: the image that it sets isn't used."""
    for each in tree.kustomizations:
        entries = list(enumerate(map(mapping, sequence(each.body.get("images")))))
        if not entries or (reached := tree.reached(each)) is None:
            continue
        used = {_image_name(text) for resource in reached for text in _images(resource.body)}
        used |= {
            str(mapping(entry).get("newName")) for k in tree.kustomizations for entry in sequence(k.body.get("images"))
        }
        for index, entry in entries:
            name = str(entry.get("name") or "")
            if name not in used:
                near = nearest(name, used - {"None"})
                yield each.resource.find(
                    "image-without-container", f"images[{index}].name", name, "no container has an image of that name",
                    f"write {near}" if near else "take it out, or name a container's image", level="warning",
                )  # fmt: skip


RULES: Final[Sequence[KustomizationRule]] = (
    unnamed_file,
    unused_component,
    entry_twice,
    deprecated_field,
    patch_without_target,
    image_without_container,
)


def _is_target(target: Mapping[str, Any], resource: Resource) -> bool:
    group, _, version = resource.api_version.rpartition("/")
    facts = {"group": group, "version": version, "kind": resource.kind, "name": resource.name}
    if resource.says_namespace:
        facts["namespace"] = resource.namespace
    metadata = mapping(resource.body.get("metadata"))
    return all(_matches(target.get(key), value) for key, value in facts.items()) and all(
        selects(str(target[key]), mapping(metadata.get(names)))
        for key, names in (("labelSelector", "labels"), ("annotationSelector", "annotations"))
        if target.get(key)
    )


def _matches(pattern: object, value: str) -> bool:
    """Return whether a value is what a target asks for: a regular expression of all of it."""
    # One that can't be told counts as fitting.
    return not pattern or str(pattern) == value or matches(str(pattern), value) is not False


def _spelled(target: Mapping[str, Any]) -> str:
    return ", ".join(f"{key}: {value}" for key, value in target.items())


def _images(value: object) -> Iterator[str]:
    """Yield every text under a key `image`, and `reference` of an image volume."""
    if isinstance(value, dict):
        for key, below in value.items():
            if key in ("image", "reference") and isinstance(below, str):
                yield below
            else:
                yield from _images(below)
    elif isinstance(value, list):
        for each in value:
            yield from _images(each)


def _image_name(image: str) -> str:
    """Return an image without its tag and digest."""
    name = image.partition("@")[0]
    head, colon, tag = name.rpartition(":")
    return head if colon and "/" not in tag else name
