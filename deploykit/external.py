"""Where an ONNX file says its weights lie, read from its bytes before anything else reads it.

Only the fields on the way to `TensorProto.external_data` are followed, and large values are skipped unread. Field
numbers: onnx/onnx.proto.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import count, pairwise
from pathlib import Path
from typing import Final

from deploykit.errors import ArtifactError
from deploykit.spec import data_file
from deploykit.wire import MOST_PARTS, entry, fields, whole_file

_MODEL, _GRAPH, _NODE, _ATTRIBUTE, _TENSOR, _SPARSE, _FUNCTION, _TRAINING = range(8)
_CHILDREN: Final[Mapping[int, Mapping[int, int]]] = {
    _MODEL: {7: _GRAPH, 20: _TRAINING, 25: _FUNCTION},
    _GRAPH: {1: _NODE, 5: _TENSOR, 15: _SPARSE},
    _NODE: {5: _ATTRIBUTE},
    _ATTRIBUTE: {5: _TENSOR, 6: _GRAPH, 10: _TENSOR, 11: _GRAPH, 22: _SPARSE, 23: _SPARSE},
    _SPARSE: {1: _TENSOR, 2: _TENSOR},
    _FUNCTION: {7: _NODE, 11: _ATTRIBUTE},
    _TRAINING: {1: _GRAPH, 2: _GRAPH},
    _TENSOR: {},
}
"""Message → field number → message inside it that may hold tensors."""
_EXTERNAL_DATA: Final = 13
_DEPTH: Final = 100
"""Deepest nesting followed: protobuf's own limit."""
_KEYS: Final = frozenset({"location", "offset", "length", "checksum"})


@dataclass(frozen=True)
class Place:
    """Where the bytes of one tensor lie."""

    location: str
    offset: int
    length: int


def check_external_data(graph: Path) -> None:
    """Check that every external tensor of `graph` lies within its own data file, a regular file beside it.

    Raises:
        ArtifactError: it lies elsewhere, past the file's end, or the graph can't be read.
    """
    data = graph.with_name(data_file(graph.name))
    places = list(external_places(graph))
    for place in places:
        if place.location != data.name:
            raise ArtifactError(f"{graph.name} keeps weights in {place.location!r}, not in {data.name}; export again")
        if data.is_symlink() or not data.is_file():
            raise ArtifactError(f"{data.name} is not there as a regular file; export again")
        size = data.stat().st_size
        if place.offset < 0 or place.length < 0 or place.offset + place.length > size:
            raise ArtifactError(
                f"{graph.name} wants {place.length} bytes at {place.offset} of {data.name}, which has {size}; "
                "export again"
            )
    # One place may serve several tensors (tied weights); one that begins within another is no file of ours.
    for one, other in pairwise(sorted({(place.offset, place.length) for place in places})):
        if sum(one) > other[0]:
            raise ArtifactError(
                f"{graph.name} wants {one[1]} bytes at {one[0]} and {other[1]} at {other[0]} of {data.name}, which "
                "overlap; export again"
            )


def external_places(graph: Path) -> Iterator[Place]:
    """Yield where each external tensor of an ONNX file lies, in file order.

    Raises:
        ArtifactError: the file is no ONNX file.
    """
    try:
        yield from [_place(entries) for entries in _tensors(whole_file(graph), _MODEL, 0, count(1))]
    except (ValueError, IndexError) as error:
        raise ArtifactError(f"{graph.name} is not an ONNX file: {error}; export again") from None


def _tensors(message: memoryview, kind: int, depth: int, parts: Iterator[int]) -> Iterator[dict[str, str]]:
    """Yield the external data entries of each tensor in a message that has some; `parts` counts what was followed."""
    if depth > _DEPTH:
        raise ValueError(f"nested deeper than {_DEPTH} levels")
    if next(parts) > MOST_PARTS:
        raise ValueError(f"more than {MOST_PARTS} nodes, attributes and tensors")
    entries: dict[str, str] = {}
    for number, value in fields(message):
        if isinstance(value, int):
            continue
        if kind == _TENSOR and number == _EXTERNAL_DATA:
            key, text = entry(value)
            if key in entries:
                raise ValueError(f"a tensor names its {key} twice")
            entries[key] = text
        elif number in _CHILDREN[kind]:
            yield from _tensors(value, _CHILDREN[kind][number], depth + 1, parts)
    if entries:
        yield entries


def _place(entries: Mapping[str, str]) -> Place:
    if unknown := set(entries) - _KEYS:
        raise ValueError(f"unknown external data key {min(unknown)!r}")
    if "length" not in entries:
        raise ValueError("a tensor in another file has no length")
    return Place(entries.get("location", ""), int(entries.get("offset", 0)), int(entries["length"]))
