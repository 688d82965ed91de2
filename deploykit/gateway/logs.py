"""The gateway's log: a JSON object a line on stderr, with no address, no path, and no prompt unless asked for."""

import json
import logging
import sys
import time
from contextvars import ContextVar
from datetime import UTC, datetime
from pathlib import Path
from traceback import extract_tb
from typing import Any, Final, TextIO

LOGGER: Final = logging.getLogger("deploykit.gateway")
OURS: Final = "deploykit"
FRAMES: Final = 5
"""How many of the innermost calls an error's line names."""
QUIET: Final = 60.0
"""Seconds in which a library's line isn't said again: a collector of traces that is down would fill the log."""

current_request: ContextVar[str] = ContextVar("current_request", default="")
"""Id of the request that the running code works on."""


def set_up(stream: TextIO | None = None) -> None:
    """Have everything that is logged in this process written so, libraries' errors too."""
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.setFormatter(JsonLines())
    handler.addFilter(OnceAMinute())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.WARNING)
    logging.getLogger(OURS).setLevel(logging.INFO)
    # It warns of each request that isn't HTTP: whoever sends those could fill the disk.
    logging.getLogger("uvicorn").setLevel(logging.ERROR)


def tell(message: str, *, level: int = logging.INFO, error: BaseException | None = None, **fields: Any) -> None:
    """Log one event with what belongs to it; of `error`, its type and where it was raised."""
    LOGGER.log(level, message, exc_info=error, extra={"fields": fields})


class JsonLines(logging.Formatter):
    """A record as one line of JSON."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line."""
        line: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "message": _message(record),
        }
        if not _is_ours(record):
            line["logger"] = record.name
        if request := current_request.get():
            line["request_id"] = request
        line |= getattr(record, "fields", {})
        if record.exc_info and record.exc_info[1]:
            line |= described(record.exc_info[1])
        # In ASCII: nothing in a line can end it, or be obeyed by a terminal.
        return json.dumps(line, default=str)


class OnceAMinute(logging.Filter):
    """Lets a library say the same thing once in `QUIET` seconds; our own lines all pass."""

    def __init__(self) -> None:
        super().__init__()
        self._said: dict[tuple[str, int], float] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        """Return whether the record is to be written."""
        place, now = (record.pathname, record.lineno), time.monotonic()
        if _is_ours(record) or now - self._said.get(place, -QUIET) >= QUIET:
            self._said[place] = now
            return True
        return False


def described(error: BaseException) -> dict[str, Any]:
    """Return what is logged of an error: not its message, which may hold a prompt or a path."""
    frames = extract_tb(error.__traceback__)[-FRAMES:]
    where = [f"{Path(frame.filename).name}:{frame.lineno} in {frame.name}" for frame in frames]
    return {"error": type(error).__name__, "where": where}


def _message(record: logging.LogRecord) -> str:
    if _is_ours(record):
        return record.getMessage()
    # As it stands in the library's code: what it would fill in may be an address or a piece of a request.
    return str(record.msg).partition("\n")[0]


def _is_ours(record: logging.LogRecord) -> bool:
    return record.name.partition(".")[0] == OURS
