"""Requests to an ASGI application, message by message."""

import asyncio
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from starlette.types import ASGIApp, Message, Scope


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What came back."""

    status: int
    headers: dict[str, str]
    body: bytes
    scope: Scope

    @property
    def error(self) -> dict[str, Any]:
        """The error object."""
        found: dict[str, Any] = json.loads(self.body)["error"]
        return found


@dataclass
class Echo:
    """An application that answers with the body it was sent, and keeps what it was asked."""

    seen: list[Scope] = field(default_factory=list)

    async def __call__(self, scope: Scope, receive: Any, send: Any) -> None:
        self.seen.append(scope)
        body = bytearray()
        while True:
            message = await receive()
            body += message.get("body", b"")
            if not message.get("more_body"):
                break
        await send({"type": "http.response.start", "status": 200, "headers": [(b"x-echo", b"yes")]})
        await send({"type": "http.response.body", "body": bytes(body)})


def ask(
    app: ASGIApp,
    *,
    method: str = "POST",
    path: str = "/v1/completions",
    headers: dict[str, str] | None = None,
    body: Iterable[bytes] = (),
    ends: bool = True,
) -> Answer:
    """Return what `app` answers to a body in pieces; without an end it never comes to one."""
    return asyncio.run(ask_async(app, method=method, path=path, headers=headers, body=body, ends=ends))


async def ask_async(
    app: ASGIApp,
    *,
    method: str = "POST",
    path: str = "/v1/completions",
    headers: dict[str, str] | None = None,
    body: Iterable[bytes] = (),
    ends: bool = True,
) -> Answer:
    """The same inside a loop."""
    pieces = list(body)
    messages: list[Message] = [{"type": "http.request", "body": piece, "more_body": True} for piece in pieces]
    if ends:
        messages.append({"type": "http.request", "body": b"", "more_body": False})
    sent: list[Message] = []
    answered = asyncio.Event()

    async def receive() -> Message:
        if messages:
            return messages.pop(0)
        await answered.wait()
        return {"type": "http.disconnect"}

    async def send(message: Message) -> None:
        sent.append(message)
        if message["type"] == "http.response.body" and not message.get("more_body"):
            answered.set()

    given = headers or ({"transfer-encoding": "chunked"} if pieces else {})
    scope: Scope = {
        "type": "http",
        "method": method,
        "path": path,
        "query_string": b"",
        "headers": [(name.lower().encode(), value.encode("latin-1")) for name, value in given.items()],
    }
    await app(scope, receive, send)
    return _answer(sent, scope)


def _answer(sent: Sequence[Message], scope: Scope) -> Answer:
    start = sent[0]
    return Answer(
        status=start["status"],
        headers={name.decode(): value.decode() for name, value in start["headers"]},
        body=b"".join(message.get("body", b"") for message in sent[1:]),
        scope=scope,
    )
