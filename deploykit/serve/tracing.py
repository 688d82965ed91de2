"""OpenTelemetry spans of requests that have ended, where a collector is named and the SDK is installed.

Nothing of it is imported otherwise. Spans are made from times that the engine keeps anyway, when all is over.
"""

import logging
import threading
import time
from collections.abc import Callable, Mapping
from importlib.metadata import version
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, Final

from deploykit.serve.record import Record

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider

ENDPOINTS: Final = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
"""Environment variables that name a collector."""
_PROTOCOLS: Final = ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL")
_PROTOCOL: Final = "http/protobuf"
_NEEDED: Final = ("opentelemetry.sdk", "opentelemetry.exporter.otlp.proto.http")
SERVICE: Final = "deploykit-engine"
_PATIENCE: Final = 1.0
"""Seconds that the last spans get at the end: a collector that doesn't answer must not hold up a shutdown."""
_ASKED: Final = (
    ("max_tokens", "max_tokens"),
    ("temperature", "temperature"),
    ("top_k", "top_k"),
    ("top_p", "top_p"),
    ("seed", "seed"),
    ("frequency_penalty", "frequency_penalty"),
    ("presence_penalty", "presence_penalty"),
    ("choice.count", "n"),
)
"""Attributes of a request, and the parameters that they tell of."""


class Tracing:
    """Makes spans and has them sent, from a thread that nobody waits for."""

    def __init__(self, provider: "TracerProvider", *, model: str) -> None:
        self._provider = provider
        self._model = model
        self._tracer = provider.get_tracer("deploykit.serve", version("deploykit"))
        # Spans tell the time of day, and the engine keeps that of a clock that never jumps.
        self._epoch = time.time_ns() - time.monotonic_ns()

    def __call__(self, record: Record) -> None:
        """Make the spans of a request: one for all of it, and one for each stage it has reached."""
        from opentelemetry.trace import SpanKind, Status, StatusCode, set_span_in_context

        span = self._tracer.start_span(
            f"{record.operation} {self._model}",
            context=_parent(record),
            kind=SpanKind.SERVER,
            attributes=self._attributes(record),
            start_time=self._time(record.arrived),
        )
        if not span.is_recording():
            # Its caller's trace isn't sampled, or the sampler has left it out.
            return
        if record.refusal:
            span.set_status(Status(StatusCode.ERROR, record.status))
            span.set_attribute("error.type", record.status)
        inside = set_span_in_context(span)
        for stage, (begun, ended) in record.stages().items():
            self._tracer.start_span(stage, context=inside, start_time=self._time(begun)).end(self._time(ended))
        span.end(self._time(record.ended))

    def close(self) -> None:
        """Send what is left, if the collector takes it."""
        thread = threading.Thread(target=self._provider.shutdown, name="last-spans", daemon=True)
        thread.start()
        thread.join(_PATIENCE)

    def _attributes(self, record: Record) -> dict[str, Any]:
        """Return a request's attributes as the conventions for generative models name them."""
        asked = record.query.sampling if record.query else {}
        told = {
            "gen_ai.operation.name": record.operation,
            "gen_ai.provider.name": "deploykit",
            "gen_ai.request.model": self._model,
            "deploykit.request_id": record.request_id[:128],
            "gen_ai.usage.input_tokens": record.num_input_tokens,
            "gen_ai.usage.output_tokens": record.num_output_tokens,
            "gen_ai.response.finish_reasons": record.finish_reasons,
        }
        parameters = {f"gen_ai.request.{name}": asked.get(parameter) for name, parameter in _ASKED}
        return told | {name: value for name, value in parameters.items() if isinstance(value, int | float)}

    def _time(self, moment: float) -> int:
        return self._epoch + round(moment * 1e9)


def open_tracing(environment: Mapping[str, str], *, model: str, say: Callable[[str], None]) -> Tracing | None:
    """Return what makes spans; None where the environment names no collector.

    Args:
        environment: its variables are OpenTelemetry's own.
        model: the name of the model.
        say: told in a line why there are no spans though a collector is named.
    """
    if not _wanted(environment):
        return None
    if problem := _problem(environment):
        say(f"there are no traces: {problem}")
        return None
    try:
        return Tracing(_provider(environment), model=model)
    except Exception as error:  # whatever stands in those variables, it is no reason not to serve
        say(f"there are no traces: {type(error).__name__} while OpenTelemetry read its variables, OTEL_...; check them")
        return None


def _problem(environment: Mapping[str, str]) -> str | None:
    """Return why spans can't be sent, though they are wanted."""
    if missing := [name for name in _NEEDED if not _is_installed(name)]:
        return f"{missing[0]} is not installed; run: pip install 'deploykit[otel]'"
    protocol = next((environment[name] for name in _PROTOCOLS if environment.get(name)), _PROTOCOL)
    if protocol != _PROTOCOL:
        return f"{_PROTOCOLS[1]} asks for another protocol than {_PROTOCOL}; name that one and its port (4318)"
    return None


def _provider(environment: Mapping[str, str]) -> "TracerProvider":
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    # What they log of a collector that doesn't answer has its address in it, again and again.
    for name in ("opentelemetry", "urllib3"):
        logging.getLogger(name).setLevel(logging.CRITICAL + 1)
    named = "OTEL_SERVICE_NAME" in environment or "service.name=" in environment.get("OTEL_RESOURCE_ATTRIBUTES", "")
    resource = Resource.create({} if named else {"service.name": SERVICE})
    # At exit it would wait for the collector for half a minute.
    provider = TracerProvider(resource=resource, shutdown_on_exit=False)
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    return provider


def _wanted(environment: Mapping[str, str]) -> bool:
    """Return whether a collector is named, and spans aren't turned off."""
    off = environment.get("OTEL_SDK_DISABLED", "").lower() == "true"
    exporters = environment.get("OTEL_TRACES_EXPORTER", "otlp").split(",")
    return not off and "otlp" in exporters and any(environment.get(name) for name in ENDPOINTS)


def _is_installed(name: str) -> bool:
    try:
        return find_spec(name) is not None
    except ModuleNotFoundError:
        return False


def _parent(record: Record) -> Any:
    """Return the context that a request's span belongs to: its caller's, or none."""
    from opentelemetry.context import Context
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

    query = record.query
    carrier = {"traceparent": query.traceparent, "tracestate": query.tracestate} if query else {}
    return TraceContextTextMapPropagator().extract(carrier, context=Context())
