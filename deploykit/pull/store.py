"""An object store, read: S3, Google's, Azure's, or a folder.

What opens it is found as everywhere: the variables AWS_…, GOOGLE_… and AZURE_…, and a pod's or a machine's identity.
"""

import os
import re
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from datetime import timedelta
from functools import partial
from typing import Any, Final, TypeVar

import obstore
from obstore.exceptions import BaseError, GenericError, PermissionDeniedError, UnauthenticatedError
from obstore.store import from_url

from deploykit.errors import ArtifactError, ConfigError, StoreError

T = TypeVar("T")

SCHEMES: Final = ("s3", "gs", "az", "abfss", "file")
RETRIES: Final = 8
"""Times that a question is asked again which a server failed to answer."""
PATIENCE: Final = timedelta(seconds=60)
"""After so long no question is asked again."""
SILENCE: Final = "30s"
"""How long a server may send nothing."""
PIECE: Final = 4 * 2**20
"""Bytes of a file that are in memory at once."""
_ENDPOINTS: Final = ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "AWS_ENDPOINT")
_IDENTITY: Final = re.compile(r"://169\.254\.|://metadata\.|token request")
"""What a failure says in which nobody vouched for this process: it had asked the machine or the cluster."""
_CAUSES: Final = (r'message: "([^"]+)"', r'"(failed to lookup [^"]+)"', r"kind: (Connect|Timeout|TimedOut)\b")
"""Where a failure says why nobody has answered, the most exact first."""


class Store:
    """What lies below a URL, by names relative to it."""

    def __init__(self, url: str, *, retries: int = RETRIES) -> None:
        """Open the store; nothing is asked of it yet.

        Raises:
            ConfigError: the URL is none of an object store's.
            StoreError: there is no such folder, or a setting of the environment is missing or wrong.
        """
        self.url: Final = url.rstrip("/")
        self._retries = retries
        if url.partition("://")[0] not in SCHEMES or not url.partition("://")[2]:
            kinds = ", ".join(f"{scheme}://" for scheme in SCHEMES)
            raise ConfigError(f"{url!r} is no URL of an object store; write s3://BUCKET/PATH (one of {kinds})")
        retrying: Any = {"max_retries": retries, "retry_timeout": PATIENCE}
        with self._told("open"):
            if url.startswith("file:"):
                self._store: Any = from_url(self.url)
            else:
                self._store = from_url(self.url, client_options=_client(), retry_config=retrying)

    def folders(self, name: str) -> list[str]:
        """Return the names of the folders in a folder, sorted; of the URL's own where `name` is empty."""
        with self._told("list"):
            try:
                found = _heard(lambda: self._store.list_with_delimiter(name or None))
            except FileNotFoundError:
                return []
            return sorted(path.rpartition("/")[2] for path in found["common_prefixes"])

    def read(self, name: str, *, most: int) -> bytes | None:
        """Return a small file, None where there is none.

        Raises:
            ArtifactError: it has more than `most` bytes.
        """
        try:
            with self._told("read"):
                result = _heard(lambda: obstore.get(self._store, name))
                if (size := result.meta["size"]) > most:
                    raise ArtifactError(f"{self.url}/{name}: {size} bytes, more than the {most} that it may have")
                return bytes(_heard(result.bytes))
        except FileNotFoundError:
            return None

    def pieces(self, name: str, size: int) -> Iterator[bytes]:
        """Yield a file of `size` bytes, piece by piece; a connection that breaks is taken up again where it was.

        Raises:
            ArtifactError: it isn't there, or has another size.
            StoreError: it can't be read to its end.
        """
        done = failures = 0
        while done < size:
            pieces = self._open(name, size, done)
            try:
                while piece := _heard(partial(next, pieces, b"")):
                    done += len(piece)
                    failures = 0
                    yield piece
            except GenericError as error:
                # The question itself has had its retries; this is an answer that was cut off.
                failures += 1
                if failures > self._retries:
                    raise StoreError(
                        f"{self.url}/{name}: cut off after {done} of {size} bytes, {failures} times: {_reason(error)}"
                    ) from error

    def _open(self, name: str, size: int, offset: int) -> Iterator[bytes]:
        try:
            with self._told("read"):
                options: Any = {"range": {"offset": offset}} if offset else None
                result = _heard(lambda: obstore.get(self._store, name, options=options))
        except FileNotFoundError:
            raise ArtifactError(
                f"{self.url}/{name}: listed in its manifest, but not there; upload the model again"
            ) from None
        if result.meta["size"] != size:
            raise ArtifactError(
                f"{self.url}/{name}: {result.meta['size']} bytes, but its manifest says {size}; upload the model again"
            )
        return iter(result.stream(min_chunk_size=PIECE))

    @contextmanager
    def _told(self, doing: str) -> Iterator[None]:
        """Have the store's own errors raised as ours, in a line."""
        try:
            yield
        except (BaseError, ValueError) as error:
            raise StoreError(f"{self.url}: can't {doing} it: {_reason(error)}") from error


def _heard(call: Callable[[], T]) -> T:
    """Return what a call returns; Ctrl-C and SIGTERM are heard meanwhile, which the store's client itself doesn't."""
    future: Future[T] = Future()

    def run() -> None:
        try:
            future.set_result(call())
        except BaseException as error:
            future.set_exception(error)

    thread = threading.Thread(target=run, name="store", daemon=True)
    thread.start()
    try:
        return future.result()
    except (KeyboardInterrupt, SystemExit):
        # An answer that is about to come must not find an interpreter that is going away.
        thread.join(0.5)
        raise


def _client() -> Any:
    """Return how long things may take: a file as long as it will, as long as something comes."""
    plain = any(os.environ.get(name, "").startswith("http://") for name in _ENDPOINTS)
    # Who names an endpoint without TLS means it; requests are signed, so that no secret goes over the wire.
    return {
        "timeout": "1d",
        "read_timeout": SILENCE,
        "connect_timeout": "5s",
        **({"allow_http": True} if plain else {}),
    }


def _reason(error: Exception) -> str:
    """Return what is wrong, and what to do, out of the pages that a store's client says."""
    text = str(error).partition("\n\nDebug source")[0]
    status = re.search(r"status code: (\d{3}[A-Za-z ]*)", text)
    code = re.search(r"<Code>(\w+)</Code>", text)
    told = ", ".join(found[1].strip() for found in (status, code) if found)
    if not isinstance(error, PermissionDeniedError) and _IDENTITY.search(text):
        return (
            f"no credentials found ({told or 'nobody vouches for this process'}); set AWS_ACCESS_KEY_ID and "
            "AWS_SECRET_ACCESS_KEY (or Google's, or Azure's variables), or give the pod's ServiceAccount a role"
        )
    if isinstance(error, PermissionDeniedError | UnauthenticatedError) or told.startswith(("401", "403")):
        return f"access denied ({told}); the credentials must allow to list and to read objects there"
    if code and code[1] == "NoSuchBucket":
        return "there is no such bucket; check the URL, the region and AWS_ENDPOINT_URL"
    causes = [found[1] for pattern in _CAUSES if (found := re.search(pattern, str(error)))]
    if causes and causes[0].lower().startswith("no such file"):
        return "there is no such folder"
    if causes:
        return f"no answer ({causes[0].lower()}); check the network, the proxy and AWS_ENDPOINT_URL"
    return told or " ".join(text.split())[:200]
