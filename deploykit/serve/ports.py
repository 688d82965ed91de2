"""Ports that nobody else listens on."""

import socket
from collections.abc import Mapping
from contextlib import ExitStack
from typing import Final

from deploykit import listening
from deploykit.config import ServeConfig

TRITON_PORTS: Final = ("http_port", "grpc_port", "metrics_port")
"""Those of `ServeConfig` that Triton itself listens on."""


def choose_ports(config: ServeConfig) -> Mapping[str, int]:
    """Return the port of each endpoint of Triton, and the gateway's, by its field's name; a 0 has become a free one.

    Raises:
        ServeError: a port is taken, or the host is no address of this machine.
    """
    with ExitStack() as held:
        # All are held until all are chosen, so that no two are the same.
        names = TRITON_PORTS if config.openai_port is None else (*TRITON_PORTS, "openai_port")
        sockets = {name: held.enter_context(listen(config, name)) for name in names}
        return {name: int(sock.getsockname()[1]) for name, sock in sockets.items()}


def listen(config: ServeConfig, name: str) -> socket.socket:
    """Return a socket bound to one of the configured ports.

    Raises:
        ServeError: the port is taken or not allowed, or the host is no address of this machine.
    """
    port: int = getattr(config, name)
    return listening.listen(config.host, port, "--" + name.replace("_", "-"))
