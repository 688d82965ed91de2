"""This machine: cores, instruction sets, memory, disk, GPU."""

import os
import platform
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final

import deploykit.cgroup as cgroup
from deploykit.doctor.finding import Finding, ok

_X86: Final = ("avx2", "fma", "avx512f", "avx512_vnni", "avx_vnni", "amx_int8", "amx_tile")
_ARM: Final = ("asimddp", "i8mm", "sve", "bf16")
"""Names in /proc/cpuinfo of what ONNX Runtime's matrix kernels use; asimddp is Arm's dot product."""

_DOT: Final = frozenset({"avx512_vnni", "avx_vnni", "asimddp", "i8mm"})
"""Those that multiply int8 in one instruction."""


def check_machine(disk: Path) -> Iterator[Finding]:
    """Yield what there is here; `disk` is where models lie."""
    yield ok("system", f"{platform.system()} {platform.release()}, {platform.machine()}, {_distribution()}")
    yield _cores()
    yield instructions(Path("/proc/cpuinfo"), platform.machine())
    yield _memory()
    yield _disk(disk)
    yield gpu(Path("/dev"))


def _distribution() -> str:
    try:
        return platform.freedesktop_os_release().get("PRETTY_NAME", "unknown distribution")
    except OSError:
        return "unknown distribution"


def _cores() -> Finding:
    there, may, quota = os.cpu_count() or 1, cgroup.affinity(), cgroup.cpu_quota()
    found = f"{there} in the machine, {may} for this process, {'no quota' if quota is None else f'quota {quota:.3g}'}"
    if quota is not None and quota < 1:
        remedy = "raise the container's CPU limit to at least 1"
        return Finding(level="warning", what="cores", found=found, remedy=remedy)
    return ok("cores", found)


def has_dot_product(cpuinfo: Path = Path("/proc/cpuinfo")) -> bool:
    """Return whether the processor multiplies int8 by uint8 in one instruction."""
    return bool(_DOT & _flags(_lines(cpuinfo)))


def overflows_int8(cpuinfo: Path = Path("/proc/cpuinfo"), machine: str = platform.machine()) -> bool:
    """Return whether the processor is known to add products of uint8 and int8 in 16 bits: x86 without VNNI."""
    flags = _flags(_lines(cpuinfo))
    return machine in {"x86_64", "AMD64"} and bool(flags) and not _DOT & flags


def _lines(cpuinfo: Path) -> list[tuple[str, str]]:
    try:
        text = cpuinfo.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return []
    pairs = [line.partition(":") for line in text.splitlines()]
    return [(key.strip(), value.strip()) for key, _, value in pairs]


def _flags(lines: list[tuple[str, str]]) -> set[str]:
    return {flag for key, value in lines if key in {"flags", "Features"} for flag in value.split()}


def instructions(cpuinfo: Path, machine: str) -> Finding:
    """Return which of the instruction sets that matter a processor has."""
    lines = _lines(cpuinfo)
    have = _flags(lines)
    if not have:
        return Finding(level="note", what="instructions", found="can't be told without /proc/cpuinfo")
    arm = machine in {"aarch64", "arm64"}
    wanted = _ARM if arm else _X86
    model = next((value for key, value in lines if key == "model name"), machine)
    present = [name for name in wanted if name in have]
    found = f"{model}: {', '.join(present) or 'none of ' + ', '.join(wanted)}"
    if not arm and "avx2" not in have:
        remedy = "use a processor with AVX2 (2013 or later): matrix products are several times faster on it"
        return Finding(level="warning", what="instructions", found=found, remedy=remedy)
    if not _DOT & have:
        remedy = "int8 and int4 are faster on processors with VNNI (x86) or the dot product (Arm)"
        return Finding(level="note", what="instructions", found=f"{found}; no int8 dot product", remedy=remedy)
    return ok("instructions", found)


def memory_figures() -> Mapping[str, int]:
    """Return total and available memory and the container's limit, in bytes; a figure that can't be had is missing."""
    figures: dict[str, int] = {}
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        kilobytes = {line.split(":")[0]: int(line.split()[1]) for line in lines}
        figures = {"total": kilobytes["MemTotal"] * 1024, "available": kilobytes["MemAvailable"] * 1024}
    except (OSError, KeyError, ValueError, IndexError):
        pass
    limit = cgroup.memory_limit()
    return figures if limit is None else {**figures, "limit": limit}


def _memory() -> Finding:
    figures = memory_figures()
    parts = [f"{size / 1e9:.2f} GB {name}" for name, size in figures.items()]
    return (
        ok("memory", ", ".join(parts) or "can't be told")
        if parts
        else Finding(level="note", what="memory", found="can't be told without /proc/meminfo")
    )


def _disk(place: Path) -> Finding:
    there = next((folder for folder in (place.absolute(), *place.absolute().parents) if folder.exists()), Path("/"))
    free = shutil.disk_usage(there).free
    found = f"{free / 1e9:.1f} GB free at {there}"
    if free < 2e9:
        remedy = "make room: an export needs about three times the checkpoint's size"
        return Finding(level="warning", what="disk", found=found, remedy=remedy)
    return ok("disk", found)


def gpu(devices: Path) -> Finding:
    """Return which NVIDIA GPU there is, and whether the ONNX Runtime here can use it."""
    names = _nvidia_smi()
    nodes = sorted(node.name for node in devices.glob("nvidia[0-9]*"))
    if not names and not nodes:
        return ok("GPU", "none (no NVIDIA device)")
    found = "; ".join(names) or f"device {', '.join(nodes)}, but nvidia-smi doesn't answer"
    providers = _providers()
    if not names:
        remedy = "install the driver, or give the container the GPU (docker run --gpus all)"
        return Finding(level="warning", what="GPU", found=found, remedy=remedy)
    if "CUDAExecutionProvider" not in providers:
        remedy = "to use it: pip uninstall onnxruntime; pip install 'deploykit[gpu]'"
        return Finding(
            level="note", what="GPU", found=f"{found}; ONNX Runtime here has no CUDA provider", remedy=remedy
        )
    return ok("GPU", f"{found}; CUDA provider there")


def _nvidia_smi() -> list[str]:
    program = shutil.which("nvidia-smi")
    if program is None:
        return []
    query = [program, "--query-gpu=name,memory.total,driver_version", "--format=csv,noheader"]
    try:
        done = subprocess.run(query, capture_output=True, text=True, timeout=10, check=False)  # noqa: S603 - found in PATH
    except (OSError, subprocess.TimeoutExpired):
        return []
    return [line.strip() for line in done.stdout.splitlines() if line.strip()] if done.returncode == 0 else []


def _providers() -> list[str]:
    try:
        import onnxruntime
    except Exception:  # a broken installation raises whatever its libraries do
        return []
    return list(onnxruntime.get_available_providers())
