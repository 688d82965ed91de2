"""What this process may use of the machine: the limits of its container (second cgroup version), and what is free."""

import math
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


def available_memory(root: Path = ROOT) -> int | None:
    """Return the bytes that can still be had, of the machine's and of this cgroup's, or None where nobody tells."""
    figures = []
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        figures.append(next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:")))
    except (OSError, ValueError, IndexError, StopIteration):
        pass
    limit = memory_limit(root)
    if limit is not None:
        try:
            figures.append(max(0, limit - int((root / "memory.current").read_text())))
        except (OSError, ValueError):
            figures.append(limit)
    return min(figures, default=None)


def affinity() -> int:
    """Return the cores this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def available_cores(root: Path = ROOT) -> int:
    """Return how many cores this process may keep busy: a container's quota counts, not only the machine."""
    quota = cpu_quota(root)
    return affinity() if quota is None else max(1, min(affinity(), math.ceil(quota)))
