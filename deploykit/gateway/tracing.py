"""A span for each request, for whoever collects OpenTelemetry's traces."""

import logging
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib.metadata import version
from typing import TYPE_CHECKING, Any, Final, Protocol

from starlette.datastructures import Headers
from starlette.types import Scope

from deploykit.gateway.logs import tell
from deploykit.traces import open_provider, send_last

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.trace import Tracer

TRACE_HEADERS: Final = ("traceparent", "tracestate")
SERVICE: Final = "deploykit-gateway"


class Span(Protocol):
    """What a request's span takes."""

    def set_attribute(self, key: str, value: Any) -> None:
        """Note a fact."""
        ...

    def update_name(self, name: str) -> None:
        """Rename it."""
        ...


class Tracing:
    """Makes spans of requests and sends them."""

    def __init__(self, provider: "TracerProvider") -> None:
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        self._provider, self._propagator = provider, TraceContextTextMapPropagator()
        self._tracer: Tracer = provider.get_tracer("deploykit.gateway", version("deploykit"))

    @contextmanager
    def span(self, scope: Scope) -> Iterator[Span]:
        """Have what runs meanwhile count to a span of this request, below the caller's own if it names one.

        The request's headers name the new span from then on: what is handed on to Triton stands below it.
        """
        from opentelemetry.trace import SpanKind

        headers = Headers(scope=scope)
        caller = {name: headers[name] for name in TRACE_HEADERS if name in headers}
        with self._tracer.start_as_current_span(
            "request",
            context=self._propagator.extract(caller),
            kind=SpanKind.SERVER,
            # Its message may hold a prompt.
            record_exception=False,
            set_status_on_exception=False,
        ) as span:
            own: dict[str, str] = {}
            self._propagator.inject(own)
            others = [(name, value) for name, value in scope["headers"] if name.decode("latin-1") not in TRACE_HEADERS]
            scope["headers"] = others + [(name.encode(), value.encode()) for name, value in own.items()]
            yield span

    def close(self) -> None:
        """Send what has not been sent yet, if the collector takes it soon."""
        send_last(self._provider)


def open_tracing(environment: Mapping[str, str] = os.environ) -> Tracing | None:
    """Return what makes spans; None where the environment names no collector."""
    provider = open_provider(environment, service=SERVICE, say=lambda line: tell(line, level=logging.WARNING))
    return None if provider is None else Tracing(provider)
