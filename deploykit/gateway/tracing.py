"""A span for each request, for whoever collects OpenTelemetry's traces."""

import logging
import os
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, Final, Protocol

from starlette.datastructures import Headers
from starlette.types import Scope

from deploykit import __version__
from deploykit.gateway.logs import tell

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.trace import Tracer

ENDPOINTS: Final = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")
"""Environment variables that say where traces are sent; without either, none are made."""
TRACE_HEADERS: Final = ("traceparent", "tracestate")
SERVICE: Final = "deploykit-gateway"
FAREWELL: Final = 3.0
"""Seconds at most that the last spans get to be sent: a collector that is down must not hold the end."""


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
        self._tracer: Tracer = provider.get_tracer("deploykit.gateway", __version__)

    @contextmanager
    def span(self, scope: Scope) -> Iterator[Span]:
        """Have what runs meanwhile count to a span of this request, below the caller's own if it names one.

        The request's headers name the new span from then on: what is handed on to Triton stands below it.
        """
        from opentelemetry.trace import SpanKind

        headers = Headers(scope=scope)
        caller = {name: headers[name] for name in TRACE_HEADERS if name in headers}
        with self._tracer.start_as_current_span(
            scope["method"],
            context=self._propagator.extract(caller),
            kind=SpanKind.SERVER,
            attributes={"http.request.method": scope["method"]},
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
        """Send what has not been sent yet, within a few seconds."""
        sending = threading.Thread(target=self._provider.shutdown, name="last-spans", daemon=True)
        sending.start()
        sending.join(FAREWELL)


def is_wanted(environment: Mapping[str, str] = os.environ) -> bool:
    """Return whether the environment says where traces are sent."""
    return any(environment.get(name) for name in ENDPOINTS)


def open_tracing(environment: Mapping[str, str] = os.environ) -> Tracing | None:
    """Return what makes spans as OpenTelemetry's environment variables say; None where they say nothing."""
    if not is_wanted(environment):
        return None
    if find_spec("opentelemetry") is None or find_spec("opentelemetry.sdk") is None:
        tell("no traces: opentelemetry-sdk is not installed; pip install 'deploykit[otel]'", level=logging.WARNING)
        return None
    return Tracing(_provider(environment))


def _provider(environment: Mapping[str, str]) -> "TracerProvider":
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.resources import SERVICE_NAME, SERVICE_VERSION, Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    named = environment.get("OTEL_SERVICE_NAME", SERVICE)
    resource = Resource.create({SERVICE_NAME: named, SERVICE_VERSION: __version__})
    provider = TracerProvider(resource=resource, shutdown_on_exit=False)
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    # Not for all of the process: FastAPI would make spans of its own, with callers' addresses in them.
    return provider
