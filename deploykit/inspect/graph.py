"""What an ONNX file is, without its weights."""

from collections import Counter
from pathlib import Path
from typing import Any, Final

from deploykit.outline import Node, Outline, Tensor, Value, read_outline

_BLOCKWISE: Final = {"MatMulNBits": 1, "GatherBlockQuantized": 0}
"""Operator → the input that holds weights in blocks; their scales and zero points follow two inputs later."""
_SMALL: Final = 256
"""Tensors of fewer elements are constants of the graph rather than weights."""


def describe_graph(file: Path) -> dict[str, Any]:
    """Return what an ONNX file holds, as plain JSON values.

    Raises:
        ArtifactError: it can't be read as ONNX.
    """
    outline = read_outline(file)
    return {
        "file": file.name,
        "bytes": outline.size,
        "ir_version": outline.ir_version,
        "opsets": {domain or "ai.onnx": version for domain, version in outline.opsets.items()},
        "producer": outline.producer,
        "inputs": [_value(value) for value in outline.inputs],
        "defaults": [_value(value) for value in outline.defaults],
        "outputs": [_value(value) for value in outline.outputs],
        "nodes": len(outline.nodes),
        "operators": dict(Counter(node.label for node in outline.nodes).most_common()),
        "functions": list(outline.functions),
        "weights": {**_weights(outline), "inside": outline.inline_bytes(), "external": _external(outline)},
    }


def _value(value: Value) -> dict[str, Any]:
    return {"name": value.name, "type": value.dtype, "shape": None if value.shape is None else list(value.shape)}


def _external(outline: Outline) -> list[dict[str, Any]]:
    """Return the files that weights lie in: how many, how far they reach, and whether the file is there."""
    found: dict[str, dict[str, Any]] = {}
    for tensor in outline.tensors.values():
        if tensor.location is not None:
            entry = found.setdefault(tensor.location, {"file": tensor.location, "tensors": 0, "reach": 0})
            entry["tensors"] += 1
            entry["reach"] = max(entry["reach"], tensor.offset + tensor.length)
    for entry in found.values():
        file = outline.file.parent / entry["file"]
        # A name that leaves the folder is told, not followed.
        inside = file.resolve().is_relative_to(outline.file.parent.resolve())
        entry["bytes"] = file.stat().st_size if inside and file.is_file() else None
    return list(found.values())


def _weights(outline: Outline) -> dict[str, Any]:
    """Return how many weights there are, and how many of each width; shared bytes count once."""
    widths = _blockwise(outline.nodes)
    beside = {name for node in outline.nodes if node.op_type in _BLOCKWISE for name in node.inputs[2:4]}
    seen: set[Any] = set()
    counts: Counter[str] = Counter()
    for tensor in outline.tensors.values():
        place = (tensor.location, tensor.offset) if tensor.location is not None else tensor.name
        if tensor.name in beside or place in seen:
            continue
        seen.add(place)
        count, width = _count(tensor, widths.get(tensor.name))
        if count >= _SMALL:
            counts[width] += count
    total = sum(counts.values())
    return {"count": total, "by_type": dict(counts.most_common()), "quantized": _share(counts, total)}


def _blockwise(nodes: tuple[Node, ...]) -> dict[str, int]:
    """Return the bits of each weight that is stored in blocks."""
    return {
        node.inputs[_BLOCKWISE[node.op_type]]: int(node.attributes.get("bits") or 4)
        for node in nodes
        if node.op_type in _BLOCKWISE and len(node.inputs) > 2
    }


def _count(tensor: Tensor, bits: int | None) -> tuple[int, str]:
    elements = 1
    for size in tensor.shape:
        elements *= size
    if bits is None:
        return elements, tensor.dtype
    return tensor.nbytes * 8 // bits, f"{bits} bits in blocks"


def _share(counts: Counter[str], total: int) -> float:
    small = sum(count for width, count in counts.items() if width.endswith("blocks") or width in {"int8", "uint8"})
    return round(small / total, 4) if total else 0.0
