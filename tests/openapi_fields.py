"""The fields of an OpenAPI document's requests, found one by one, so that a new field is tried at once."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

Place = tuple[str | int, ...]
"""The way to a field from the top of a body."""

NUMBERS = (
    *("-1", "0", "1", "2147483647", "2147483648", "9223372036854775807", "9223372036854775808", "-9223372036854775809"),
    *("1.5", "-0.0", "1e400", "-1e400", "1e-400", "NaN", "Infinity", "-Infinity", "1" + "0" * 350, "1" + "0" * 5000),
    *("true", '"1"', '"NaN"', "[]", "{}"),
)
"""What stands in place of a number: JSON, or what some parsers take for it."""
TEXTS = [
    '"\\ud800"',
    '"\\udc00\\ud800"',
    '"a\\u0000b"',
    '"\\uffff"',
    '"' + "x" * 100_000 + '"',
    '""',
    "1",
    "true",
    "[]",
]
"""What stands in place of a text: halves of characters, NUL, no character, too much, nothing, another type."""
OTHERS = ["null", "true", "-1", '""', '"x"', "[]", "[[]]", "[null]", "{}", '{"":null}', '{"\\ud800":"\\ud800"}']
"""What stands in place of anything."""
CONTENTS = {"integer": NUMBERS, "number": NUMBERS, "string": TEXTS}


@dataclass(frozen=True, kw_only=True)
class Field:
    """A place in a body, and what the document says may stand there."""

    path: str
    """The route."""
    place: Place
    schema: Mapping[str, Any]

    def literals(self) -> list[str]:
        """Return what to try, as JSON or nearly so."""
        kinds = {option["type"] for option in options(self.schema) if isinstance(option.get("type"), str)}
        return list(dict.fromkeys([text for kind in sorted(kinds) for text in CONTENTS.get(kind, [])] + OTHERS))

    def forbids(self, literal: str) -> bool:
        """Return whether the document rules a literal out; only numbers are judged, and what is no JSON."""
        try:
            value = json.loads(literal, parse_constant=_refuse)
        except ValueError:
            return True
        kinds = [option for option in options(self.schema) if option.get("type") in ("integer", "number")]
        judged = bool(kinds) and type(value) in (int, float)
        return judged and not any(_within(option, value) for option in kinds)


def _refuse(name: str) -> None:
    raise ValueError(name)


def _within(schema: Mapping[str, Any], number: float) -> bool:
    if schema["type"] == "integer" and isinstance(number, float):
        return False
    return bool(schema.get("minimum", number) <= number <= schema.get("maximum", number))


def options(schema: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """Yield the branches of a schema."""
    for branch in schema.get("anyOf", [schema]):
        yield from options(branch) if "anyOf" in branch else (branch,)


def fields(document: Mapping[str, Any]) -> Iterator[Field]:
    """Yield every field of every request's body."""
    for path, operations in document["paths"].items():
        body = operations.get("post", {}).get("requestBody")
        if body:
            schema = body["content"]["application/json"]["schema"]
            seen: set[Place] = set()
            for place, found in _walk(document, schema, ()):
                if place not in seen:
                    seen.add(place)
                    yield Field(path=path, place=place, schema=found)


def _walk(document: Mapping[str, Any], schema: Any, place: Place) -> Iterator[tuple[Place, Mapping[str, Any]]]:
    if "$ref" in schema:
        schema = document["components"]["schemas"][schema["$ref"].split("/")[-1]]
    if place:
        yield place, schema
    for branch in schema.get("anyOf", ()):
        inside = _walk(document, branch, place)
        yield from (found for found in inside if found[0] != place)
    for name, each in schema.get("properties", {}).items():
        yield from _walk(document, each, (*place, name))
    if isinstance(each := schema.get("additionalProperties"), dict):
        yield from _walk(document, each, (*place, "7"))
    if "items" in schema:
        yield from _walk(document, schema["items"], (*place, 0))


def body_with(base: Mapping[str, Any], place: Place, literal: str) -> bytes:
    """Return `base` as JSON with a literal at a place, the objects and arrays around it made where they are missing."""
    mark = "@here@"
    return json.dumps(_put(base, place, mark)).replace(f'"{mark}"', literal).encode()


def _put(value: Any, place: Place, mark: str) -> Any:
    if not place:
        return mark
    first, *rest = place
    if isinstance(first, int):
        inner = value[0] if isinstance(value, list) and value else None
        return [_put(inner, tuple(rest), mark)]
    known = dict(value) if isinstance(value, Mapping) else {}
    return {**known, first: _put(known.get(first), tuple(rest), mark)}
