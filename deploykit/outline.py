"""What an ONNX file says, without its weights: read from its bytes, so that neither size nor contents can hurt.

Values of tensors are passed over. Field numbers: onnx/onnx.proto.
"""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from deploykit.errors import ArtifactError
from deploykit.wire import MOST_AXES, MOST_PARTS, entry, fields, message, packed, text, whole, whole_file

_DEPTH: Final = 100
"""Deepest nesting of graphs followed: protobuf's own limit."""
_LONGEST_NAME: Final = 255
"""Bytes of a file's name: Linux's limit."""
_INLINE_FIELDS: Final = frozenset({4, 5, 6, 7, 9, 10, 11})
"""Fields of TensorProto that hold values."""

DTYPES: Final[Mapping[int, tuple[str, int]]] = {
    1: ("float32", 32), 2: ("uint8", 8), 3: ("int8", 8), 4: ("uint16", 16), 5: ("int16", 16), 6: ("int32", 32),
    7: ("int64", 64), 8: ("string", 0), 9: ("bool", 8), 10: ("float16", 16), 11: ("float64", 64), 12: ("uint32", 32),
    13: ("uint64", 64), 14: ("complex64", 64), 15: ("complex128", 128), 16: ("bfloat16", 16), 17: ("float8e4m3fn", 8),
    18: ("float8e4m3fnuz", 8), 19: ("float8e5m2", 8), 20: ("float8e5m2fnuz", 8), 21: ("uint4", 4), 22: ("int4", 4),
    23: ("float4e2m1", 4), 24: ("float8e8m0", 8), 25: ("uint2", 2), 26: ("int2", 2),
}  # fmt: skip
"""TensorProto.DataType → its name and the bits of an element."""


@dataclass(frozen=True, kw_only=True)
class Tensor:
    """An initializer."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    nbytes: int
    """Size by type and shape."""
    location: str | None = None
    """File of its bytes, relative to the graph's folder; None where they lie in the graph itself."""
    offset: int = 0
    length: int = 0
    """Bytes claimed in that file; for an inline tensor those found."""


@dataclass(frozen=True, kw_only=True)
class Value:
    """A graph input, output or intermediate value whose type is told."""

    name: str
    dtype: str | None = None
    shape: tuple[int | str, ...] | None = None
    """An axis is its length or its name (`?` where it has none)."""


@dataclass(frozen=True, kw_only=True)
class Node:
    """An operator of the graph or of a graph inside it."""

    op_type: str
    domain: str = ""
    name: str = ""
    inputs: tuple[str, ...] = ()
    outputs: tuple[str, ...] = ()
    attributes: Mapping[str, int | str | None] = field(default_factory=dict)
    """Integers and strings; None for every other kind."""

    @property
    def label(self) -> str:
        """The operator as a reader names it: `com.microsoft.MatMulNBits`."""
        return f"{self.domain}.{self.op_type}" if self.domain else self.op_type


@dataclass(frozen=True, kw_only=True)
class Outline:
    """An ONNX file without its weights."""

    file: Path
    size: int
    ir_version: int
    producer: str
    opsets: Mapping[str, int]
    """Version by domain; the default domain is the empty name."""
    inputs: tuple[Value, ...]
    """What a caller feeds: initializers with a default among them are left out."""
    defaults: tuple[Value, ...]
    """Inputs that have an initializer, so that nobody has to feed them."""
    outputs: tuple[Value, ...]
    nodes: tuple[Node, ...]
    tensors: Mapping[str, Tensor]
    values: Mapping[str, Value]
    functions: tuple[str, ...]

    def inline_bytes(self) -> int:
        """Return the weights' bytes inside the graph file."""
        return sum(tensor.length for tensor in self.tensors.values() if tensor.location is None)


def read_outline(file: Path) -> Outline:
    """Return what the ONNX file says, its weights unread.

    Raises:
        ArtifactError: it can't be opened, or is no ONNX file.
    """
    try:
        return _model(file, whole_file(file))
    except OSError as error:
        raise ArtifactError(f"{file}: can't be read: {error.strerror or error}") from None
    except (ValueError, IndexError, UnicodeDecodeError, OverflowError) as error:
        raise ArtifactError(f"{file}: not an ONNX file, or cut short: {error}; export the model again") from None


@dataclass
class _Found:
    """What the graphs of a file hold, gathered while they are read."""

    nodes: list[Node] = field(default_factory=list)
    tensors: dict[str, Tensor] = field(default_factory=dict)
    values: dict[str, Value] = field(default_factory=dict)
    parts: int = 0

    def followed(self, data: memoryview) -> Iterator[tuple[int, int | memoryview]]:
        """Yield the fields of a message, counted.

        Raises:
            ValueError: there are more than a graph has.
        """
        for part in fields(data):
            self.parts += 1
            if self.parts > MOST_PARTS:
                raise ValueError(f"more than {MOST_PARTS} parts")
            yield part


def _model(file: Path, memory: memoryview) -> Outline:
    found, opsets, functions = _Found(), {}, []
    version, producer, ends = 0, "", None
    for number, value in found.followed(memory):
        match number, value:
            case 1, int():
                version = value
            case 2 | 3, memoryview():
                producer = f"{producer} {text(value)}".strip()
            case 7, memoryview():
                ends = _graph(value, found, 0)
            case 8, memoryview():
                pair = dict(fields(value))
                opsets[text(pair.get(1, b""))] = whole(pair.get(2, 0))
            case 25, memoryview():
                functions.append(_function(value, found))
    if ends is None or not version:
        raise ValueError("it holds no graph")
    fed = tuple(value for value in ends[0] if value.name not in found.tensors)
    return Outline(
        file=file,
        size=len(memory),
        ir_version=version,
        producer=producer,
        opsets=opsets,
        inputs=fed,
        defaults=tuple(value for value in ends[0] if value.name in found.tensors),
        outputs=tuple(ends[1]),
        nodes=tuple(found.nodes),
        tensors=found.tensors,
        values=found.values,
        functions=tuple(functions),
    )


def _graph(data: memoryview, found: _Found, depth: int) -> tuple[list[Value], list[Value]]:
    """Gather a graph's nodes, tensors and value types; return its inputs and outputs."""
    if depth > _DEPTH:
        raise ValueError(f"graphs nested deeper than {_DEPTH} levels")
    inputs: list[Value] = []
    outputs: list[Value] = []
    for number, value in found.followed(data):
        if not isinstance(value, memoryview):
            continue
        match number:
            case 1:
                found.nodes.append(_node(value, found, depth))
            case 5:
                tensor = _tensor(value)
                found.tensors[tensor.name] = tensor
            case 11 | 12 | 13:
                typed = _value(value)
                found.values[typed.name] = typed
                (inputs if number == 11 else outputs if number == 12 else []).append(typed)
    return inputs, outputs


def _node(data: memoryview, found: _Found, depth: int) -> Node:
    inputs: list[str] = []
    outputs: list[str] = []
    texts = {3: "", 4: "", 7: ""}
    attributes: dict[str, int | str | None] = {}
    for number, value in found.followed(data):
        if number == 1:
            inputs.append(text(value))
        elif number == 2:
            outputs.append(text(value))
        elif number in texts:
            texts[number] = text(value)
        elif number == 5 and isinstance(value, memoryview):
            name, held = _attribute(value, found, depth)
            attributes[name] = held
    return Node(
        op_type=texts[4],
        domain="" if texts[7] == "ai.onnx" else texts[7],
        name=texts[3],
        inputs=tuple(inputs),
        outputs=tuple(outputs),
        attributes=attributes,
    )


def _attribute(data: memoryview, found: _Found, depth: int) -> tuple[str, int | str | None]:
    name = ""
    held: int | str | None = None
    for number, value in fields(data):
        match number, value:
            case 1, _:
                name = text(value)
            case 3, int():
                held = value
            case 4, memoryview():
                held = bytes(value[:200]).decode(errors="replace")
            case 6 | 11, memoryview():
                _graph(value, found, depth + 1)
    return name, held


def _function(data: memoryview, found: _Found) -> str:
    name = ""
    for number, value in fields(data):
        if number == 1:
            name = text(value)
        elif number == 7 and isinstance(value, memoryview):
            found.nodes.append(_node(value, found, 1))
    return name


def _tensor(data: memoryview) -> Tensor:
    dims: list[int] = []
    kind, name, inline = 0, "", 0
    external: dict[str, str] = {}
    for number, value in fields(data):
        if number == 1:
            dims += [value] if isinstance(value, int) else packed(value)
            if len(dims) > MOST_AXES:
                raise ValueError(f"a tensor of more than {MOST_AXES} axes")
        elif number == 2:
            kind = whole(value)
        elif number == 8:
            name = text(value)
        elif number == 13 and isinstance(value, memoryview):
            external.update([entry(value)])
        elif number in _INLINE_FIELDS:
            inline += len(value) if isinstance(value, memoryview) else 8
    if any(len(part.encode()) > _LONGEST_NAME for part in external.get("location", "").split("/")):
        raise ValueError("external data in a file whose name is longer than a file system takes")
    dtype, bits = DTYPES.get(kind, (f"type {kind}", 0))
    nbytes = (math.prod(dims) * bits + 7) // 8
    where = (
        {"location": external["location"], "offset": int(external.get("offset", 0))} if "location" in external else {}
    )
    length = int(external.get("length", nbytes)) if where else inline
    return Tensor(name=name, dtype=dtype, shape=tuple(dims), nbytes=nbytes, length=length, **where)  # type: ignore[arg-type]


def _value(data: memoryview) -> Value:
    pair = dict(fields(data))
    kind = dict(fields(message(pair.get(2, b""))))
    tensor = dict(fields(message(kind.get(1, b""))))
    dtype = DTYPES.get(whole(tensor.get(1, 0)), (None, 0))[0]
    shape = None
    if 2 in tensor:
        shape = tuple(_axis(message(value)) for number, value in fields(message(tensor[2])) if number == 1)
    return Value(name=text(pair.get(1, b"")), dtype=dtype, shape=shape)


def _axis(data: memoryview) -> int | str:
    held = dict(fields(data))
    return whole(held[1]) if 1 in held else text(held.get(2, b"")) or "?"
