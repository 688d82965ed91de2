"""Where a server is, and what is spoken there."""

from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from deploykit.client.errors import InvalidRequestError

_SCHEMES: Final = ("grpc", "grpcs", "dns", "http", "https")


@dataclass(frozen=True, kw_only=True)
class TLS:
    """Certificates to speak TLS with; for what isn't given, what the system trusts.

    Example:
        ```python
        from deploykit.client import TLS, Client

        tls = TLS(ca="ca.pem", certificate="me.pem", key="me.key")
        with Client("grpcs://localhost:8001", tls=tls) as client:
            print(client.health())
        ```
    """

    ca: str | Path | None = None
    """A PEM file with the authorities that may vouch for the server; the system's where None."""
    certificate: str | Path | None = None
    """A PEM file with this client's own certificate, for a server that wants one (mTLS)."""
    key: str | Path | None = None
    """The PEM file with its private key."""
    server_name: str | None = None
    """The name that the server's certificate is for, where it isn't the one in the address."""

    def __post_init__(self) -> None:
        if (self.certificate is None) != (self.key is None):
            raise InvalidRequestError("TLS needs certificate and key together, or neither")

    def read(self, name: Literal["ca", "certificate", "key"]) -> bytes | None:
        """Return what a file holds, or None where it isn't given.

        Raises:
            InvalidRequestError: it can't be read.
        """
        path = getattr(self, name)
        if path is None:
            return None
        try:
            return Path(path).read_bytes()
        except OSError as error:
            raise InvalidRequestError(f"TLS: {name} {path}: {error.strerror or error}") from None


@dataclass(frozen=True, kw_only=True)
class Address:
    """Where a server is."""

    url: str
    """As the user wrote it."""
    protocol: Literal["grpc", "http"]
    target: str
    """Host and port for gRPC, or the base of the URLs for HTTP."""
    secure: bool
    """Whether to speak TLS."""


def parse_url(url: str) -> Address:
    """Return the address that `url` names.

    `HOST:PORT`, `grpc://HOST:PORT` and, with TLS, `grpcs://HOST:PORT` are Triton's gRPC endpoint; with
    `dns:///HOST:PORT` the calls go in turn to all addresses of the name. `http://` and `https://` are the gateway.

    Raises:
        InvalidRequestError: another scheme, or no port where gRPC needs one.
    """
    scheme, separator, rest = url.rpartition("://")
    if separator and scheme not in _SCHEMES:
        raise InvalidRequestError(
            f"{url}: {scheme} is not spoken here; give HOST:PORT of Triton's gRPC endpoint (usually port 8001), or "
            "http://HOST:PORT of the gateway"
        )
    target = rest.rstrip("/")
    if scheme in ("http", "https"):
        # Who has the base URL of an OpenAI client at hand may give that.
        return Address(
            url=url, protocol="http", target=f"{scheme}://{target.removesuffix('/v1')}", secure=scheme == "https"
        )
    if not target.rpartition(":")[2].isdecimal():
        raise InvalidRequestError(f"{url}: no port in it; give HOST:PORT, such as localhost:8001")
    return Address(
        url=url,
        protocol="grpc",
        target=f"dns://{target}" if scheme == "dns" else target,
        secure=scheme == "grpcs",
    )
