"""Takes a secret out of a process's command line, which every user of the machine can read."""

from pathlib import Path
from typing import Final

_ARG_START: Final = 48  # Linux, proc_pid_stat(5): fields are counted from 1
_FIRST_AFTER_NAME: Final = 3


def children(pid: int) -> list[int]:
    """Return the processes that a process's main thread has started."""
    try:
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except (OSError, ValueError):
        return []


def hide(pid: int, secret: str) -> bool:
    """Overwrite `secret` in the command line of a process that has read it, and return whether it is gone.

    The kernel allows that for those that one has started, unless they run as somebody else or it is set to be stricter.
    """
    try:
        # The command stands in brackets and may hold any character.
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2].split()
        start, line = int(fields[_ARG_START - _FIRST_AFTER_NAME]), Path(f"/proc/{pid}/cmdline").read_bytes()
        with Path(f"/proc/{pid}/mem").open("r+b", buffering=0) as memory:
            found = line.find(secret.encode())
            while found >= 0:
                memory.seek(start + found)
                memory.write(b"-" * len(secret))
                found = line.find(secret.encode(), found + len(secret))
        return secret.encode() not in Path(f"/proc/{pid}/cmdline").read_bytes()
    except (OSError, ValueError, IndexError):
        return False
