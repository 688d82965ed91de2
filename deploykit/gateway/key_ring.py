"""The API keys: which there are, and under what name each may call."""

import hmac
import os
from collections.abc import Mapping
from hashlib import sha256
from pathlib import Path
from typing import Final

from deploykit.errors import ConfigError

VARIABLE: Final = "DEPLOYKIT_API_KEYS"
"""Environment variable with keys, as in the file, apart by commas or line ends."""
_SHORTEST: Final = 8
_LARGEST_FILE: Final = 2**20


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
    # Without its folders, which are nobody's business in a log.
    source = f"--api-keys {file.name}"
    try:
        with file.open("rb") as stream:
            text = stream.read(_LARGEST_FILE + 1)
    except OSError as error:
        raise ConfigError(f"{source}: the file can't be read ({error.strerror})") from None
    if len(text) > _LARGEST_FILE:
        raise ConfigError(f"{source}: the file has more than {_LARGEST_FILE} bytes; it can't be one of keys")
    keys = _parse(text.decode("utf-8", errors="replace"), source)
    if not keys:
        raise ConfigError(f"{source}: the file holds no key; write one a line, KEY or NAME:KEY")
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
