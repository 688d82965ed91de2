"""A real HTTP server that speaks OpenAI's API and answers requests for text as a test tells it to."""

import json
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Answer = Callable[[dict[str, Any]], Iterator[Any]]
"""From a request's body to the events of its stream, or to the one object of a response: each becomes JSON."""


@dataclass(frozen=True)
class Status:
    """An answer with a status of its own."""

    code: int
    content: Any
    headers: dict[str, str] = field(default_factory=dict)


class Cut:
    """Ends the connection in the middle of an answer."""


DONE = "[DONE]"


def refusal(kind: str, message: str, code: str | None = None) -> dict[str, Any]:
    """OpenAI's error object."""
    return {"error": {"message": message, "type": kind, "param": None, "code": code}}


def piece(text: str, reason: str | None = None, *, index: int = 0, **more: Any) -> dict[str, Any]:
    """An event of a completion."""
    return {"choices": [{"index": index, "text": text, "finish_reason": reason, "logprobs": None, **more}]}


def said(text: str, reason: str | None = None, *, index: int = 0, **more: Any) -> dict[str, Any]:
    """An event of a chat."""
    return {"choices": [{"index": index, "delta": {"content": text}, "finish_reason": reason, **more}]}


def usage(prompt: int, completion: int) -> dict[str, Any]:
    """What counts a stream's tokens."""
    return {"choices": [], "usage": {"prompt_tokens": prompt, "completion_tokens": completion}}


def plain(body: dict[str, Any]) -> Iterator[Any]:
    """`ab`, in pieces or as a whole, from either route."""
    counts = {"prompt_tokens": 3, "completion_tokens": 2}
    if body["stream"]:
        make = said if "messages" in body else piece
        yield from (make("a"), make("b"), make("", "length"), usage(3, 2), DONE)
    elif "messages" in body:
        yield {"choices": [{"index": 0, "message": {"content": "ab"}, "finish_reason": "length"}], "usage": counts}
    else:
        yield {"choices": [{"index": 0, "text": "ab", "finish_reason": "length"}], "usage": counts}


def trickle(body: dict[str, Any]) -> Iterator[Any]:
    """Tokens without end, until the caller is gone."""
    while True:
        yield piece("x")
        time.sleep(0.01)


@dataclass
class OpenAIService:
    """What the server answers, and what it was asked."""

    answer: Answer = plain
    models: Any = field(default_factory=lambda: {"object": "list", "data": [{"id": "writer"}]})
    health: int = 200
    requests: list[tuple[str, dict[str, str], dict[str, Any]]] = field(default_factory=list)
    """Path, headers and body of each request for text."""
    gone: threading.Event = field(default_factory=threading.Event)
    """Set when a caller went before its answer was complete."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    service: OpenAIService

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the base's name
        """Nothing on stderr."""

    def do_GET(self) -> None:
        if self.path == "/health":
            self._whole(self.service.health, {"status": "ok"} if self.service.health == 200 else refusal("x", "no"))
        else:
            self._whole(200, self.service.models)

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        headers = {name.lower(): value for name, value in self.headers.items()}
        self.service.requests.append((self.path, headers, body))
        try:
            self._answer(body)
        except OSError:
            self.service.gone.set()
            self.close_connection = True

    def _answer(self, body: dict[str, Any]) -> None:
        events = self.service.answer(body)
        if not body["stream"]:
            first = next(events)
            status = first if isinstance(first, Status) else Status(200, first)
            self._whole(status.code, status.content, status.headers)
            return
        begun = False
        for event in events:
            if isinstance(event, Status):
                self._whole(event.code, event.content, event.headers)
                return
            if not begun:
                self.send_response(200)
                self.send_header("content-type", "text/event-stream")
                self.send_header("transfer-encoding", "chunked")
                self.end_headers()
                begun = True
            if isinstance(event, Cut):
                self.close_connection = True
                return
            said = event if isinstance(event, str) else json.dumps(event)
            self._chunk(f"data: {said}\n\n".encode())
        self._chunk(b"")

    def _chunk(self, data: bytes) -> None:
        self.wfile.write(f"{len(data):x}\r\n".encode() + data + b"\r\n")

    def _whole(self, status: int, content: Any, headers: dict[str, str] | None = None) -> None:
        data = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Nothing on stderr: callers that go are what is tested."""


@dataclass
class Gateway:
    """A server and where it listens."""

    service: OpenAIService
    server: ThreadingHTTPServer

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server.server_address[1]}"

    def stop(self) -> None:
        self.server.shutdown()
        self.server.server_close()


def run_gateway(service: OpenAIService) -> Gateway:
    """Start a server on a free port."""
    handler = type("Handler", (_Handler,), {"service": service})
    server = _Server(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    return Gateway(service, server)
