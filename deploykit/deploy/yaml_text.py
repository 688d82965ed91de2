"""Objects as YAML text that every reader of Kubernetes' world understands alike."""

import re
from collections.abc import Mapping, Sequence
from typing import Any, Final, Protocol

import yaml

_NUMBER: Final = re.compile(r"[-+]?\.?[0-9][-+0-9a-fA-FxXoObB_.,:eE]*")
"""What some reader may take for a number: kubectl's reads `1e3` and `089` as such, PyYAML as text."""
_LEADING: Final = ("apiVersion", "kind", "metadata")
_TRUTH: Final = frozenset({"y", "Y", "n", "N"})
"""Booleans of YAML 1.1 that PyYAML writes without quotes."""


class Typed(Protocol):
    """An object that can be written: lightkube's, and those of `deploykit.deploy.kustomize` and `custom`."""

    def to_dict(self) -> dict[str, Any]:
        """Return it as plain values."""


Document = Typed | Mapping[str, Any] | Sequence[Any]


def dump(objects: Sequence[Document], *, head: str = "") -> str:
    """Return objects as YAML in block style, a document each, their keys in the order they have, what they are first.

    Args:
        objects: what to write.
        head: text of a comment in front of it all, a line or several.
    """
    comment = "".join(f"# {line}".rstrip() + "\n" for line in head.splitlines())
    text: str = yaml.dump_all(
        [_led(plain(each)) for each in objects],
        Dumper=_Dumper,
        allow_unicode=True,
        default_flow_style=False,
        sort_keys=False,
        width=2**16,
    )
    return comment + text


def plain(document: Document) -> Any:
    """Return an object as dictionaries, lists and values."""
    if isinstance(document, Mapping):
        return {key: plain(value) for key, value in document.items()}
    if isinstance(document, Sequence) and not isinstance(document, str):
        return [plain(each) for each in document]
    return plain(document.to_dict()) if hasattr(document, "to_dict") else document


def _led(document: Any) -> Any:
    """Return an object that begins with what it is, as everybody writes it; lightkube's classes end with that."""
    if not isinstance(document, Mapping):
        return document
    return {**{key: document[key] for key in _LEADING if key in document}, **document}


class _Dumper(yaml.SafeDumper):
    """PyYAML's, but for text that another reader would take for something else."""

    def ignore_aliases(self, data: Any) -> bool:  # noqa: ARG002 -- overrides
        """Return True: two fields that hold one value are two texts."""
        return True


def _represent_text(dumper: _Dumper, text: str) -> yaml.ScalarNode:
    if "\n" in text:
        return dumper.represent_scalar("tag:yaml.org,2002:str", text, style="|")
    quoted = text in _TRUTH or _NUMBER.fullmatch(text)
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style="'" if quoted else None)


_Dumper.add_representer(str, _represent_text)
