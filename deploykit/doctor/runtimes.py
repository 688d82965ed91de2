"""What each ONNX Runtime reads: IR version, opset, and the com.microsoft operators with their inputs and attributes.

`runtimes.json` is written by benchmarks/onnxruntimes.py, which asks the wheels themselves.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any, Final

from deploykit.doctor.releases import version
from deploykit.outline import Node

CONTRIB: Final = "com.microsoft"


@dataclass(frozen=True, kw_only=True)
class Runtime:
    """An ONNX Runtime, by what it can load."""

    version: str
    ir: int
    """Highest IR version."""
    opset: int
    """Highest opset of the default domain."""
    measured: str
    """The version in the table that the figures are from."""


def runtime(text: str) -> Runtime:
    """Return what an ONNX Runtime of that version reads; between the table's versions the next lower one counts."""
    table: Mapping[str, Any] = _table()["runtimes"]
    lower = [name for name in table if version(name) <= version(text)]
    name = max(lower or [min(table, key=version)], key=version)
    return Runtime(version=text, measured=name, **table[name])


def needed_version(node: Node) -> tuple[str, str]:
    """Return the oldest ONNX Runtime that takes a com.microsoft node, and what of the node asks for it.

    The version is empty where no ONNX Runtime in the table knows the operator, an input or an attribute.
    """
    entry = _table()["operators"].get(node.op_type)
    if entry is None:
        return "", "the operator"
    wants = [(entry["since"], "the operator")]
    given = max((at + 1 for at, name in enumerate(node.inputs) if name), default=0)
    enough = [since for since, count in entry["inputs"].items() if count >= given]
    wants.append((min(enough, key=version) if enough else "", f"input {given}"))
    later = [name for name in node.attributes if name not in entry["attributes"]]
    wants += [(entry["later"].get(name, ""), f"attribute {name}") for name in later]
    if node.op_type == "MatMulNBits" and node.attributes.get("bits") == 8:
        # microsoft/onnxruntime#24384 (CPU) and #24509 (CUDA): both in 1.22.
        wants.append(("1.22", "8 bits"))
    missing = next((want for want in wants if not want[0]), None)
    return missing or max(wants, key=lambda want: version(want[0]))


@cache
def _table() -> Mapping[str, Any]:
    data: Mapping[str, Any] = json.loads(files("deploykit.doctor").joinpath("runtimes.json").read_text("utf-8"))
    return data
