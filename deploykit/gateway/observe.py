"""What is known of each request when it is over: one line of the log, the metrics, and a span."""

import asyncio
import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from http import HTTPStatus
from typing import Any, Final

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from deploykit.gateway.errors import RETRY_AFTER, Refusal, failure, refused
from deploykit.gateway.keys import client_name
from deploykit.gateway.logs import current_request, tell
from deploykit.gateway.metrics import Metrics
from deploykit.gateway.request_id import request_id
from deploykit.gateway.tracing import Span, Tracing
from deploykit.gateway.watch import RequestWatch, current_watch

METHODS: Final = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
CLIENT_GONE: Final = 499
"""Status of a request whose caller went before it was answered, as nginx counts it."""
NO_ROUTE: Final = "none"
_DOCUMENT: Final = "/openapi.json"
"""The one route that isn't an endpoint of ours, and so doesn't say itself which it is."""
_LONGEST_NAME: Final = 128
"""Characters of a model's name that a caller made up."""
_OPERATIONS: Final = {"/v1/chat/completions": "chat", "/v1/completions": "text_completion"}
"""What OpenTelemetry calls them."""


class Observe:
    """ASGI: watches each request and tells of it; also answers 500 where an endpoint failed before it answered."""

    def __init__(
        self,
        app: ASGIApp,
        *,
        metrics: Metrics,
        tracing: Tracing | None,
        log_requests: bool = True,
        log_prompts: bool,
        quiet: frozenset[str],
    ) -> None:
        """Observe `app`.

        Args:
            app: what answers.
            metrics: where requests are counted.
            tracing: what makes spans, if anything does.
            log_requests: whether a request that went well is logged.
            log_prompts: whether prompts stand in the log.
            quiet: paths that are asked for every few seconds: only what goes wrong there is logged.
        """
        self._app, self._metrics, self._tracing = app, metrics, tracing
        self._log_requests, self._log_prompts, self._quiet = log_requests, log_prompts, quiet

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, and tell of it when it is over."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        watch = RequestWatch(self._metrics, keep_prompt=self._log_prompts)
        scope.setdefault("state", {})["watch"] = watch
        outcome = _Outcome(send)
        with self._telling(scope, watch, outcome):
            try:
                await self._app(scope, receive, outcome.send)
            except asyncio.CancelledError:
                # The time for open requests is over. One that has no answer yet gets this one.
                if outcome.status:
                    raise
                await _ended().response()(scope, receive, outcome.send)
            except Exception as error:
                outcome.failed = True
                tell("request failed", level=logging.ERROR, error=error)
                if outcome.status:
                    # Half of an answer is out: only the end of the connection says that there will be no more.
                    raise
                await failure().response()(scope, receive, outcome.send)

    @contextmanager
    def _telling(self, scope: Scope, watch: RequestWatch, outcome: "_Outcome") -> Iterator[None]:
        token = current_request.set(request_id(scope))
        watching = current_watch.set(watch)
        try:
            traced = self._tracing if scope["path"] not in self._quiet else None
            with traced.span(scope) if traced else nullcontext() as span:
                try:
                    yield
                finally:
                    status = outcome.status or CLIENT_GONE
                    watch.close("error" if outcome.failed else _ending(status))
                    if span is not None:
                        _describe(span, scope, watch, status)
                    self._count(scope, watch, status)
        finally:
            current_watch.reset(watching)
            current_request.reset(token)

    def _count(self, scope: Scope, watch: RequestWatch, status: int) -> None:
        method, route = _method(scope), _route(scope)
        self._metrics.http.labels(method, route, str(status)).inc()
        if status >= 400 or (self._log_requests and route not in self._quiet):
            tell("request", method=method, route=route, status=status, **_facts(scope, watch))


class _Outcome:
    """What became of a response."""

    def __init__(self, send: Send) -> None:
        self._send = send
        self.status = 0
        self.failed = False

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
        await self._send(message)


def _ended() -> Refusal:
    return Refusal(
        "the server is shutting down; try again",
        status=503,
        kind="server_error",
        code="unavailable",
        retry_after=RETRY_AFTER,
    )


def _ending(status: int) -> str:
    """Return how a choice ended that has no end of its own, when its request was answered with a status."""
    if status == HTTPStatus.GATEWAY_TIMEOUT:
        return "timeout"
    return "cancelled" if status in (HTTPStatus.OK, CLIENT_GONE) else "error"


def _method(scope: Scope) -> str:
    """Return the method, of which there are few; callers may send any word."""
    return scope["method"] if scope["method"] in METHODS else "_OTHER"


def _route(scope: Scope) -> str:
    """Return the template of the route that answered: there are few of those, and any number of paths."""
    own = scope.get("state", {}).get("route", NO_ROUTE)
    if scope["path"] == _DOCUMENT and "endpoint" in scope:
        own = _DOCUMENT
    return str(getattr(scope.get("route"), "path", own))


def _facts(scope: Scope, watch: RequestWatch) -> dict[str, Any]:
    """Return what a request's line of the log says beside its status."""
    facts: dict[str, Any] = {"client": client_name(scope), "duration_ms": _milliseconds(time.monotonic() - watch.began)}
    if refusal := refused(scope):
        facts |= {"code": refusal.code, "param": refusal.param}
        if wanted := watch.wanted or refusal.model:
            facts["model"] = wanted[:_LONGEST_NAME]
    if watch.model:
        facts |= {
            "model": watch.model,
            "prompt_tokens": watch.prompt_tokens,
            "generated_tokens": watch.generated_tokens,
            "finished": watch.reasons,
            "first_token_ms": None if watch.first_token is None else _milliseconds(watch.first_token),
        }
    if watch.prompt is not None:
        facts["prompt"] = watch.prompt
    return facts


def _describe(span: Span, scope: Scope, watch: RequestWatch, status: int) -> None:
    """Note on a span what OpenTelemetry's conventions have names for."""
    route = _route(scope)
    method = _method(scope)
    span.update_name(method if route == NO_ROUTE else f"{method} {route}")
    span.set_attribute("http.request.method", method)
    if route != NO_ROUTE:
        span.set_attribute("http.route", route)
    span.set_attribute("http.response.status_code", status)
    span.set_attribute("deploykit.request_id", request_id(scope))
    if status >= 500:
        span.set_attribute("error.type", str(status))
    if watch.model:
        span.set_attribute("gen_ai.operation.name", _OPERATIONS.get(route, "text_completion"))
        span.set_attribute("gen_ai.request.model", watch.model)
        span.set_attribute("gen_ai.usage.input_tokens", watch.prompt_tokens)
        span.set_attribute("gen_ai.usage.output_tokens", watch.generated_tokens)
        span.set_attribute("gen_ai.response.finish_reasons", watch.reasons)


def _milliseconds(seconds: float) -> float:
    return round(seconds * 1e3, 2)
