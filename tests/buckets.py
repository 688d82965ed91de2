"""An S3 server that runs here, a way to it that breaks down on demand, and models to lay into it."""

import http.client
import os
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import obstore
from obstore.store import S3Store

ENVIRONMENT = {"AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "secret", "AWS_REGION": "us-east-1"}
BUCKET = "models"


@dataclass(frozen=True)
class Bucket:
    """A folder in a bucket of its own."""

    endpoint: str
    url: str

    def put(self, folder: Path) -> None:
        """Upload every file below a folder."""
        for file in folder.rglob("*"):
            if file.is_file():
                self.write(file.relative_to(folder).as_posix(), file.read_bytes())

    def write(self, name: str, content: bytes) -> None:
        obstore.put(self._store(), name, content)

    def read(self, name: str) -> bytes:
        return bytes(obstore.get(self._store(), name).bytes())

    def delete(self, name: str) -> None:
        obstore.delete(self._store(), name)

    def _store(self) -> S3Store:
        return S3Store.from_url(
            self.url,
            endpoint=self.endpoint,
            access_key_id="key",
            secret_access_key="secret",
            region="us-east-1",
            client_options={"allow_http": True},
        )


@contextmanager
def s3_server() -> Iterator[str]:
    """Run a server, and give its URL."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [str(Path(sys.executable).with_name("moto_server")), "-H", "127.0.0.1", "-p", str(port)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    url = f"http://127.0.0.1:{port}"
    try:
        _wait_for(url, process)
        urllib.request.urlopen(urllib.request.Request(f"{url}/{BUCKET}", method="PUT")).close()
        yield url
    finally:
        process.terminate()
        process.wait(10)


def _wait_for(url: str, process: "subprocess.Popen[bytes]") -> None:
    deadline = time.monotonic() + 60
    while True:
        assert process.poll() is None, "moto_server has ended"
        try:
            urllib.request.urlopen(f"{url}/moto-api/").close()
        except OSError:
            assert time.monotonic() < deadline, "moto_server doesn't answer"
            time.sleep(0.05)
        else:
            return


@dataclass
class Way:
    """A proxy to the server that can fail; `trouble` decides for each request by its path and number."""

    url: str = ""
    requests: list[str] = field(default_factory=list)
    trouble: Callable[[str, int], str | None] = lambda _path, _number: None
    """`error` answers 500, `cut` ends the connection in the middle of the answer, `stall` sends half and then nothing,
    `flood` sends without end."""
    released: threading.Event = field(default_factory=threading.Event)
    """Set at the end, so that what stalls ends, too."""

    @property
    def files(self) -> list[str]:
        """Names of what was asked for."""
        return [path.rpartition("/")[2] for path in self.requests]


@contextmanager
def way_to(endpoint: str) -> Iterator[Way]:
    """Run a proxy to `endpoint`."""
    way = Way()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            way.requests.append(self.path.partition("?")[0])
            kind = way.trouble(self.path, len(way.requests))
            if kind == "error":
                self.send_error(500)
                return
            connection = http.client.HTTPConnection(endpoint.removeprefix("http://"))
            connection.request("GET", self.path, headers=dict(self.headers))
            answer = connection.getresponse()
            content = answer.read()
            self.send_response(answer.status)
            for name, value in answer.getheaders():
                if name.lower() not in ("transfer-encoding", "connection", "server", "date"):
                    self.send_header(name, value)
            self.end_headers()
            if kind is None:
                self.wfile.write(content)
                return
            self.wfile.write(content[: len(content) // 2])
            self.wfile.flush()
            if kind == "stall":
                way.released.wait(60)
            self.connection.shutdown(socket.SHUT_RDWR)

        def log_message(self, *_args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    way.url = f"http://127.0.0.1:{server.server_address[1]}"
    try:
        yield way
    finally:
        way.released.set()
        server.shutdown()
        server.server_close()
        thread.join()


def environment(endpoint: str) -> dict[str, str]:
    """Return what a process needs to reach the server, and nothing else that opens a store."""
    others = {name: value for name, value in os.environ.items() if not name.startswith(("AWS_", "GOOGLE_", "AZURE_"))}
    return {**others, **ENVIRONMENT, "AWS_ENDPOINT_URL": endpoint}
