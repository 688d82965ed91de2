"""A line of JSON for each request that has ended, for whoever asked for it; no prompt in it unless that was, too."""

import json
import os
import queue
import threading
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Final

from deploykit.serve.prompt import Chat
from deploykit.serve.record import Record

MOST_WAITING: Final = 4096
"""Lines kept for a reader that is slow; those that come then are counted."""
_PATIENCE: Final = 1.0
"""Seconds that the last lines get at the end."""


class RequestLog:
    """Writes lines from a thread of its own: their reader may be slow, and requests don't wait for it."""

    def __init__(self, file: int, *, labels: Mapping[str, str], prompts: bool = False) -> None:
        """Start the thread.

        Args:
            file: number of an open file.
            labels: what every line begins with: the model and its version.
            prompts: whether prompts are written as well.
        """
        self._file = file
        self._labels = dict(labels)
        self._prompts = prompts
        self._lines: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        self._lost = 0
        self._thread = threading.Thread(target=self._run, name="request-log", daemon=True)
        self._thread.start()

    def __call__(self, record: Record) -> None:
        """Have a request's line written."""
        if self._lines.qsize() >= MOST_WAITING:
            self._lost += 1
            return
        if self._lost:
            self._lines.put(_line("requests not logged", {**self._labels, "requests": self._lost}))
            self._lost = 0
        self._lines.put(_line("request", {**self._labels, **_fields(record, prompts=self._prompts)}))

    def close(self) -> None:
        """Write what is left, if its reader takes it, and end."""
        self._lines.put(None)
        self._thread.join(_PATIENCE)

    def _run(self) -> None:
        while (line := self._lines.get()) is not None:
            rest = line.encode()
            try:
                while rest:
                    rest = rest[os.write(self._file, rest) :]
            except OSError:
                # Its reader has gone; there is nobody to tell.
                return


def _line(message: str, fields: Mapping[str, Any]) -> str:
    """Return a line that begins as the gateway's do, so that one parser reads both."""
    now = datetime.now(UTC).isoformat(timespec="milliseconds")
    # In ASCII: nothing in a line can end it, or be obeyed by a terminal.
    return json.dumps({"time": now, "level": "info", "message": message, "logger": "deploykit.serve", **fields}) + "\n"


def _fields(record: Record, *, prompts: bool) -> dict[str, Any]:
    fields = {
        "request_id": record.request_id[:128],
        "trace_id": record.trace_id,
        "operation": record.operation,
        "status": record.status,
        "finished": record.finish_reasons,
        "prompt_tokens": record.num_input_tokens,
        "generated_tokens": record.num_output_tokens,
        **{f"{stage}_ms": _milliseconds(end - begun) for stage, (begun, end) in record.stages().items()},
        "duration_ms": _milliseconds(record.ended - record.arrived),
    }
    return fields | ({"prompt": _prompt(record)} if prompts and record.query else {})


def _milliseconds(seconds: float) -> float:
    return round(seconds * 1000, 3)


def _prompt(record: Record) -> Any:
    prompt = record.query.prompt if record.query else ""
    if isinstance(prompt, Chat):
        return {"messages": prompt.messages, **({"tools": prompt.tools} if prompt.tools else {})}
    return prompt if isinstance(prompt, str) else list(prompt[:MOST_WAITING])
