"""One ONNX file against a target: versions, operators, and where its weights lie."""

from collections import Counter
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Final

import deploykit.doctor.cuda as cuda
from deploykit.doctor.finding import Finding, ok
from deploykit.doctor.releases import version
from deploykit.doctor.runtimes import CONTRIB, needed_version
from deploykit.doctor.target import Target
from deploykit.memory import INTEGER_PRODUCTS
from deploykit.outline import Outline

PROTOBUF_LIMIT: Final = 2**31 - 1
"""Most bytes a protobuf message may have; ONNX Runtime refuses larger files."""
_EXACT: Final = version("1.32")
"""The first ONNX Runtime found to heed `session.x64quantprecision`: 1.28 and older don't, those between weren't run."""
_KNOWN_DOMAINS: Final = frozenset({"", CONTRIB, "ai.onnx.ml", "com.microsoft.nchwc"})


def check_graph(outline: Outline, target: Target) -> Iterator[Finding]:
    """Yield what a target makes of a graph."""
    yield from _versions(outline, target)
    yield from _operators(outline, target)
    if target.device == "cuda":
        yield from _on_cuda(outline, target)
    yield from check_weights(outline)


def _versions(outline: Outline, target: Target) -> Iterator[Finding]:
    reads, opset = target.runtime, outline.opsets.get("", 0)
    found = (
        f"IR {outline.ir_version}, opset {opset}; ONNX Runtime {reads.version} reads up to {reads.ir} and {reads.opset}"
    )
    if outline.ir_version > reads.ir or opset > reads.opset:
        remedy = f"export with --opset {min(opset, reads.opset)}, or deploy on a release with a newer ONNX Runtime"
        if outline.ir_version > reads.ir:
            remedy = f"save the model with IR {reads.ir} or less, or deploy on a release with a newer ONNX Runtime"
        yield Finding(level="error", what="ONNX version", found=found, remedy=remedy)
    else:
        yield ok("ONNX version", found)


def _operators(outline: Outline, target: Target) -> Iterator[Finding]:
    """Yield the operators that the target doesn't know, or one line that it knows all."""
    refused: dict[tuple[str, str, str], int] = Counter()
    contrib = Counter(node.op_type for node in outline.nodes if node.domain == CONTRIB)
    for node in outline.nodes:
        if node.domain == CONTRIB and node.op_type not in outline.functions:
            needed, part = needed_version(node)
            if not needed or version(needed) > target.version:
                refused[node.op_type, part, needed] += 1
        elif node.domain not in _KNOWN_DOMAINS and node.op_type not in outline.functions:
            refused[node.label, "the operator", ""] += 1
    for (name, part, needed), count in refused.items():
        needs = f"need{'s' * (count == 1)} ONNX Runtime {needed}" if needed else "known to no ONNX Runtime"
        of = f" ({part})" if part != "the operator" else ""
        yield Finding(
            level="error",
            what="operators",
            found=f"{count} {name} node{'s' * (count > 1)}{of} {needs}; the target has {target.runtime.version}",
            remedy="deploy on a release with that ONNX Runtime or a newer one, or export another precision"
            if needed
            else "bring the library that implements it, or convert with --method traced",
        )
    if not refused:
        kinds = f", {sum(contrib.values())} of {CONTRIB} ({', '.join(sorted(contrib))})" if contrib else ""
        yield ok("operators", f"{len(outline.nodes)} nodes{kinds}: all known to ONNX Runtime {target.runtime.version}")


def _on_cuda(outline: Outline, target: Target) -> Iterator[Finding]:
    """Yield what the CUDA provider refuses, and what it leaves to the CPU."""
    refused = Counter(reason for node in outline.nodes if (reason := cuda.refusal(node, target.version)))
    # A refusal needs the kernel to be there at all: fp32 attention runs on the CPU, which takes the bias.
    dtype = _float_type(outline)
    left = Counter(
        (node.op_type, reason) for node in outline.nodes if (reason := cuda.falls_back(node, target.version, dtype))
    )
    on_cpu = {name for name, _ in left}
    if "GroupQueryAttention" not in on_cpu:
        for reason, count in refused.items():
            yield Finding(
                level="error",
                what="CUDA kernels",
                found=f"{count} GroupQueryAttention nodes fail at run time: {reason}",
                remedy="serve fp16 or int4-fp16, whose attention has neither, or use the CPU",
            )
        if not refused and any(cuda.has_bias(node) for node in outline.nodes):
            yield Finding(
                level="note",
                what="CUDA kernels",
                found="attention with a bias runs without the flash kernels",
                remedy="serve fp16 or int4-fp16, whose graphs have no bias",
            )
    for (name, reason), count in left.items():
        yield Finding(
            level="warning",
            what="CUDA kernels",
            found=f"{count} {name} nodes run on the CPU, with copies there and back: {reason}",
            remedy="serve fp16 or int4-fp16, the precisions made for a GPU, or use the CPU",
        )
    if not refused and not left:
        yield ok("CUDA kernels", f"none of the {len(outline.nodes)} nodes is known to lack one")


def check_exact(outline: Outline, target: Target, *, overflows: bool) -> Iterator[Finding]:
    """Yield a warning where int8 products come out wrong now and then.

    Args:
        outline: the graph.
        target: where it is to run.
        overflows: whether the processor adds products of uint8 and int8 in 16 bits.
    """
    products = sum(node.op_type in INTEGER_PRODUCTS for node in outline.nodes)
    if products and overflows and target.device == "cpu" and target.version < _EXACT:
        yield Finding(
            level="warning",
            what="int8 products",
            found=f"{products} products of int8 on a processor without VNNI, whose fast kernel overflows now and "
            f"then (twice the error or more); ONNX Runtime {target.runtime.version} takes no exact one",
            remedy="serve int8, which has other kernels, or use ONNX Runtime 1.32 or a processor with VNNI",
        )


def _float_type(outline: Outline) -> str:
    """Return the type a graph computes in: its cache's, else float32."""
    kinds = [value.dtype for value in outline.inputs if value.dtype in {"float16", "bfloat16", "float32"}]
    return next(iter(kinds), None) or "float32"


def check_weights(outline: Outline) -> Iterator[Finding]:
    """Yield whether every weight is where ONNX Runtime may read it."""
    if outline.size > PROTOBUF_LIMIT:
        yield Finding(
            level="error",
            what="weights",
            found=f"{outline.file.name} has {outline.size:,} bytes, past protobuf's {PROTOBUF_LIMIT:,}",
            remedy="save the weights as external data beside the graph",
        )
        return
    found = list(_external(outline))
    yield from found
    if not found:
        kept = [tensor for tensor in outline.tensors.values() if tensor.location is not None]
        places = sorted({str(tensor.location) for tensor in kept})
        where = f"{len(kept)} in {', '.join(places)}, " if kept else ""
        yield ok("weights", f"{where}{outline.inline_bytes():,} bytes inside the graph")


def _external(outline: Outline) -> Iterator[Finding]:
    ends: dict[str, int] = {}
    for tensor in outline.tensors.values():
        if tensor.location is None:
            continue
        if tensor.offset < 0 or tensor.length != tensor.nbytes:
            yield _bad(
                f"tensor {tensor.name} ({tensor.dtype} {list(tensor.shape)}, {tensor.nbytes:,} bytes) claims "
                f"{tensor.length:,} bytes at {tensor.offset:,} of {tensor.location}",
                "export the model again",
            )
            return
        ends[tensor.location] = max(ends.get(tensor.location, 0), tensor.offset + tensor.length)
    for location, end in ends.items():
        yield from _data_file(outline.file, location, end)


def _data_file(graph: Path, location: str, end: int) -> Iterator[Finding]:
    parts = PurePosixPath(location).parts
    file = graph.parent / location
    if PurePosixPath(location).is_absolute() or ".." in parts or "\\" in location or not location:
        yield _bad(f"{graph.name} keeps weights in {location!r}, outside its folder", "save them beside the graph")
    elif not file.is_file():
        yield _bad(f"{location}, which holds weights, is not there", "copy the data file along with the graph")
    elif not file.resolve().is_relative_to(graph.parent.resolve()):
        # microsoft/onnxruntime#26776
        yield _bad(
            f"{location} is a link out of the folder, which ONNX Runtime refuses since 1.24", "copy the file itself"
        )
    elif file.stat().st_size < end:
        yield _bad(f"{location} has {file.stat().st_size:,} bytes, and weights reach to {end:,}", "copy the file whole")
    elif file.stat().st_nlink > 1:
        yield Finding(
            level="warning",
            what="weights",
            found=f"{location} has {file.stat().st_nlink} hard links: it can change under its hash; onnx refuses it",
            remedy="copy the file instead of linking it",
        )


def _bad(found: str, remedy: str) -> Finding:
    return Finding(level="error", what="weights", found=found, remedy=remedy)
