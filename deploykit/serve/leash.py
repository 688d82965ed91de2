"""Run a program that the kernel kills when the process that started it ends, however that ends.

    python leash.py PARENT_PID PROGRAM [ARGUMENT ...]

A file of its own, run by a fresh interpreter: code between fork and exec is unsafe in a process with threads. The
kernel ties the program to the *thread* that started this one, so that thread must live as long as the program may.
"""

import ctypes
import os
import signal
import sys

_PR_SET_PDEATHSIG = 1  # linux/prctl.h


def main(parent: int, command: list[str]) -> None:
    """Become `command`, bound to the life of `parent`."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:
        # It ended before the kernel was told.
        sys.exit(1)
    os.execv(command[0], command)  # noqa: S606  # its whole purpose


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2:])
