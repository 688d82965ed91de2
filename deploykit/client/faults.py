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
    # A model that it has, while it ends.
    (re.compile(r"has no available versions$"), UnavailableError),
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

_NO_GRPC: Final = re.compile(r"HTTP/2|SETTINGS frame|HTTP/1|http2 header with status", re.IGNORECASE)
"""How gRPC says that something else is spoken there."""
_NOT_REACHED: Final = re.compile(r"failed to connect to all addresses|Failed to connect to remote host")
"""How gRPC begins to say that nobody answers; what follows is about the last of several addresses."""
_REASONS: Final = (
    (re.compile("Connection refused"), "connection refused"),
    (re.compile("Name or service not known|name resolution|DNS resolution failed"), "no such host"),
    (re.compile("No route to host|Network is unreachable"), "no way to that host"),
    (re.compile("SSL|TLS|[Hh]andshake|certificate"), "TLS fails"),
)
_KEY: Final = "a client's api_key=, a command's DEPLOYKIT_API_KEY"

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
        return _unavailable(said, url=url)
    if kind is DeadlineExceededError:
        return DeadlineExceededError(f"{url}: no complete answer within the timeout; allow more with timeout=")
    return kind(f"{url}: {said}")


def _unavailable(said: str, *, url: str) -> UnavailableError:
    if _NO_GRPC.search(said):
        bare = url.rpartition("://")[2].lstrip("/")
        return UnavailableError(
            f"{url}: no gRPC is spoken there; the gateway is http://{bare}, and Triton's gRPC port usually 8001"
        )
    if _NOT_REACHED.search(said):
        reason = next((reason for pattern, reason in _REASONS if pattern.search(said)), "nobody answers")
        return UnavailableError(
            f"{url}: unavailable: {reason}; check that the server runs there, and that this is Triton's gRPC "
            "port, usually 8001 (the gateway's address begins with http://)"
        )
    return UnavailableError(f"{url}: unavailable: {said}; check that the server runs there and speaks gRPC")


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


def fault_of_response(status: int, error: object, *, url: str, retry_after: float | None = None) -> ClientError:
    """Return the error for an HTTP response, or for an error object in a stream, where `status` is 200.

    Args:
        status: the response's status.
        error: OpenAI's error object, if the response has one.
        url: the server, as the user named it.
        retry_after: seconds in which it wants no further try, where it says so.
    """
    told = error if isinstance(error, dict) else {}
    kind = _BY_CODE.get(str(told.get("code"))) or _BY_TYPE.get(str(told.get("type")))
    if status in _BY_HTTP or kind is None:
        kind = _BY_HTTP.get(status, InvalidRequestError if 400 <= status < 500 else ServerError)
    message = told.get("message")
    said = " ".join(str(message).split()) if message else _unexplained(status)
    if status == 401:
        said += f" ({_KEY})"
    if kind is UnavailableError:
        return UnavailableError(f"{url}: {said}", retry_after=retry_after)
    return kind(said if kind is InvalidRequestError and message else f"{url}: {said}")


def _unexplained(status: int) -> str:
    if status in (400, 404, 405):
        return (
            f"OpenAI's API isn't there (HTTP status {status}); give the gateway's address. Of Triton itself, 8000 is "
            "usually HTTP, which isn't spoken here, and HOST:8001 gRPC"
        )
    return f"HTTP status {status}"


def in_mid_stream(fault: ClientError, *, text: str, tokens: int) -> ClientError:
    """Return what `fault` means once a part of the answer has arrived."""
    came = f"after {tokens} token{'' if tokens == 1 else 's'}"
    if isinstance(fault, DeadlineExceededError | CancelledError):
        return type(fault)(f"{fault} ({came})", text=text)
    return StreamBrokenError(f"the stream broke {came}: {fault}", text=text)
