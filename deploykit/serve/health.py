"""Liveness and readiness over HTTP."""

import threading
from collections.abc import Callable
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from socket import socket
from typing import Any, Final, Self

Check = Callable[[], str | None]
"""Returns None when all is well, else a few words on what isn't. It must answer at once."""

_LIVE: Final = "/v2/health/live"
_READY: Final = "/v2/health/ready"


class HealthServer:
    """Answers the two paths that Triton answers too, but from what the supervisor knows; a context manager."""

    def __init__(self, listening: socket, *, live: Check, ready: Check) -> None:
        self._server = _Server(listening, {_LIVE: live, _READY: ready})
        self._thread = threading.Thread(target=self._server.serve_forever, name="health", kwargs={"poll_interval": 0.1})
        self._thread.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, listening: socket, checks: dict[str, Check]) -> None:
        super().__init__(listening.getsockname(), _Handler, bind_and_activate=False)
        self.socket.close()
        self.socket = listening
        self.checks = checks

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing: a prober that hangs up is no event."""


class _Handler(BaseHTTPRequestHandler):
    timeout = 5  # Seconds a prober may take to send its request.
    server: _Server

    def do_GET(self) -> None:
        check = self.server.checks.get(self.path.partition("?")[0])
        trouble = "no such path" if check is None else check()
        status = HTTPStatus.OK if trouble is None else HTTPStatus.SERVICE_UNAVAILABLE
        body = f"{trouble or 'ok'}\n".encode()
        self.send_response(HTTPStatus.NOT_FOUND if check is None else status)
        self.send_header("Content-Type", "text/plain; charset=utf-8")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002  # the base class names it
        """Say nothing: probes come every few seconds, and a log line would hold an address."""
