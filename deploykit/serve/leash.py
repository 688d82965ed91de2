"""Run a program that ends with all of its children when the process that started it ends, however that ends.

    python leash.py PARENT_PID PROGRAM [ARGUMENT ...]

A file of its own, run by a fresh interpreter: code between fork and exec is unsafe in a process with threads. The
kernel ties it to the *thread* that started it, so that thread must live as long as the program may.

It stays between the two. The kernel could end the program by itself, but not the program's children: a backend that
waits for an answer from its server holds Python's lock, and would wait for it, with all its memory, for ever.
"""

import ctypes
import os
import signal
import sys
from types import FrameType

_PR_SET_PDEATHSIG = 1  # linux/prctl.h
_ABANDONED = signal.SIGUSR1


def main(parent: int, command: list[str]) -> int:
    """Run `command` in this session, bound to the life of `parent`, and return its exit status."""
    signal.signal(_ABANDONED, _end_all)
    _tie(_ABANDONED, parent)
    here = os.getpid()
    program = os.fork()
    if program == 0:
        _tie(signal.SIGKILL, here)
        signal.signal(_ABANDONED, signal.SIG_DFL)
        os.execv(command[0], command)  # noqa: S606  # its whole purpose
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda received, _frame: os.kill(program, received))
    status = os.waitstatus_to_exitcode(os.waitpid(program, 0)[1])
    return status if status >= 0 else 128 - status


def _tie(number: int, parent: int) -> None:
    """Have the kernel send a signal when the parent ends."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, number, 0, 0, 0)
    if os.getppid() != parent:
        # It ended before the kernel was told.
        os._exit(1)


def _end_all(_number: int, _frame: FrameType | None) -> None:
    # Its session is its own, so nobody else is in the group.
    os.killpg(os.getpid(), signal.SIGKILL)


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]), sys.argv[2:]))
