"""The processes that render one model's templates: as many as are needed at once, up to a limit."""

import threading
import time
from collections.abc import Mapping
from contextlib import suppress

from deploykit.chat_template.limits import Limits
from deploykit.chat_template.worker import Worker
from deploykit.errors import QueueFullError, RequestError


class Crew:
    """Workers for any number of threads."""

    def __init__(self, templates: Mapping[str, str], limits: Limits) -> None:
        """Start the first one, and so compile the templates.

        Raises:
            RequestError: as `Worker`.
        """
        self._templates = dict(templates)
        self._limits = limits
        self._changed = threading.Condition()
        self._idle = [Worker(self._templates, limits)]
        self._count = 1
        self._closed = False

    def ask(self, frame: bytes) -> str:
        """Return what a worker makes of a request; one that has gone too far is replaced.

        Raises:
            RequestError: as `Worker.ask`.
            QueueFullError: all workers were at work for as long as a rendering may take.
        """
        worker = self._take() or self._another()
        try:
            return worker.ask(frame)
        finally:
            self._give_back(worker)

    def close(self) -> None:
        """End all workers, those at work after their answer; a second call does nothing."""
        with self._changed:
            self._closed = True
            idle, self._idle = self._idle, []
            self._changed.notify_all()
        for worker in idle:
            worker.close()

    def _take(self) -> Worker | None:
        """Return an idle worker, or None and the right to start one."""
        end = time.monotonic() + self._limits.wall_seconds
        with self._changed:
            while not self._idle and self._count >= self._limits.processes and not self._closed:
                if not self._changed.wait(max(0.0, end - time.monotonic())):
                    raise QueueFullError(
                        f"all {self._limits.processes} processes for the chat template are busy; try again later"
                    )
            if self._closed:
                raise RequestError("the chat template is closed; the server is about to end")
            if self._idle and self._idle[-1].running:
                return self._idle.pop()
            if self._idle:
                # Its place is taken by a new one.
                self._idle.pop().close()
            else:
                self._count += 1
            return None

    def _another(self) -> Worker:
        try:
            return Worker(self._templates, self._limits)
        except BaseException:
            self._forget()
            raise

    def _give_back(self, worker: Worker) -> None:
        with self._changed:
            if worker.usable and not self._closed:
                self._idle.append(worker)
                self._changed.notify()
                return
        self._forget()
        with suppress(OSError):
            worker.close()

    def _forget(self) -> None:
        with self._changed:
            self._count -= 1
            self._changed.notify()
