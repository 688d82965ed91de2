"""Why a request isn't answered: the kind of error that its caller gets, and one line."""

from dataclasses import dataclass
from enum import Enum

from deploykit.errors import EngineError, QueueFullError, RequestError


class Code(Enum):
    """What kind of error a caller gets."""

    INVALID_ARGUMENT = "INVALID_ARGUMENT"
    UNAVAILABLE = "UNAVAILABLE"
    DEADLINE_EXCEEDED = "DEADLINE_EXCEEDED"
    CANCELLED = "CANCELLED"
    INTERNAL = "INTERNAL"


@dataclass(frozen=True, kw_only=True)
class Refusal:
    """An error as its caller gets it."""

    code: Code
    message: str


GONE = Refusal(code=Code.CANCELLED, message="the request was cancelled")
LATE = Refusal(code=Code.DEADLINE_EXCEEDED, message="the request waited longer than its timeout and was not run")
FAILED = Refusal(code=Code.INTERNAL, message="the model failed on this request; the server's log says more")
UNEXPECTED = Refusal(code=Code.INTERNAL, message="the server failed on this request; its log says more")


def refusal_of(error: Exception) -> Refusal:
    """Return what a request's caller is told of an error; `UNEXPECTED` of one that only the log should tell."""
    if isinstance(error, QueueFullError):
        return Refusal(code=Code.UNAVAILABLE, message=str(error))
    if isinstance(error, RequestError):
        return Refusal(code=Code.INVALID_ARGUMENT, message=str(error))
    if isinstance(error, EngineError):
        message = "the engine has stopped and will be restarted; try again"
        return Refusal(code=Code.UNAVAILABLE, message=message)
    return UNEXPECTED
