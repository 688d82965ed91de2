"""OpenTelemetry spans of requests that have ended, where a collector is named and the SDK is installed.

Nothing of it is imported otherwise. Spans are made from times that the engine keeps anyway, when all is over.
"""

import time
from collections.abc import Callable, Mapping
from importlib.metadata import version
from typing import TYPE_CHECKING, Any, Final

from deploykit.serve.record import Record
from deploykit.traces import open_provider, send_last

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider

SERVICE: Final = "deploykit-engine"
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

    def __call__(self, record: Record) -> None:
        """Make the spans of a request: one for all of it, and one for each stage it has reached."""
        from opentelemetry.trace import SpanKind, Status, StatusCode, set_span_in_context

        # Spans tell the time of day, and the engine keeps that of a clock that never jumps.
        offset = time.time_ns() - time.monotonic_ns()
        span = self._tracer.start_span(
            f"{record.operation} {self._model}",
            context=_parent(record),
            kind=SpanKind.SERVER,
            attributes=self._attributes(record),
            start_time=_time(record.arrived, offset),
        )
        if not span.is_recording():
            # Its caller's trace isn't sampled, or the sampler has left it out.
            return
        if record.refusal:
            span.set_status(Status(StatusCode.ERROR, record.status))
            span.set_attribute("error.type", record.status)
        inside = set_span_in_context(span)
        for stage, (begun, ended) in record.stages().items():
            self._tracer.start_span(stage, context=inside, start_time=_time(begun, offset)).end(_time(ended, offset))
        span.end(_time(record.ended, offset))

    def close(self) -> None:
        """Send what is left, if the collector takes it."""
        send_last(self._provider)

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


def open_tracing(environment: Mapping[str, str], *, model: str, say: Callable[[str], None]) -> Tracing | None:
    """Return what makes spans; None where the environment names no collector.

    Args:
        environment: its variables are OpenTelemetry's own.
        model: the name of the model.
        say: told in a line why there are no spans though a collector is named.
    """
    provider = open_provider(environment, service=SERVICE, say=say)
    return None if provider is None else Tracing(provider, model=model)


def _time(moment: float, offset: int) -> int:
    return offset + round(moment * 1e9)


def _parent(record: Record) -> Any:
    """Return the context that a request's span belongs to: its caller's, or none."""
    from opentelemetry.context import Context
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

    query = record.query
    carrier = {"traceparent": query.traceparent, "tracestate": query.tracestate} if query else {}
    return TraceContextTextMapPropagator().extract(carrier, context=Context())
