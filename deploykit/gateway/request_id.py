"""A name for each request, which the caller, the log, Triton and the engine share."""

import re
import uuid
from typing import Final

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

HEADER: Final = "x-request-id"
# What fits a log line, a header and Triton's request id, and can't be taken for anything else in any of them.
_SANE: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:=@/+-]{0,127}")


class RequestIds:
    """ASGI: puts the caller's own id, or a new one, under `request_id` in the request's state and in the response."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on under its name."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        given = Headers(scope=scope).get(HEADER, "")
        name = given if _SANE.fullmatch(given) else f"req-{uuid.uuid4().hex}"
        scope.setdefault("state", {})["request_id"] = name
        header = (HEADER.encode(), name.encode())

        async def send_named(message: Message) -> None:
            if message["type"] == "http.response.start":
                others = [each for each in message.get("headers", ()) if each[0].lower() != header[0]]
                message = {**message, "headers": [*others, header]}
            await send(message)

        await self._app(scope, receive, send_named)


def request_id(scope: Scope) -> str:
    """Return the id of the request; empty where nothing has given it one."""
    return str(scope.get("state", {}).get("request_id", ""))
