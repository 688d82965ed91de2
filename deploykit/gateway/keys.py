"""Who may call: whoever shows one of the API keys."""

from collections.abc import Callable
from typing import Final

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from deploykit.errors import ConfigError
from deploykit.gateway.errors import Refusal
from deploykit.gateway.key_ring import KeyRing

_CHALLENGE: Final = 'Bearer realm="deploykit"'


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
        code="missing_api_key",
    )


def _wrong() -> Refusal:
    return Refusal(
        "the API key is none of this server's; check it for typing errors, or ask for a new one",
        status=401,
        code="invalid_api_key",
    )


def _presented(scope: Scope) -> str | None:
    """Return the key that a request shows, or None."""
    scheme, _, key = Headers(scope=scope).get("authorization", "").partition(" ")
    return key.strip() if scheme.lower() == "bearer" and key.strip() else None
