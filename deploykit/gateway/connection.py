"""One connection of the gateway: uvicorn's, with an end to its patience.

uvicorn leaves some of this to a proxy in front: a head that never ends is kept for ever and without bound, and so are
the extensions of chunks and the headers behind a body.
"""

import asyncio
import json
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any, Final

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from deploykit.gateway.errors import Refusal
from deploykit.gateway.limits import MAX_HEAD

FRAMING: Final = 8
"""Bytes around a byte of body that may be: a chunk of one byte has five."""


@dataclass(frozen=True, kw_only=True)
class Bounds:
    """What connections may take."""

    connections: int
    """Open connections; one more is told to come back later."""
    head_timeout: float
    """Seconds until a request's head must be there, once its first byte or the connection is."""
    age: float | None = None
    """Seconds after which the next answer is the connection's last, and says so; never where None."""


class Connection(HttpToolsProtocol):
    """Refuses callers who come too many, too slow, or with a head without end."""

    def __init__(self, *, bounds: Bounds, **uvicorn: Any) -> None:
        super().__init__(**uvicorn)
        self._bounds = bounds
        self._deadline: asyncio.TimerHandle | None = None
        self._in_head = self._in_message = False
        self._raw = self._body = 0
        self._since = 0.0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn's
        """Take a connection, if it isn't one too many."""
        super().connection_made(transport)
        self._since = self.loop.time()
        if len(self.connections) > self._bounds.connections:
            refusal = Refusal("too many connections are open; try again later", status=503, kind="server_error")
            self._hang_up(refusal)
        else:
            self._expect_head()

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the connection."""
        self._forget_deadline()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Read on, unless what comes is nothing but frame."""
        if self.transport.is_closing():
            return
        continued = self._in_message
        if self._deadline is None and self._answering() is None:
            # A head, or what still comes of a request that has been answered: refused, most likely.
            self._expect_head()
        super().data_received(data)
        # What came together with the end of another request isn't counted; it is one read at most.
        self._raw += len(data) if continued and self._in_message else 0
        if self._raw > MAX_HEAD + (1 + FRAMING) * self._body:
            refusal = Refusal(f"the request's head is larger than {MAX_HEAD} bytes", status=431)
            self._hang_up(refusal)

    def on_message_begin(self) -> None:
        """Note the beginning of a request."""
        self._in_head = self._in_message = True
        self._raw = self._body = 0
        super().on_message_begin()
        # A caller who doesn't read is cut off in mid-answer.
        self.scope["state"]["abort"] = self.transport.abort
        if self._deadline is None:
            self._expect_head()

    def on_header(self, name: bytes, value: bytes) -> None:
        """Keep a header; those behind the body nobody wants."""
        if self._in_head:
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        """Note that the head is there."""
        self._in_head = False
        self._forget_deadline()
        super().on_headers_complete()
        if self._bounds.age is not None and self.loop.time() - self._since > self._bounds.age:
            # Said in the answer's head: closed without a word, it would be gone under the caller's next request.
            self.cycle.keep_alive = False

    def on_body(self, body: bytes) -> None:
        """Count the body."""
        self._body += len(body)
        super().on_body(body)

    def on_message_complete(self) -> None:
        """Note that the request is there."""
        self._in_message = False
        super().on_message_complete()

    def send_400_response(self, msg: str) -> None:
        """Refuse what is no HTTP, in the form of all other refusals."""
        self._hang_up(Refusal(f"the request can't be read: {msg.rstrip('.').lower()}"))

    def _expect_head(self) -> None:
        self._deadline = self.loop.call_later(self._bounds.head_timeout, self._give_up)

    def _forget_deadline(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _give_up(self) -> None:
        self._deadline = None
        if self._answering():
            # The next request's head, while the one before is still answered.
            self._expect_head()
        elif self._in_head:
            self._hang_up(Refusal("the request's head has not come in time", status=408))
        else:
            # Nothing was asked, so nothing is answered.
            self.transport.close()

    def _answering(self) -> RequestResponseCycle | None:
        """Return the request that is being answered, or None."""
        cycle: RequestResponseCycle | None = getattr(self, "cycle", None)
        return None if cycle is None or cycle.response_complete else cycle

    def _hang_up(self, refusal: Refusal) -> None:
        """Refuse and close; in mid-answer there is no place for a refusal any more."""
        self._forget_deadline()
        cycle = self._answering()
        if cycle is None or not cycle.response_started:
            body = json.dumps(refusal.body()).encode()
            phrase = HTTPStatus(refusal.status).phrase
            head = (
                f"HTTP/1.1 {refusal.status} {phrase}\r\ncontent-type: application/json\r\n"
                f"content-length: {len(body)}\r\nconnection: close\r\n\r\n"
            )
            self.transport.write(head.encode() + body)
        self.transport.close()
