"""The place of a call in a distributed trace."""

import sys


def trace_headers() -> dict[str, str]:
    """Return W3C's `traceparent` and `tracestate` of the current span; nothing where OpenTelemetry has none.

    An application that has a current span has loaded the package, so nothing is loaded for its sake.
    """
    if "opentelemetry.trace" not in sys.modules:
        return {}
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

    headers: dict[str, str] = {}
    TraceContextTextMapPropagator().inject(headers)
    return headers
