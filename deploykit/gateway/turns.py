"""Blocking work in threads: little of it at once, and not much that waits."""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Final, TypeVar

from deploykit.gateway.errors import queue_full

MAX_WAITING: Final = 128
"""Pieces of work that wait for a thread: more than a burst of callers leaves behind, since most take a millisecond."""

Result = TypeVar("Result")


class Turns:
    """A few threads, and a short queue in front of them; for one event loop.

    The queue of an executor has no end, and keeps what was cancelled until a thread comes by. What waits here is gone
    as soon as its caller is.
    """

    def __init__(self, at_once: int, *, waiting: int = MAX_WAITING) -> None:
        """Start nothing yet; as many may run as `at_once`, and `waiting` more wait."""
        self._free = asyncio.Semaphore(at_once)
        self._threads = ThreadPoolExecutor(at_once, "turn")
        self._left = waiting

    async def run(self, work: Callable[[], Result]) -> Result:
        """Return what `work` returns; one that has begun runs to its end, whether or not anybody waits for it.

        Raises:
            Refusal: too much waits already.
        """
        await self._turn()
        running = asyncio.get_running_loop().run_in_executor(self._threads, work)
        running.add_done_callback(self._done)
        # Its thread is taken until it ends, even if its caller has gone.
        return await asyncio.shield(running)

    async def _turn(self) -> None:
        if self._free.locked() and not self._left:
            raise queue_full()
        self._left -= 1
        try:
            await self._free.acquire()
        finally:
            self._left += 1

    def _done(self, running: "asyncio.Future[Result]") -> None:
        self._free.release()
        if not running.cancelled():
            # Nobody may be left who hears of a failure, and asyncio would complain.
            running.exception()
