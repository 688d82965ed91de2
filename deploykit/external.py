"""Where an ONNX file says its weights lie, read from its bytes before anything else reads it.

ONNX is protobuf: a message is a list of (field number, wire type, value). Only the fields on the way to
`TensorProto.external_data` are followed, and large values are skipped unread. Field numbers: onnx/onnx.proto.
"""

import mmap
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Final

from deploykit.errors import ArtifactError
from deploykit.spec import data_file

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
    with graph.open("rb") as file:
        try:
            memory = memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
            yield from [_place(entries) for entries in _tensors(memory, _MODEL, 0)]
        except (ValueError, IndexError) as error:
            raise ArtifactError(f"{graph.name} is not an ONNX file: {error}; export again") from None


def _tensors(message: memoryview, kind: int, depth: int) -> Iterator[dict[str, str]]:
    """Yield the external data entries of each tensor in a message that has some."""
    if depth > _DEPTH:
        raise ValueError(f"nested deeper than {_DEPTH} levels")
    entries: dict[str, str] = {}
    for number, value in _fields(message):
        if kind == _TENSOR and number == _EXTERNAL_DATA:
            pair = dict(_fields(value))
            entries[bytes(pair.get(1, b"")).decode()] = bytes(pair.get(2, b"")).decode()
        elif number in _CHILDREN[kind]:
            yield from _tensors(value, _CHILDREN[kind][number], depth + 1)
    if entries:
        yield entries


def _fields(message: memoryview) -> Iterator[tuple[int, memoryview]]:
    """Yield the fields of a message that hold bytes; numbers are passed over."""
    at = 0
    while at < len(message):
        tag, at = _varint(message, at)
        match tag & 7:
            case 0:
                _, at = _varint(message, at)
            case 1:
                at += 8
            case 5:
                at += 4
            case 2:
                size, at = _varint(message, at)
                if size > len(message) - at:
                    raise ValueError(f"a field of {size} bytes is cut short")
                yield tag >> 3, message[at : at + size]
                at += size
            case wire:
                raise ValueError(f"wire type {wire} is unknown")


def _varint(message: memoryview, at: int) -> tuple[int, int]:
    """Return the number that begins at `at`, and where it ends."""
    value = shift = 0
    while True:
        byte = message[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
        shift += 7
        if shift > 63:
            raise ValueError("a number is longer than 64 bits")


def _place(entries: Mapping[str, str]) -> Place:
    if unknown := set(entries) - _KEYS:
        raise ValueError(f"unknown external data key {min(unknown)!r}")
    if "length" not in entries:
        raise ValueError("a tensor in another file has no length")
    return Place(entries.get("location", ""), int(entries.get("offset", 0)), int(entries["length"]))
