"""Where OpenTelemetry's spans are sent, as its environment variables say; nothing is imported where they don't say."""

import logging
import threading
from collections.abc import Callable, Mapping
from importlib.util import find_spec
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider

ENDPOINTS: Final = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
"""Environment variables that name a collector."""
PATIENCE: Final = 1.0
"""Seconds that the last spans get at the end: a collector that doesn't answer must not hold up a shutdown."""
_PROTOCOLS: Final = ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL")
_PROTOCOL: Final = "http/protobuf"
_NEEDED: Final = ("opentelemetry.sdk", "opentelemetry.exporter.otlp.proto.http")


def open_provider(
    environment: Mapping[str, str], *, service: str, say: Callable[[str], None]
) -> "TracerProvider | None":
    """Return what makes spans and has them sent; None where the environment names no collector.

    It isn't the whole process's: libraries would make spans of their own, with callers' addresses in them.

    Args:
        environment: its variables are OpenTelemetry's own.
        service: the name that spans go under where the environment gives none.
        say: told in a line why there are no spans though a collector is named.
    """
    if not _wanted(environment):
        return None
    if problem := _problem(environment):
        say(f"there are no traces: {problem}")
        return None
    try:
        return _provider(environment, service)
    except Exception as error:  # whatever stands in those variables, it is no reason not to serve
        say(f"there are no traces: {type(error).__name__} while OpenTelemetry read its variables, OTEL_...; check them")
        return None


def send_last(provider: "TracerProvider") -> None:
    """Send what is left, if the collector takes it soon."""
    thread = threading.Thread(target=provider.shutdown, name="last-spans", daemon=True)
    thread.start()
    thread.join(PATIENCE)


def _problem(environment: Mapping[str, str]) -> str | None:
    """Return why spans can't be sent, though they are wanted."""
    if missing := [name for name in _NEEDED if not _is_installed(name)]:
        return f"{missing[0]} is not installed; run: pip install 'deploykit[otel]'"
    protocol = next((environment[name] for name in _PROTOCOLS if environment.get(name)), _PROTOCOL)
    if protocol != _PROTOCOL:
        return f"{_PROTOCOLS[1]} asks for another protocol than {_PROTOCOL}; name that one and its port (4318)"
    return None


def _provider(environment: Mapping[str, str], service: str) -> "TracerProvider":
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    # What they log of a collector that doesn't answer has its address in it, again and again.
    for name in ("opentelemetry", "urllib3"):
        logging.getLogger(name).setLevel(logging.CRITICAL + 1)
    named = "OTEL_SERVICE_NAME" in environment or "service.name=" in environment.get("OTEL_RESOURCE_ATTRIBUTES", "")
    resource = Resource.create({} if named else {"service.name": service})
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
