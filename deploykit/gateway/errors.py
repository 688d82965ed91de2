"""What is answered instead of what was asked for: OpenAI's error objects.

400 invalid_request_error   a request that can't be; `code` says which kind, `param` which field
401, 403, 413               the middlewares in front of the routes; of the same type, as OpenAI has it
404 invalid_request_error   `model_not_found`, or no such route
405, 415                    another method, another content type
429 rate_limit_error        as many requests wait as may; `Retry-After` says when to come again
500 server_error            a failure of the server's own, which its log says more about
503 server_error            the model starts, or starts again
504 timeout_error           the answer took too long
"""

import json
import logging
import re
from http import HTTPStatus
from typing import Any, Final

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from deploykit.client import (
    CancelledError,
    ClientError,
    DeadlineExceededError,
    InvalidRequestError,
    NotFoundError,
    StreamBrokenError,
    UnavailableError,
)
from deploykit.errors import DeploykitError
from deploykit.gateway.logs import tell

INVALID: Final = "invalid_request_error"
RETRY_AFTER: Final = 1
"""Seconds after which a refused caller may try again: a place in the queue is free after an answer."""
_FULL: Final = re.compile(r"queue is full|queue size")
"""How the engine and Triton say that their queue is full."""
_CONTEXT: Final = re.compile(r"the context of (\d+)")
_SOURCE: Final = re.compile(r"the encoder reads at most \d+")
"""How the engine says that a prompt is too long."""
_ADDRESS: Final = re.compile(r"^\S+:\d+: ")
"""What the client puts before what a server says by gRPC's own status."""
_CODES: Final = {"missing": "missing_required_parameter", "extra_forbidden": "unknown_parameter"}
_REFUSED: Final = "refused"
"""Where a request's state holds the refusal it was answered."""
_OPENAI: Final = ("/chat/completions", "/completions", "/models")
"""Routes under `/v1`, as a client asks for them whose base URL ends before it."""
_LARGEST: Final = 2**63
"""Numbers beyond aren't shown: Python writes out no integer of more than 4,300 digits."""


class Refusal(DeploykitError):  # noqa: N818 - it is an answer, and not always the caller's error
    """A request that gets an error object instead of an answer."""

    def __init__(
        self,
        message: str,
        *,
        status: int = 400,
        kind: str = INVALID,
        param: str | None = None,
        code: str | None = None,
        retry_after: int | None = None,
        model: str | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.kind = kind
        self.param = param
        self.code = code
        self.retry_after = retry_after
        self.model = model
        """The one that was asked for, where it is known here; for the log alone."""

    def body(self) -> dict[str, Any]:
        """Return the error object."""
        return {"error": {"message": str(self), "type": self.kind, "param": self.param, "code": self.code}}

    def response(self) -> JSONResponse:
        """Return the HTTP response."""
        return _RefusalResponse(self)

    def event(self) -> bytes:
        """Return the event that says so in a stream."""
        return b"data: " + json.dumps(self.body()).encode() + b"\n\n"


class _RefusalResponse(JSONResponse):
    """An error object, which the request's line of the log tells of, too, whoever sends it."""

    def __init__(self, refusal: Refusal) -> None:
        headers = None if refusal.retry_after is None else {"retry-after": str(refusal.retry_after)}
        super().__init__(refusal.body(), refusal.status, headers)
        self._refusal = refusal

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        scope.setdefault("state", {})[_REFUSED] = self._refusal
        await super().__call__(scope, receive, send)


def refused(scope: Scope) -> Refusal | None:
    """Return what a request was answered instead of what it asked for, if it was."""
    refusal = scope.get("state", {}).get(_REFUSED)
    return refusal if isinstance(refusal, Refusal) else None


def no_such_model(name: str) -> Refusal:
    """Return what is said of a model that isn't served."""
    shown = ascii(name) if len(name) <= 128 else "of that name"
    return Refusal(
        f"the model {shown} does not exist; GET /v1/models lists those that do",
        status=404,
        param="model",
        code="model_not_found",
        model=name,
    )


def refusal_of(error: ClientError) -> Refusal:
    """Return what a caller is told of a failure between the gateway and Triton: no address, no text of others."""
    if isinstance(error, InvalidRequestError):
        told = _ADDRESS.sub("", str(error))
        too_long = _CONTEXT.search(told) or _SOURCE.search(told)
        return Refusal(told, code="context_length_exceeded" if too_long else None)
    if isinstance(error, NotFoundError):
        return Refusal("the model is not loaded", status=404, param="model", code="model_not_found")
    if isinstance(error, DeadlineExceededError):
        return Refusal("no complete answer within the time limit", status=504, kind="timeout_error", code="timeout")
    if isinstance(error, UnavailableError | CancelledError | StreamBrokenError):
        return queue_full() if is_full(error) else unavailable()
    return failure()


def failure() -> Refusal:
    """Return what is said of a failure that is nobody's business but the server's."""
    return Refusal("the server failed on this request; its log says more", status=500, kind="server_error")


def queue_full() -> Refusal:
    """Return what is said where as many requests wait as may."""
    return Refusal(
        "too many requests wait already; try again later",
        status=429,
        kind="rate_limit_error",
        code="rate_limit_exceeded",
        retry_after=RETRY_AFTER,
    )


def unavailable() -> Refusal:
    """Return what is said where a model isn't ready."""
    return Refusal(
        "the model is not ready: it starts, or starts again; try again",
        status=503,
        kind="server_error",
        code="unavailable",
        retry_after=RETRY_AFTER,
    )


def is_full(error: ClientError) -> bool:
    """Return whether a model is well, but has as many requests as may wait."""
    return isinstance(error, UnavailableError) and _FULL.search(str(error)) is not None


def context_of(error: ClientError) -> int | None:
    """Return the engine's context in tokens, where it has refused a prompt for its length."""
    found = _CONTEXT.search(str(error)) if isinstance(error, InvalidRequestError) else None
    return int(found[1]) if found else None


def log_failure(error: BaseException) -> None:
    """Log where something failed that nobody foresaw, without its message: that might hold a prompt or a path."""
    tell("a request failed", level=logging.ERROR, error=error)


def add_handlers(app: FastAPI) -> None:
    """Have every error answered as OpenAI's API answers it."""
    app.add_exception_handler(Refusal, _refused)
    app.add_exception_handler(ClientError, _not_served)
    app.add_exception_handler(RequestValidationError, _not_valid)
    app.add_exception_handler(HTTPException, _not_routed)


class Failures:
    """The innermost middleware: what nobody expected becomes an error object, too, and one line of the log."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on."""
        begun = False

        async def watched(message: Message) -> None:
            nonlocal begun
            begun = True
            await send(message)

        try:
            await self._app(scope, receive, watched)
        except Exception as error:
            log_failure(error)
            if not begun:
                await failure().response()(scope, receive, send)


async def _refused(_request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, Refusal)
    return error.response()


async def _not_served(_request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, ClientError)
    return refusal_of(error).response()


async def _not_routed(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, HTTPException)
    message = {404: "no such route", 405: "no such method here"}.get(error.status_code, str(error.detail))
    if error.status_code == HTTPStatus.NOT_FOUND and request.url.path in _OPENAI:
        message += ": OpenAI's routes begin with /v1, and so the base URL of a client ends with it"
    response = Refusal(f"{message}; see /openapi.json", status=error.status_code).response()
    response.headers.update(error.headers or {})
    return response


async def _not_valid(_request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestValidationError)
    refusal = _first(error.errors()[0])
    wanted = error.body.get("model") if isinstance(error.body, dict) else None
    refusal.model = wanted if isinstance(wanted, str) else None
    return refusal.response()


def _first(error: dict[str, Any]) -> Refusal:
    """Return one of pydantic's errors in OpenAI's words."""
    kind, context = error["type"], error.get("ctx", {})
    # What concerns the whole body says itself which field is meant.
    place = [part for part in error["loc"] if part != "body"] or list(filter(None, [context.get("param")]))
    if kind == "json_invalid":
        return Refusal(f"the body is not valid JSON: {context['error']}")
    if not place and context.get("ours"):
        return Refusal(f"the body {error['msg']}", code="invalid_value")
    if not place:
        said = "the body is missing" if kind == "missing" else "the body must be a JSON object"
        return Refusal(f"{said}; send one with the content type application/json")
    param = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in place).lstrip(".")
    if kind == "extra_forbidden":
        return Refusal(
            f"unrecognized request argument supplied: {_shown(param)}", param=_shown(param), code=_CODES[kind]
        )
    message = error["msg"] if context.get("ours") else error["msg"][:1].lower() + error["msg"][1:]
    # What is wrong within messages or tools names its place itself.
    named = message.startswith((f"{param} ", f"{param}["))
    return Refusal(
        f"{'' if named else f'{param}: '}{message}{_got(error.get('input'))}",
        param=_shown(param),
        code=_CODES.get(kind, "invalid_value"),
    )


def _got(value: object) -> str:
    """Return a number that was refused; texts aren't shown, since they may be a prompt's."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return ""
    return f"; got {value}" if isinstance(value, float) or abs(value) <= _LARGEST else ""


def _shown(name: str) -> str:
    return name if name.isascii() and name.isprintable() and len(name) <= 128 else ascii(name)[:128]
