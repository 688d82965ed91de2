"""The layers around the endpoints, in their order."""

import logging
from typing import Final

from starlette.middleware.cors import CORSMiddleware
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from deploykit.config import GatewayConfig
from deploykit.errors import ConfigError
from deploykit.gateway.key_ring import KeyRing
from deploykit.gateway.keys import Keys
from deploykit.gateway.limits import Bodies, OpenRequests, SlowReaders
from deploykit.gateway.logs import tell
from deploykit.gateway.metrics import PATH as METRICS
from deploykit.gateway.metrics import Metrics
from deploykit.gateway.observe import Observe
from deploykit.gateway.request_id import HEADER, RequestIds
from deploykit.gateway.tracing import Tracing

HEALTH: Final = "/health"
LIVE: Final = "/health/live"
"""Answered whatever Triton does: for whoever restarts the gateway, which would be no remedy for Triton."""
EXPOSED: Final = (HEADER, "retry-after")
"""Headers that a page may read, beside those that it always may."""


def guard(app: ASGIApp, config: GatewayConfig, ring: KeyRing, *, tracing: Tracing | None = None) -> ASGIApp:
    """Return `app` behind keys and limits, watched, with `/metrics` and `/health/live` beside its routes.

    Everything stands in the log, what goes well only if that is wanted; whoever has no key is turned away before a byte
    of the body is read; pages of other origins learn of it, too.
    """
    metrics = Metrics()
    probed = frozenset({HEALTH, LIVE, METRICS})
    inner: ASGIApp = _Beside(app, LIVE, JSONResponse({"status": "ok"}))
    if config.metrics != "off":
        inner = _Beside(inner, METRICS, metrics)
    inner = Bodies(inner, most=config.max_body, timeout=config.body_timeout)
    inner = OpenRequests(inner, most=config.max_requests, open_paths=probed)
    keyless = probed if config.metrics == "open" else probed - {METRICS}
    inner = Keys(inner, ring, open_paths=keyless, on_trouble=tell_trouble)
    if config.cors_origins:
        inner = CORSMiddleware(
            inner,
            allow_origins=config.cors_origins,
            allow_methods=("GET", "POST"),
            allow_headers=("*",),
            expose_headers=EXPOSED,
        )
    inner = Observe(
        inner,
        metrics=metrics,
        tracing=tracing,
        log_requests=config.log_requests,
        log_prompts=config.log_prompts,
        quiet=probed,
    )
    return RequestIds(SlowReaders(inner, timeout=config.body_timeout))


def tell_trouble(error: ConfigError) -> None:
    """Log what is wrong with the keys."""
    tell(f"{error}; the keys that counted before still do", level=logging.ERROR)


class _Beside:
    """ASGI: answers one path, and leaves all others to the application."""

    def __init__(self, app: ASGIApp, path: str, endpoint: ASGIApp) -> None:
        self._app, self._path, self._endpoint = app, path, endpoint

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"] != self._path:
            await self._app(scope, receive, send)
            return
        scope.setdefault("state", {})["route"] = self._path
        await self._endpoint(scope, receive, send)
