"""Protobuf's wire format: a message is a list of (field number, wire type, value)."""

import mmap
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Final

_LARGEST: Final = 2**31 - 1
"""Bytes of the largest message: protobuf's own limit."""
MOST_PARTS: Final = 1 << 21
"""Fields of graphs and nodes that are followed: several times what the largest models have, few enough for memory."""
MOST_AXES: Final = 64
"""Axes of a tensor: ONNX Runtime's kernels know far fewer."""


def whole_file(file: Path) -> memoryview:
    """Return a file's bytes, mapped.

    Raises:
        OSError: it can't be opened.
        ValueError: it is no regular file, empty, or larger than a message can be.
    """
    if not stat.S_ISREG(file.stat().st_mode):
        # A pipe would be waited for.
        raise ValueError("not a regular file")
    with file.open("rb") as stream:
        memory = memoryview(mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ))
    if len(memory) > _LARGEST:
        raise ValueError(f"{len(memory)} bytes, but protobuf ends at {_LARGEST}")
    return memory


def fields(data: memoryview) -> Iterator[tuple[int, int | memoryview]]:
    """Yield the fields of a message: whole numbers as they are, bytes as views; floating point is passed over."""
    at = 0
    while at < len(data):
        tag, at = _varint(data, at)
        if not tag >> 3:
            # Else a file of zeros would be a long list of fields.
            raise ValueError("field number 0 is none")
        match tag & 7:
            case 0:
                number, at = _varint(data, at)
                yield tag >> 3, number - (1 << 64) if number >> 63 else number
            case 1:
                at += 8
            case 5:
                at += 4
            case 2:
                size, at = _varint(data, at)
                if size > len(data) - at:
                    raise ValueError(f"a field of {size} bytes is cut short")
                yield tag >> 3, data[at : at + size]
                at += size
            case wire:
                raise ValueError(f"wire type {wire} is unknown")
    if at > len(data):
        raise ValueError("the last field is cut short")


def _varint(data: memoryview, at: int) -> tuple[int, int]:
    """Return the number that begins at `at`, and where it ends."""
    value = shift = 0
    while True:
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
        shift += 7
        if shift > 63:
            raise ValueError("a number is longer than 64 bits")


def packed(data: memoryview) -> list[int]:
    """Return the numbers of a packed list."""
    numbers, at = [], 0
    while at < len(data):
        number, at = _varint(data, at)
        numbers.append(number)
        if len(numbers) > MOST_AXES:
            raise ValueError(f"a list of more than {MOST_AXES} numbers")
    return numbers


def entry(data: memoryview) -> tuple[str, str]:
    """Return the key and the value of a StringStringEntryProto.

    Raises:
        ValueError: one of them is no text.
    """
    pair = dict(fields(data))
    return text(pair.get(1, b"")), text(pair.get(2, b""))


def message(value: int | bytes | memoryview) -> memoryview:
    """Return a field that holds bytes.

    Raises:
        ValueError: it holds a number.
    """
    if isinstance(value, int):
        raise ValueError("a number stands where a message should")
    return memoryview(value)


def text(value: int | bytes | memoryview) -> str:
    """Return a field that holds text; what a terminal would obey instead of showing it is replaced.

    Raises:
        ValueError: it holds a number, or is no UTF-8.
    """
    found = bytes(message(value)).decode()
    return found if found.isprintable() else "".join(char if char.isprintable() else "\ufffd" for char in found)


def whole(value: int | bytes | memoryview) -> int:
    """Return a field that holds a number.

    Raises:
        ValueError: it holds bytes.
    """
    if not isinstance(value, int):
        raise ValueError("a message stands where a number should")
    return value
