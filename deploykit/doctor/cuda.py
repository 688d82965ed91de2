"""What ONNX Runtime's CUDA provider makes of the operators our graphs are built of.

Sources: docs/OperatorKernels.md of microsoft/onnxruntime, the pull requests named below, and the kernels and messages
found in the libraries of the onnxruntime-gpu wheels 1.22 to 1.30.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from deploykit.doctor.releases import Version, version
from deploykit.outline import Node

BIAS_SINCE: Final = "1.29"
"""GroupQueryAttention takes an attention bias (microsoft/onnxruntime#29525); the wheels up to 1.28 refuse it at run
time. With a bias it runs without the flash kernels."""
_BIAS: Final = 10
_POSITIONS: Final = 9
_HALF: Final = frozenset({"float16", "bfloat16"})


@dataclass(frozen=True, kw_only=True)
class Kernel:
    """Since when an operator has a CUDA kernel, and for which types of its first floating-point tensor."""

    since: str = "1.18"
    types: frozenset[str] = frozenset({"float32", "float16", "bfloat16"})


KERNELS: Final[Mapping[str, Kernel | None]] = {
    "GroupQueryAttention": Kernel(types=_HALF),
    # microsoft/onnxruntime#25575
    "GatherBlockQuantized": Kernel(since="1.23"),
    "MatMulNBits": Kernel(),
    "SkipLayerNormalization": Kernel(),
    "SkipSimplifiedLayerNormalization": Kernel(),
    "FastGelu": Kernel(),
    "QuickGelu": Kernel(),
    "RotaryEmbedding": Kernel(),
    "DynamicQuantizeLinear": None,
    "DynamicQuantizeMatMul": None,
    "MatMulIntegerToFloat": None,
    # A kernel for int8 activations only, and dynamic quantization makes uint8 ones.
    "MatMulInteger": None,
}
"""Operator → its kernel; None: there is none, so its nodes run on the CPU between copies."""


def refusal(node: Node, target: Version) -> str:
    """Return why the CUDA kernel of a node fails at run time, or nothing where it doesn't."""
    if node.op_type != "GroupQueryAttention":
        return ""
    given = {at for at, name in enumerate(node.inputs) if name}
    if _BIAS in given and target < version(BIAS_SINCE):
        return f"its attention bias (input {_BIAS}) is refused before ONNX Runtime {BIAS_SINCE}"
    # microsoft/onnxruntime#26920
    if _POSITIONS in given and target < (1, 24):
        return f"its position_ids (input {_POSITIONS}) are refused before ONNX Runtime 1.24"
    return ""


def falls_back(node: Node, target: Version, dtype: str) -> str:
    """Return why a node has no CUDA kernel, so that it runs on the CPU, or nothing where it has one."""
    if node.op_type not in KERNELS:
        return ""
    kernel = KERNELS[node.op_type]
    if kernel is None:
        return "no CUDA kernel"
    if target < version(kernel.since):
        return f"no CUDA kernel before ONNX Runtime {kernel.since}"
    if dtype not in kernel.types:
        return f"no CUDA kernel for {dtype}, only {' and '.join(sorted(kernel.types))}"
    return ""


def has_bias(node: Node) -> bool:
    """Return whether a node is an attention with a bias, which costs the fastest CUDA kernels."""
    return node.op_type == "GroupQueryAttention" and len(node.inputs) > _BIAS and bool(node.inputs[_BIAS])
