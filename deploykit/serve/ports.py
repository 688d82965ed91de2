"""Ports that nobody else listens on."""

import socket
from collections.abc import Mapping
from contextlib import ExitStack
from typing import Final

from deploykit.config import ServeConfig
from deploykit.errors import ServeError

TRITON_PORTS: Final = ("http_port", "grpc_port", "metrics_port")
"""Those of `ServeConfig` that Triton itself listens on."""


def choose_ports(config: ServeConfig) -> Mapping[str, int]:
    """Return the port of each of Triton's endpoints, by its field's name; a 0 has become a free one.

    Raises:
        ServeError: a port is taken, or the host is no address of this machine.
    """
    with ExitStack() as held:
        # All are held until all are chosen, so that no two are the same.
        sockets = {name: held.enter_context(listen(config, name)) for name in TRITON_PORTS}
        return {name: int(sock.getsockname()[1]) for name, sock in sockets.items()}


def listen(config: ServeConfig, name: str) -> socket.socket:
    """Return a socket bound to one of the configured ports.

    Raises:
        ServeError: the port is taken or not allowed, or the host is no address of this machine.
    """
    port: int = getattr(config, name)
    option = "--" + name.replace("_", "-")
    try:
        family, kind, _, _, address = socket.getaddrinfo(config.host, port, type=socket.SOCK_STREAM)[0]
        sock = socket.socket(family, kind)
    except OSError as error:
        raise ServeError(f"--host {config.host}: not an address to listen on ({error.strerror})") from error
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind(address)
        # Two sockets that never listen may share an address; one that listens shows that nobody else does.
        sock.listen(16)
    except OSError as error:
        sock.close()
        raise ServeError(
            f"{option} {port}: can't listen on {config.host} ({error.strerror}); "
            "choose another port, or 0 for a free one"
        ) from error
    return sock
