"""Tensors of a `config.pbtxt` against those of what it configures: names, types, and every dimension."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

from deploykit.doctor.finding import Finding
from deploykit.outline import Value
from deploykit.spec import shape_text

_WHAT: Final = "config.pbtxt"
_TYPES: Final = {
    "bool": "TYPE_BOOL", "uint8": "TYPE_UINT8", "uint16": "TYPE_UINT16", "uint32": "TYPE_UINT32",
    "uint64": "TYPE_UINT64", "int8": "TYPE_INT8", "int16": "TYPE_INT16", "int32": "TYPE_INT32", "int64": "TYPE_INT64",
    "float16": "TYPE_FP16", "float32": "TYPE_FP32", "float64": "TYPE_FP64", "bfloat16": "TYPE_BF16",
    "string": "TYPE_STRING",
}  # fmt: skip
"""Types of ONNX by the names of Triton."""


@dataclass(frozen=True, kw_only=True)
class Tensor:
    """What a configuration has to say of an input or output."""

    name: str
    kind: str
    """Triton's name of the type, such as `TYPE_FP32`."""
    dims: tuple[int | str, ...] | None
    """A length, or the name of an axis that is free; None where nothing is known."""
    optional: bool = False


def graph_tensors(values: Iterable[Value]) -> list[Tensor]:
    """Return the tensors of a graph in Triton's terms."""
    return [
        Tensor(name=value.name, kind=_TYPES.get(value.dtype or "", f"{value.dtype} (no Triton type)"), dims=value.shape)
        for value in values
    ]


def compare(
    role: str, configured: Sequence[Any], wanted: Sequence[Tensor], where: str, *, batched: bool, needed: int
) -> Iterator[Finding]:
    """Yield where a configuration differs.

    Args:
        role: `input` or `output`.
        configured: the configuration's messages.
        wanted: the tensors there are.
        where: the file, for the messages.
        batched: whether `max_batch_size` > 0, so that the first axis is left out of `dims`.
        needed: how many of `wanted`, from the first, have to be configured.
    """
    by_name = {tensor.name: tensor for tensor in wanted}
    there = {message.name for message in configured}
    for message in configured:
        if message.name not in by_name:
            known = ", ".join(by_name)
            yield _wrong(f"{where}: {role} {message.name!r} does not exist", f"remove it, or name one of: {known}")
        else:
            yield from _differences(role, message, by_name[message.name], where, batched=batched)
    for tensor in wanted[:needed]:
        if tensor.name not in there:
            add = f"add {role} {{ name: {tensor.name!r} data_type: {tensor.kind} dims: {_dims(tensor.dims, batched)} }}"
            yield _wrong(f"{where}: {role} {tensor.name!r} is missing", add)


def _differences(role: str, message: Any, tensor: Tensor, where: str, *, batched: bool) -> Iterator[Finding]:
    place = f"{where}: {role} {message.name!r}"
    field = message.DESCRIPTOR.fields_by_name["data_type"]
    kind = field.enum_type.values_by_number[message.data_type].name
    if kind != tensor.kind:
        yield _wrong(f"{place}: data_type is {kind}, the model has {tensor.kind}", f"set data_type: {tensor.kind}")
    if tensor.optional and not getattr(message, "optional", True):
        yield _wrong(f"{place}: optional is not set, so every request must carry it", "add optional: true")
    if tensor.dims is None:
        return
    dims = tuple(message.reshape.shape if message.HasField("reshape") else message.dims)
    if batched and tensor.dims and isinstance(tensor.dims[0], int) and tensor.dims[0] != -1:
        first = f"the model's first axis is {tensor.dims[0]}, no batch"
        yield _wrong(f"{place}: max_batch_size is set, but {first}", "set max_batch_size: 0 and give all dims")
        return
    wanted = tensor.dims[1:] if batched else tensor.dims
    if len(dims) != len(wanted):
        batch = " (max_batch_size > 0 leaves the first axis out)" if batched else ""
        yield _wrong(
            f"{place}: {len(dims)} dims {list(dims)}, the model has {len(wanted)}: {shape_text(wanted)}{batch}",
            f"set dims: {_dims(tensor.dims, batched)}",
        )
        return
    for at, (have, want) in enumerate(zip(dims, wanted, strict=True)):
        if isinstance(want, int) and have != want:
            yield _wrong(
                f"{place}: dims[{at}] is {have}, the model has {want}", f"set dims: {_dims(tensor.dims, batched)}"
            )
        elif isinstance(want, str) and role == "output" and have != -1:
            yield _wrong(
                f"{place}: dims[{at}] is {have}, and {want} varies", f"set dims: {_dims(tensor.dims, batched)}"
            )


def _dims(dims: tuple[int | str, ...] | None, batched: bool) -> list[int]:
    kept = (dims or ())[1:] if batched else dims or ()
    return [axis if isinstance(axis, int) else -1 for axis in kept]


def _wrong(found: str, remedy: str) -> Finding:
    return Finding(level="error", what=_WHAT, found=found, remedy=remedy)
