"""Objects beside the types that the API gives their fields: what a field is, and which parts of an object are what."""

import importlib
import pkgutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from functools import cache
from types import NoneType
from typing import Any, Final, Literal, Union, get_args, get_origin

import lightkube.resources
import msgspec

from deploykit.deploy.check.custom_kinds import CUSTOM, Open

Type = Literal["str", "int", "float", "bool", "time", "quantity", "int-or-str", "texts", "quantities", "any"]
"""`texts` and `quantities` are mappings of them."""

_PLAIN: Final[Mapping[type, Type]] = {str: "str", int: "int", float: "float", bool: "bool", datetime: "time"}
_TEXTS: Final = frozenset(
    {"labels", "annotations", "matchLabels", "nodeSelector", "selector", "data", "binaryData", "stringData",
     "parameters", "volumeAttributes", "options", "userAnnotations"}
)  # fmt: skip
_QUANTITIES: Final = frozenset(
    {"limits", "requests", "hard", "capacity", "overhead", "podFixed", "default", "defaultRequest", "max", "min",
     "maxLimitRequestRatio"}
)  # fmt: skip
"""Names of mappings whose values the models leave open."""


@dataclass(frozen=True, kw_only=True)
class Field:
    """A field of a type of the API."""

    name: str
    required: bool
    takes: Type | None
    """None where it is a struct, or a list of structs."""
    struct: type[msgspec.Struct] | None
    many: bool
    """Whether it is a list."""


@dataclass(frozen=True, kw_only=True)
class Node:
    """A part of an object whose type is known."""

    path: str
    struct: str
    """Name of its type: `PodSpec`."""
    fields: Mapping[str, Field]
    body: Mapping[str, Any]
    open: bool
    """Whether it has fields beside those, which the linter doesn't know."""

    def below(self, name: str) -> str:
        """Return the path of a field of it."""
        return f"{self.path}.{name}" if self.path else name


@cache
def kinds() -> Mapping[tuple[str, str], type[msgspec.Struct]]:
    """Return the types of all kinds that Kubernetes has, by apiVersion and kind."""
    found: dict[tuple[str, str], type[msgspec.Struct]] = {}
    for module in pkgutil.iter_modules(lightkube.resources.__path__):
        for value in vars(importlib.import_module(f"lightkube.resources.{module.name}")).values():
            info = getattr(value, "_api_info", None)
            if info is not None and info.action is None and value.__module__.endswith(f".{module.name}"):
                found[info.resource.api_version, info.resource.kind] = value
    return found


@cache
def cluster_scoped() -> frozenset[tuple[str, str]]:
    """Return apiVersion and kind of what lies in no namespace."""
    from lightkube.core.resource import GlobalResource

    return frozenset(key for key, struct in kinds().items() if issubclass(struct, GlobalResource))


def struct_of(api_version: str, kind: str) -> type[msgspec.Struct] | None:
    """Return the type of an object, None where the linter doesn't know it."""
    return kinds().get((api_version, kind)) or CUSTOM.get((api_version, kind))


@cache
def fields_of(struct: type[msgspec.Struct]) -> Mapping[str, Field]:
    """Return the fields of a type by the names that manifests have."""
    written = {
        name: str(text)
        for base in reversed(struct.__mro__)
        for name, text in vars(base).get("__annotations__", {}).items()
    }
    return {
        each.encode_name: _field(each.encode_name, each.required, each.type, written.get(each.name, ""))
        for each in msgspec.structs.fields(struct)
    }


def nodes(body: Mapping[str, Any], struct: type[msgspec.Struct]) -> list[Node]:
    """Return the parts of an object that have a type of their own, outermost first; its status left out."""
    return list(_nodes(body, struct, ""))


def _nodes(body: Mapping[str, Any], struct: type[msgspec.Struct], path: str) -> Iterator[Node]:
    fields = fields_of(struct)
    node = Node(path=path, struct=struct.__name__, fields=fields, body=body, open=issubclass(struct, Open))
    yield node
    for name, field in fields.items():
        if field.struct is None or name not in body or (not path and name == "status"):
            continue
        value = body[name]
        if field.many:
            for index, item in enumerate(value if isinstance(value, list) else ()):
                if isinstance(item, dict):
                    yield from _nodes(item, field.struct, f"{node.below(name)}[{index}]")
        elif isinstance(value, dict):
            yield from _nodes(value, field.struct, node.below(name))


def _field(name: str, required: bool, hint: Any, written: str) -> Field:
    hint = _without_none(hint)
    many = get_origin(hint) is list
    if many:
        hint = _without_none(get_args(hint)[0])
    if isinstance(hint, type) and issubclass(hint, msgspec.Struct):
        return Field(name=name, required=required, takes=None, struct=hint, many=many)
    return Field(name=name, required=required, takes=_type(name, hint, written), struct=None, many=many)


def _type(name: str, hint: Any, written: str) -> Type:
    if "Quantity" in written:
        return "quantity"
    if hint is dict:
        return "texts" if name in _TEXTS else "quantities" if name in _QUANTITIES else "any"
    if set(get_args(hint)) == {int, str}:
        return "int-or-str"
    return _PLAIN.get(hint, "any")


def _without_none(hint: Any) -> Any:
    """Return a type hint without `None`, a union of what is left where it is more than one."""
    left = tuple(each for each in get_args(hint) if each is not NoneType)
    if NoneType not in get_args(hint):
        return hint
    return left[0] if len(left) == 1 else Union[left]  # noqa: UP007 - made from a tuple
