"""Sockets to listen on, and how what listens there is reached."""

import ipaddress
import socket

from deploykit.errors import ServeError


def listen(host: str, port: int, option: str) -> socket.socket:
    """Return a socket bound to a port, which `option` of the command line has set.

    Raises:
        ServeError: the port is taken or not allowed, or the host is no address of this machine.
    """
    try:
        family, kind, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        sock = socket.socket(family, kind)
    except OSError as error:
        raise ServeError(f"--host {host}: not an address to listen on ({error.strerror})") from error
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind(address)
        # Two sockets that never listen may share an address; one that listens shows that nobody else does.
        sock.listen(16)
    except OSError as error:
        sock.close()
        raise ServeError(
            f"{option} {port}: can't listen on {host} ({error.strerror}); choose another port, or 0 for a free one"
        ) from error
    return sock


def bracketed(host: str) -> str:
    """Return a host as it stands before a port."""
    return f"[{host}]" if ":" in host else host


def is_loopback(host: str) -> bool:
    """Return whether only this machine reaches what listens on `host`."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def reachable(host: str) -> str:
    """Return an address at which a server that listens on `host` answers from this machine."""
    return {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104  # compared, not bound
