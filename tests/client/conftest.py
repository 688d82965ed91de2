"""A server for each test."""

import socket
from collections.abc import Iterator

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
