"""YAML as the API's own reader understands it, with the line of each field."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

import yaml

_FEW_NODES: Final = 10_000
"""Nodes that a document may have however short it is, once its aliases are written out. Without any it has fewer than
characters."""
DEEPEST: Final = 100
"""Levels that values may be nested; a hundred times as many end the process, since PyYAML reads nodes by recursion."""
_LONGEST_PATH: Final = 1_000
"""Characters of a path whose line is kept. Each field below a long name would repeat it."""
_NUMBERS: Final = {
    "tag:yaml.org,2002:int": re.compile(
        r"[-+]?(?:0b_*[01][01_]*|0o_*[0-7][0-7_]*|0x_*[0-9a-fA-F][0-9a-fA-F_]*|[0-9][0-9_]*)"
    ),
    "tag:yaml.org,2002:float": re.compile(
        r"[-+]?(?:(?:[0-9][0-9_]*)?\._*[0-9][0-9_]*|[0-9][0-9_]*\.?)(?:[eE][-+]?[0-9]+)?|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)"
    ),
}
_WORDS: Final = {
    "tag:yaml.org,2002:bool": re.compile(r"yes|Yes|YES|no|No|NO|true|True|TRUE|false|False|FALSE|on|On|ON|off|Off|OFF"),
    "tag:yaml.org,2002:null": re.compile(r"~|null|Null|NULL|"),
    "tag:yaml.org,2002:merge": re.compile(r"<<"),
}
_PATTERNS: Final = {**_WORDS, **_NUMBERS}
_TRUE: Final = ("yes", "true", "on")


class YamlError(Exception):
    """A text is no YAML that the API takes; `line` counts from 1."""

    def __init__(self, why: str, line: int) -> None:
        super().__init__(why)
        self.why = why
        self.line = line


@dataclass(frozen=True, kw_only=True)
class Document:
    """One document of a file."""

    value: Any
    line: int
    lines: dict[str, int]
    """The line of each field, by path."""
    doubled: tuple[tuple[str, int], ...]
    """Fields that stand twice in one mapping, with the line of the second."""


class _Loader(yaml.CSafeLoader):
    """Knows neither dates nor numbers to base 60: to Kubernetes both are texts."""

    yaml_implicit_resolvers: dict[Any, Any] = {}  # noqa: RUF012 - PyYAML's own attribute


for _tag, _pattern in _PATTERNS.items():
    _Loader.add_implicit_resolver(_tag, re.compile(f"^(?:{_pattern.pattern})$"), None)


def documents(text: str) -> Iterator[Document]:
    """Yield the documents of a text, those that are empty left out.

    Raises:
        YamlError: at the first place that can't be read; documents before it have been yielded.
    """
    whole, line_too_deep = _readable(text)
    loader, left = _Loader(text), max(_FEW_NODES, len(text))
    try:
        while whole is None or whole > 0:
            if not loader.check_node():
                return
            node = loader.get_node()
            assert node is not None
            whole = None if whole is None else whole - 1
            reading = _Reading(left)
            value = reading.plain(node, "", 0)
            left -= reading.count
            if value is not None:
                line = node.start_mark.line + 1
                yield Document(value=value, line=line, lines=reading.lines, doubled=tuple(reading.doubled))
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        raise YamlError(_say(error.problem or "not readable"), mark.line + 1 if mark else 1) from None
    except yaml.YAMLError as error:
        raise YamlError(_say(str(error)), 1) from None
    finally:
        loader.dispose()
    raise YamlError(f"it is nested more than {DEEPEST} levels deep", line_too_deep)


def _readable(text: str) -> tuple[int | None, int]:
    """Return how many documents come before the first that is nested too deep, and its line; None where none is."""
    loader = _Loader(text)
    depth = count = 0
    try:
        while loader.check_event():
            event = loader.get_event()
            if isinstance(event, yaml.CollectionStartEvent):
                depth += 1
                if depth > DEEPEST:
                    mark = event.start_mark
                    return count, mark.line + 1 if mark else 1
            elif isinstance(event, yaml.CollectionEndEvent):
                depth -= 1
            elif isinstance(event, yaml.DocumentEndEvent):
                count += 1
    except yaml.YAMLError:
        # Whoever reads the nodes comes to the same place.
        return None, 0
    finally:
        loader.dispose()
    return None, 0


def _say(problem: str) -> str:
    if "character that cannot start any token" in problem or "found a tab" in problem.lower():
        return f"{problem} (YAML is indented by spaces, never by tabs, and a text that begins with a sign needs quotes)"
    return " ".join(problem.split())


class _Reading:
    """Turns nodes into plain values."""

    def __init__(self, most: int) -> None:
        self.most = most
        self.lines: dict[str, int] = {}
        self.doubled: list[tuple[str, int]] = []
        self._open: set[int] = set()
        self.count = 0

    def plain(self, node: yaml.Node, path: str | None, depth: int) -> Any:
        """Return the value of a node; its path is None where that would be too long to keep."""
        line = node.start_mark.line + 1
        self.count += 1
        if self.count > self.most or depth > DEEPEST or id(node) in self._open:
            raise YamlError("aliases or nesting without end", line)
        if isinstance(node, yaml.ScalarNode):
            return _scalar(node)
        self._open.add(id(node))
        try:
            if isinstance(node, yaml.SequenceNode):
                return [self._item(each, _below(path, f"[{index}]"), depth) for index, each in enumerate(node.value)]
            return self._mapping(node, path, depth)
        finally:
            self._open.discard(id(node))

    def _item(self, node: yaml.Node, path: str | None, depth: int) -> Any:
        if path is not None:
            self.lines.setdefault(path, node.start_mark.line + 1)
        return self.plain(node, path, depth + 1)

    def _mapping(self, node: yaml.Node, path: str | None, depth: int) -> dict[str, Any]:
        found: dict[str, Any] = {}
        merged: dict[str, Any] = {}
        for key, value in node.value:
            line = key.start_mark.line + 1
            if not isinstance(key, yaml.ScalarNode):
                raise YamlError("a field's name must be a text", line)
            if key.tag == "tag:yaml.org,2002:merge":
                # Each merge gives what no merge before it has given.
                many = value.value if isinstance(value, yaml.SequenceNode) else [value]
                for each in many:
                    more = self.plain(each, path, depth + 1)
                    merged = {**more, **merged} if isinstance(more, dict) else merged
                continue
            name = _below(path, f".{key.value}" if path else key.value)
            if key.value in found:
                self.doubled.append((name or key.value[:_LONGEST_PATH], line))
            if name is not None:
                self.lines[name] = line
            found[key.value] = self.plain(value, name, depth + 1)
        return {**merged, **found}


def _below(path: str | None, part: str) -> str | None:
    """Return the path of a part, None where it is too long."""
    return None if path is None or len(path) + len(part) > _LONGEST_PATH else path + part


def _scalar(node: yaml.ScalarNode) -> Any:
    text, pattern = node.value, _PATTERNS.get(node.tag)
    kind = node.tag.rpartition(":")[2]
    if pattern is not None and not pattern.fullmatch(text):
        # The tag is written down: what has none gets one only where it fits.
        raise YamlError(f"{text[:80]!r} is tagged as {kind}, and is none", node.start_mark.line + 1)
    match kind:
        case "null":
            return None
        case "bool":
            return text.lower() in _TRUE
        case "int":
            return _whole(text.replace("_", ""))
        case "float":
            return float(re.sub(r"\.(inf|nan)", r"\1", text.replace("_", "").lower()))
        case _:
            return text


def _whole(text: str) -> int:
    sign, digits = (-1, text[1:]) if text.startswith("-") else (1, text.lstrip("+"))
    if len(digits) > 1 and digits[0] == "0" and digits[1] not in "xXbBoO":
        digits = f"0o{digits[1:]}" if set(digits) <= set("01234567") else digits.lstrip("0") or "0"
    # A number of more digits than any field takes would cost time to read.
    return sign * int(digits[:64], 0)
