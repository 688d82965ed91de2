"""Signals, and what they mean."""

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

ENDING: Final = (signal.SIGTERM, signal.SIGINT)
"""Signals that ask for the end."""


class Hangup:
    """Tells what a SIGHUP means: a terminal that was closed, or somebody who asks for a reload."""

    def __init__(self) -> None:
        # Whoever starts a program with nohup wants it to outlive the terminal.
        self._ends_with_terminal = _has_terminal() and signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN

    def __call__(self) -> bool:
        """Return whether the terminal is gone, and the program is to go with it."""
        # The kernel takes the terminal away from its processes before it sends the signal.
        return self._ends_with_terminal and not _has_terminal()


@contextmanager
def handling(handler: "signal._HANDLER", *numbers: signal.Signals) -> Iterator[None]:
    """Let `handler` take signals; only the main thread can, elsewhere nothing changes."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, handler) for number in numbers}
    try:
        yield
    finally:
        for number, old in before.items():
            signal.signal(number, old)


def _has_terminal() -> bool:
    try:
        os.close(os.open("/dev/tty", os.O_RDWR | os.O_NOCTTY))
    except OSError:
        return False
    return True
