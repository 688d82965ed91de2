"""Protobuf's wire format: a message is a list of (field number, wire type, value)."""

from collections.abc import Iterator


def fields(data: memoryview) -> Iterator[tuple[int, int | memoryview]]:
    """Yield the fields of a message: whole numbers as they are, bytes as views; floating point is passed over."""
    at = 0
    while at < len(data):
        tag, at = _varint(data, at)
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
    return numbers


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
