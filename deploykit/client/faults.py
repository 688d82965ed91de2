"""From what a server reports to the error a caller gets. Pure: names and numbers of status codes, and text; no I/O."""

import re
from typing import Final

from deploykit.client.errors import (
    CancelledError,
    ClientError,
    DeadlineExceededError,
    InvalidRequestError,
    NotFoundError,
    PermissionDeniedError,
    ServerError,
    StreamBrokenError,
    UnavailableError,
)

_BY_STATUS: Final[dict[str, type[ClientError]]] = {
    "CANCELLED": CancelledError,
    "DEADLINE_EXCEEDED": DeadlineExceededError,
    "INVALID_ARGUMENT": InvalidRequestError,
    "NOT_FOUND": NotFoundError,
    "OUT_OF_RANGE": InvalidRequestError,
    "PERMISSION_DENIED": PermissionDeniedError,
    "RESOURCE_EXHAUSTED": UnavailableError,
    "UNAUTHENTICATED": PermissionDeniedError,
    "UNAVAILABLE": UnavailableError,
}
"""The others (INTERNAL, UNKNOWN, UNIMPLEMENTED, …) are the server's own failures."""

_BY_HTTP: Final[dict[int, type[ClientError]]] = {
    401: PermissionDeniedError,
    403: PermissionDeniedError,
    404: NotFoundError,
    408: DeadlineExceededError,
    429: UnavailableError,
    499: CancelledError,
    502: UnavailableError,
    503: UnavailableError,
    504: DeadlineExceededError,
}
"""Others are the request's fault from 400 to 499, and the server's where not."""
_BY_CODE: Final[dict[str, type[ClientError]]] = {
    "model_not_found": NotFoundError,
    "rate_limit_exceeded": UnavailableError,
    "timeout": DeadlineExceededError,
    "unavailable": UnavailableError,
}
_BY_TYPE: Final[dict[str, type[ClientError]]] = {
    "invalid_request_error": InvalidRequestError,
    "rate_limit_error": UnavailableError,
    "server_error": ServerError,
    "timeout_error": DeadlineExceededError,
}
"""Codes and types of an error that comes in a stream, after a status of 200."""

_TEXTS: Final = (
    (re.compile(r"unknown model|^model .* is not found", re.IGNORECASE), NotFoundError),
    (
        re.compile(r"not (at )?ready|is stopping|maximum queue size|stub process .* not healthy", re.IGNORECASE),
        UnavailableError,
    ),
    (re.compile(r"request timeout expired", re.IGNORECASE), DeadlineExceededError),
    (
        re.compile(r"unexpected inference input|inference input '|input\(s\)|expected \d+ inputs", re.IGNORECASE),
        InvalidRequestError,
    ),
)
"""What Triton's core says in a stream, where it gives no status code."""

_RESTRICTED: Final = "This protocol is restricted"
"""How Triton begins to say that a call is for administrators; its status code is UNAVAILABLE."""

_STATUS_PREFIX: Final = re.compile(r"([A-Z][A-Z_]+): (.+)", re.DOTALL)
_REQUEST_ID: Final = re.compile(r"^\[request id: [^\]]*\] ")


def fault_of_status(status: str, details: str, *, url: str) -> ClientError:
    """Return the error for a call that ended with a gRPC status.

    Args:
        status: the code's name, such as `UNAVAILABLE`.
        details: the status's text.
        url: the server, as the user named it.
    """
    kind = PermissionDeniedError if details.startswith(_RESTRICTED) else _BY_STATUS.get(status, ServerError)
    said = " ".join(details.split()) or status
    if kind is UnavailableError:
        return UnavailableError(f"{url}: unavailable: {said}; check that the server runs there and speaks gRPC")
    if kind is DeadlineExceededError:
        return DeadlineExceededError(f"{url}: no complete answer within the timeout; allow more with timeout=")
    return kind(f"{url}: {said}")


def fault_of_message(message: str) -> ClientError:
    """Return the error for an `error_message` inside a stream, which has text only.

    Triton drops the status code of an error there, so deploykit's models write its name before the text
    (`INVALID_ARGUMENT: …`); Triton's own texts are known by their words.
    """
    text = _REQUEST_ID.sub("", " ".join(message.split()))
    prefixed = _STATUS_PREFIX.fullmatch(text)
    if prefixed and (prefixed[1] in _BY_STATUS or prefixed[1] in ("INTERNAL", "UNKNOWN", "UNIMPLEMENTED")):
        return _BY_STATUS.get(prefixed[1], ServerError)(prefixed[2])
    for pattern, kind in _TEXTS:
        if pattern.search(text):
            return kind(text)
    return ServerError(text)


def fault_of_response(status: int, error: object, *, url: str) -> ClientError:
    """Return the error for an HTTP response, or for an error object in a stream, where `status` is 200.

    Args:
        status: the response's status.
        error: OpenAI's error object, if the response has one.
        url: the server, as the user named it.
    """
    told = error if isinstance(error, dict) else {}
    kind = _BY_CODE.get(str(told.get("code"))) or _BY_TYPE.get(str(told.get("type")))
    if status in _BY_HTTP or kind is None:
        kind = _BY_HTTP.get(status, InvalidRequestError if 400 <= status < 500 else ServerError)
    message = told.get("message")
    said = " ".join(str(message).split()) if message else f"HTTP status {status}"
    return kind(said if kind is InvalidRequestError and message else f"{url}: {said}")


def in_mid_stream(fault: ClientError, *, text: str, tokens: int) -> ClientError:
    """Return what `fault` means once a part of the answer has arrived."""
    if isinstance(fault, DeadlineExceededError | CancelledError):
        return type(fault)(f"{fault} (after {tokens} tokens)", text=text)
    return StreamBrokenError(f"the stream broke after {tokens} tokens: {fault}", text=text)
