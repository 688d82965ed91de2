"""Tensors as they lie in a message: raw bytes, little-endian. Strings are each a length, 4 bytes, and their UTF-8."""

import struct
from collections.abc import Iterable


def elements(raw: bytes) -> list[bytes]:
    """Return the elements of a BYTES tensor.

    Raises:
        ValueError: the tensor ends inside an element.
    """
    end = len(raw)
    # By far the most have one element.
    if end >= 4 and int.from_bytes(raw[:4], "little") == end - 4:
        return [raw[4:]]
    found = []
    start = 0
    while start < end:
        after = start + 4 + int.from_bytes(raw[start : start + 4], "little")
        if after > end or start + 4 > end:
            raise ValueError(f"a BYTES tensor of {end} bytes ends inside an element")
        found.append(raw[start + 4 : after])
        start = after
    return found


def counts(raw: bytes) -> tuple[int, ...]:
    """Return the elements of a UINT32 tensor.

    Raises:
        ValueError: the tensor ends inside an element.
    """
    # By far the most have one element.
    if len(raw) == 4:
        return (int.from_bytes(raw, "little"),)
    if len(raw) % 4:
        raise ValueError(f"a UINT32 tensor of {len(raw)} bytes ends inside an element")
    return struct.unpack(f"<{len(raw) // 4}I", raw)


def text_tensor(encoded: bytes) -> bytes:
    """Return a BYTES tensor of one element."""
    return len(encoded).to_bytes(4, "little") + encoded


def integer_tensor(values: Iterable[int]) -> bytes:
    """Return an INT64 tensor."""
    numbers = tuple(values)
    return struct.pack(f"<{len(numbers)}q", *numbers)
