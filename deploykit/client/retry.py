"""When to ask again. Pure: no clock, no sleep."""

import random
from collections.abc import Iterator
from typing import Final

TRIES: Final = 3
"""Attempts at most, the first included, as in the SRE book's chapter on overload."""
BASE: Final = 0.2
"""Seconds that the first wait may take at most; each further one may take twice as long."""


def waits(generator: random.Random) -> Iterator[float]:
    """Yield the seconds to wait before each further attempt: full jitter, so that callers don't return together."""
    for attempt in range(TRIES - 1):
        yield generator.uniform(0, BASE * 2**attempt)
