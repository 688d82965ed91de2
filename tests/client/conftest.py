"""A server for each test."""

import shutil
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from inference_server import Running, Service, Wire, run


@pytest.fixture
def running() -> Iterator[Running]:
    """A server whose `service` a test may change."""
    running = run(Service())
    yield running
    running.server.stop(grace=0).wait()


@pytest.fixture
def free_port() -> int:
    """A port where nobody listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture
def wire(running: Running) -> Iterator[Wire]:
    """A relay to `running`."""
    wire = Wire(running.port)
    yield wire
    wire.close()


@pytest.fixture(scope="session")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An authority, a server of the names `models.test` and `localhost`, and a client."""
    if shutil.which("openssl") is None:
        pytest.skip("makes certificates with openssl, which isn't installed")
    folder = tmp_path_factory.mktemp("certificates")

    def openssl(*arguments: str) -> None:
        subprocess.run(["openssl", *arguments], cwd=folder, check=True, capture_output=True)

    new = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")
    openssl("req", "-x509", *new, "-days", "2", "-subj", "/CN=authority", "-keyout", "ca.key", "-out", "ca.pem")
    for name, names in (("models.test", "DNS:models.test,DNS:localhost"), ("client", "DNS:client")):
        (folder / "names").write_text(f"subjectAltName={names}")
        openssl("req", *new, "-subj", f"/CN={name}", "-keyout", f"{name}.key", "-out", "request.pem")
        sign = ("-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial", "-extfile", "names")
        openssl("x509", "-req", "-in", "request.pem", *sign, "-days", "2", "-out", f"{name}.pem")
    return folder


@pytest.fixture(scope="session")
def server_credentials(certificates: Path) -> Any:
    """Credentials of a gRPC server that wants to know its callers."""
    pair = [((certificates / "models.test.key").read_bytes(), (certificates / "models.test.pem").read_bytes())]
    return grpc.ssl_server_credentials(pair, (certificates / "ca.pem").read_bytes(), require_client_auth=True)
