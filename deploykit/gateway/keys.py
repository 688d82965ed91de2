"""API keys: who may call, and under what name."""

import hmac
import os
from collections.abc import Callable, Mapping
from hashlib import sha256
from pathlib import Path
from typing import Final

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from deploykit.errors import ConfigError
from deploykit.gateway.errors import Refusal

VARIABLE: Final = "DEPLOYKIT_API_KEYS"
"""Environment variable with keys, as in the file, apart by commas or line ends."""
_SHORTEST: Final = 8
_LARGEST_FILE: Final = 2**20

_CHALLENGE: Final = 'Bearer realm="deploykit"'


class KeyRing:
    """The keys that open the gateway, as hashes; those of a file are read again whenever it has changed."""

    def __init__(self, file: Path | None, environment: Mapping[str, str] = os.environ) -> None:
        """Read them.

        Raises:
            ConfigError: the file can't be read or holds no key, the variable alone is there and is empty, or a line is
                none.
        """
        self._file = file
        self._given = _parse(environment.get(VARIABLE, "").replace(",", "\n"), VARIABLE)
        if file is None and VARIABLE in environment and not self._given:
            # A secret that came out empty must not let everybody in.
            raise ConfigError(f"{VARIABLE} is set but holds no key; give it one, or unset it to let everybody in")
        self._names: dict[bytes, str] = dict(self._given)
        self._seen: tuple[int, ...] | None = ()
        self.reload()

    @property
    def is_open(self) -> bool:
        """Whether everybody is let in, since there are no keys."""
        return self._file is None and not self._given

    def reload(self) -> None:
        """Read the file again if it is another than before.

        Raises:
            ConfigError: it can't be read, or a line is no key; those that counted before still do.
        """
        if self._file is None:
            return
        seen = _state(self._file)
        if seen != self._seen:
            # Noted first: a file that can't be understood is complained of once, not with each request.
            self._seen = seen
            self._names = {**self._given, **_read(self._file)}

    def name_of(self, key: str) -> str | None:
        """Return the name under which a key may call, or None if it isn't one of them."""
        digest = _digest(key)
        found = None
        # All of them, whichever it is: the time it takes tells nothing of a key.
        for known, name in self._names.items():
            if hmac.compare_digest(known, digest):
                found = name
        return found


class Keys:
    """ASGI: lets through who has a key, and puts its name under `client` in the request's state."""

    def __init__(
        self, app: ASGIApp, ring: KeyRing, *, open_paths: frozenset[str], on_trouble: Callable[[ConfigError], None]
    ) -> None:
        self._app, self._ring, self._open_paths, self._on_trouble = app, ring, open_paths, on_trouble

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, or answer 401."""
        if scope["type"] != "http" or scope["path"] in self._open_paths or self._ring.is_open:
            await self._app(scope, receive, send)
            return
        try:
            self._ring.reload()
        except ConfigError as error:
            self._on_trouble(error)
        key = _presented(scope)
        name = None if key is None else self._ring.name_of(key)
        if name is None:
            response = (_missing() if key is None else _wrong()).response()
            response.headers["www-authenticate"] = _CHALLENGE
            await response(scope, receive, send)
            return
        scope.setdefault("state", {})["client"] = name
        await self._app(scope, receive, send)


def client_name(scope: Scope) -> str:
    """Return the name of the caller's key; empty where there are no keys."""
    return str(scope.get("state", {}).get("client", ""))


def _missing() -> Refusal:
    return Refusal(
        "this server wants an API key; send it in the header: Authorization: Bearer YOUR_KEY",
        status=401,
        kind="authentication_error",
        code="missing_api_key",
    )


def _wrong() -> Refusal:
    return Refusal(
        "the API key is none of this server's; check it for typing errors, or ask for a new one",
        status=401,
        kind="authentication_error",
        code="invalid_api_key",
    )


def _presented(scope: Scope) -> str | None:
    """Return the key that a request shows, or None."""
    scheme, _, key = Headers(scope=scope).get("authorization", "").partition(" ")
    return key.strip() if scheme.lower() == "bearer" and key.strip() else None


def _digest(key: str) -> bytes:
    # Headers are Latin-1 to ASGI, whatever bytes they were.
    return sha256(key.encode("latin-1", errors="replace")).digest()


def _state(file: Path) -> tuple[int, ...] | None:
    """Return what changes when a file does, or None where it is gone."""
    try:
        found = file.stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size, found.st_ino


def _read(file: Path) -> dict[bytes, str]:
    try:
        with file.open("rb") as stream:
            text = stream.read(_LARGEST_FILE + 1)
    except OSError as error:
        raise ConfigError(f"api_keys: the file can't be read ({error.strerror})") from None
    if len(text) > _LARGEST_FILE:
        raise ConfigError(f"api_keys: the file has more than {_LARGEST_FILE} bytes; it can't be one of keys")
    keys = _parse(text.decode("utf-8", errors="replace"), "api_keys")
    if not keys:
        raise ConfigError("api_keys: the file holds no key; write one a line, KEY or NAME:KEY")
    return keys


def _parse(text: str, source: str) -> dict[bytes, str]:
    """Return the names of the keys in `text` by their hashes; nothing that is raised shows any of them."""
    names: dict[bytes, str] = {}
    for number, line in enumerate(text.splitlines(), 1):
        entry = line.strip()
        if not entry or entry.startswith("#"):
            continue
        name, colon, key = (part.strip() for part in entry.rpartition(":"))
        if len(key) < _SHORTEST or not key.isascii() or not key.isprintable() or " " in key or (colon and not name):
            raise ConfigError(
                f"{source}, line {number}: not a key; write KEY or NAME:KEY, "
                f"the key of at least {_SHORTEST} letters, digits and signs"
            )
        if not name.isprintable() or len(name) > 64:
            raise ConfigError(f"{source}, line {number}: a name has up to 64 characters that can be printed")
        # Without a name of its own a key goes by a piece of its hash, which tells one caller's lines from another's.
        digest = _digest(key)
        names[digest] = name or f"key-{digest.hex()[:8]}"
    return names
