"""The gateway's figures, named as vLLM names them (without its prefix), for Prometheus to collect."""

from typing import Final

from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.metrics_core import Metric
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from deploykit.gateway.errors import Refusal

PATH: Final = "/metrics"

# Seconds; the bounds of vLLM, so that its dashboards fit.
_FIRST: Final = (0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0, 20.0, 40.0)
_NEXT: Final = (0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0)
_WHOLE: Final = (0.3, 0.5, 0.8, 1.0, 1.5, 2.0, 2.5, 5.0, 10.0, 15.0, 20.0, 30.0, 40.0, 50.0, 60.0, 120.0, 240.0, 480.0)
_MODEL: Final = ("model_name",)


class Metrics:
    """What the gateway counts and times; every label has few values, whatever callers send."""

    def __init__(self) -> None:
        registry = self.registry = CollectorRegistry(auto_describe=False)
        self.prompt_tokens: Final = Counter(
            "prompt_tokens", "Prompt tokens of the requests begun.", _MODEL, registry=registry
        )
        self.generation_tokens: Final = Counter("generation_tokens", "Tokens generated.", _MODEL, registry=registry)
        self.finished: Final = Counter(
            "request_success", "Answers that ended, by how.", (*_MODEL, "finished_reason"), registry=registry
        )
        self.first_token: Final = Histogram(
            "time_to_first_token_seconds",
            "From the request's head to its first token.",
            _MODEL,
            buckets=_FIRST,
            registry=registry,
        )
        self.next_token: Final = Histogram(
            "time_per_output_token_seconds", "From a token to the next.", _MODEL, buckets=_NEXT, registry=registry
        )
        self.whole_request: Final = Histogram(
            "e2e_request_latency_seconds",
            "From the request's head to the end of its answer.",
            _MODEL,
            buckets=_WHOLE,
            registry=registry,
        )
        self.running: Final = Gauge("num_requests_running", "Requests at Triton.", _MODEL, registry=registry)
        self.http: Final = Counter(
            "http_requests", "Requests answered, refused ones too.", ("method", "route", "status"), registry=registry
        )

    def collect(self) -> list[Metric]:
        """Return every figure as it is now, without when each was made, which is of no use to anyone."""
        families = list(self.registry.collect())
        for family in families:
            family.samples = [sample for sample in family.samples if not sample.name.endswith("_created")]
        return families

    def page(self) -> bytes:
        """Return all of it as Prometheus reads it."""
        return generate_latest(self)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request with it."""
        if scope["method"] in ("GET", "HEAD"):
            response = Response(self.page(), media_type=CONTENT_TYPE_LATEST)
        else:
            response = Refusal(f"{PATH} is only read; use GET", status=405).response()
            response.headers["allow"] = "GET"
        await response(scope, receive, send)
