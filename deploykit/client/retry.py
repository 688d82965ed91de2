"""When to ask again. Pure: no clock, no sleep."""

import random
import threading
from collections.abc import Iterator
from typing import Final

TRIES: Final = 3
"""Attempts at most, the first included, as in the SRE book's chapter on overload."""
BASE: Final = 0.2
"""Seconds that the first wait may take at most; each further one may take twice as long."""
SHARE: Final = 0.1
"""Further attempts for each request, in the long run: the same chapter's budget against retry storms."""
ADVANCE: Final = 2
"""Further attempts that a new client may make before it has earned them; its first requests pay them back."""
SAVED: Final = 10
"""Further attempts that may be saved up: what one bad moment may cost a server at most."""


def waits(generator: random.Random, tries: int = TRIES) -> Iterator[float]:
    """Yield the seconds to wait before each further attempt: full jitter, so that callers don't return together."""
    for attempt in range(tries - 1):
        yield generator.uniform(0, BASE * 2**attempt)


class Budget:
    """How many further attempts all calls of a client may make together: a tenth of their requests.

    A bucket of tokens: each request adds a part of one, each further attempt takes one. It begins with a few, so that a
    short script may ask again, too, and the first requests add none until those are paid back. So of all its requests,
    from the twentieth on, never more than 1.1 times as many are sent; what was saved before, a bad moment may take.
    """

    def __init__(self) -> None:
        # In tenths: sums of 0.1 would drift.
        self._unit = round(1 / SHARE)
        self._owed = self._tokens = ADVANCE * self._unit
        self._lock = threading.Lock()

    def earn(self) -> None:
        """Count a request."""
        with self._lock:
            if self._owed:
                self._owed -= 1
            else:
                self._tokens = min(self._tokens + 1, SAVED * self._unit)

    def spend(self) -> bool:
        """Return whether one more attempt may be made, and count it if so."""
        with self._lock:
            if self._tokens < self._unit:
                return False
            self._tokens -= self._unit
            return True
