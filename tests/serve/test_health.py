"""Liveness and readiness as a prober sees them."""

import http.client
from collections.abc import Iterator

import pytest

from deploykit.config import ServeConfig
from deploykit.errors import ServeError
from deploykit.serve.health import HealthServer
from deploykit.serve.ports import choose_ports, listen

FREE = ServeConfig(http_port=0, grpc_port=0, metrics_port=0, health_port=0)


@pytest.fixture
def port() -> Iterator[int]:
    listening = listen(FREE, "health_port")
    with HealthServer(listening, live=lambda: None, ready=lambda: "restarting"):
        yield listening.getsockname()[1]


@pytest.mark.parametrize(
    ("path", "status", "body"),
    [
        ("/v2/health/live", 200, b"ok\n"),
        ("/v2/health/ready", 503, b"restarting\n"),
        ("/v2/health/ready?verbose", 503, b"restarting\n"),
        ("/", 404, b"no such path\n"),
    ],
)
def test_a_prober_gets_the_state(port: int, path: str, status: int, body: bytes) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    connection.request("GET", path)
    response = connection.getresponse()
    assert (response.status, response.read()) == (status, body)
    connection.close()


def test_free_ports_are_all_different() -> None:
    assert len(set(choose_ports(FREE).values())) == 3


@pytest.mark.parametrize("name", ["http_port", "grpc_port", "metrics_port"])
def test_a_taken_port_is_named_with_its_option(name: str) -> None:
    with listen(FREE, "health_port") as taken:
        port = taken.getsockname()[1]
        fields = {"http_port": 0, "grpc_port": 0, "metrics_port": 0, name: port}
        with pytest.raises(
            ServeError, match=rf"--{name.replace('_', '-')} {port}: can't listen .* choose another port"
        ):
            choose_ports(ServeConfig(**fields))


def test_a_host_that_is_no_address_is_named() -> None:
    with pytest.raises(ServeError, match=r"--host nowhere\.invalid: not an address"):
        choose_ports(ServeConfig(host="nowhere.invalid"))
