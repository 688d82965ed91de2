"""What happens to a running server, and how whoever watches hears of it."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from queue import SimpleQueue
from typing import Final, Literal

MOST: Final = 1000
"""Events that are kept for a listener; where nobody listens, later ones are dropped."""
LAST_WORDS: Final = 1.0
"""Seconds that a listener gets for the events before the end."""


@dataclass(frozen=True, kw_only=True)
class Event:
    """A part of the server has died or serves again, or the end has been asked for."""

    what: Literal["died", "restarted", "stopping"]
    reason: str = ""
    """What died, and how; of what serves again as well."""
    seconds: float = 0.0
    """How long it did not serve."""


Tell = Callable[[Event], None]
"""Takes an event, and never waits."""


class Events:
    """Hands events to a listener on a thread of its own: one that is slow must not hold up a restart."""

    def __init__(self) -> None:
        self._queue: SimpleQueue[Event | None] = SimpleQueue()

    def tell(self, event: Event) -> None:
        """Note an event; any thread may, and a signal handler."""
        if self._queue.qsize() < MOST:
            self._queue.put(event)

    @contextmanager
    def heard_by(self, listener: Tell) -> Iterator[None]:
        """Have `listener` told of each event meanwhile, those that wait already first."""
        thread = threading.Thread(target=self._listen, args=(listener,), name="events", daemon=True)
        thread.start()
        try:
            yield
        finally:
            self._queue.put(None)
            thread.join(LAST_WORDS)

    def _listen(self, listener: Tell) -> None:
        while event := self._queue.get():
            # Whoever read it may have gone: the server serves on.
            with suppress(OSError, ValueError):
                listener(event)


def spell_status(status: int) -> str:
    """Return how a process ended, by its exit status: Python's way of telling a signal, or a shell's."""
    if status < 0 or 128 < status <= 128 + 64:
        return f"signal {-status if status < 0 else status - 128}"
    return f"exit status {status}"


def spell_ending(pid: int) -> str:
    """Return how a process ended that nobody has waited for yet, another's child; nothing where that isn't known."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b") ")[2].split()
        if fields[0] != b"Z":
            return ""
        # The last field, as `wait` would report it.
        code = int(fields[-1])
    except (OSError, ValueError, IndexError):
        return ""
    return f"signal {code & 0x7F}" if code & 0x7F else f"exit status {code >> 8}"
