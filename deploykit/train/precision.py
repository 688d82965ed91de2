"""In which numbers products are computed."""

from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Final

import torch

from deploykit.train.config import Compute

_FLAGS: Final = frozenset({"avx512_bf16", "amx_bf16", "bf16"})
"""Names in /proc/cpuinfo of instructions that multiply bfloat16: x86's two, and Arm's (BFMMLA). On a processor without
them oneDNN converts to fp32 and back, which is slower than fp32 itself."""


def multiplies_bf16(device: torch.device, cpuinfo: Path = Path("/proc/cpuinfo")) -> bool:
    """Return whether the hardware has products in bfloat16, not just a detour to them."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    try:
        lines = cpuinfo.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return False
    flags = (line.partition(":")[2].split() for line in lines if line.lower().startswith(("flags", "features")))
    return any(_FLAGS & set(names) for names in flags)


def products(compute: Compute, device: torch.device) -> AbstractContextManager[object]:
    """Return the context that a model is called in; weights, gradients and the optimizer stay in fp32."""
    if compute == "bf16" or (compute == "auto" and multiplies_bf16(device)):
        return torch.autocast(device.type, dtype=torch.bfloat16)
    return nullcontext()
