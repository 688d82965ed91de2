"""What a container may use of the machine: limits of the second cgroup version."""

import os
from pathlib import Path
from typing import Final

ROOT: Final = Path("/sys/fs/cgroup")


def cpu_quota(root: Path = ROOT) -> float | None:
    """Return the cores' worth of time this cgroup gets, or None where there is no limit."""
    try:
        quota, period = (root / "cpu.max").read_text().split()
        return int(quota) / int(period)
    except (OSError, ValueError):
        return None


def memory_limit(root: Path = ROOT) -> int | None:
    """Return the bytes of memory this cgroup may have, or None where there is no limit."""
    try:
        return int((root / "memory.max").read_text())
    except (OSError, ValueError):
        return None


def affinity() -> int:
    """Return the cores this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
