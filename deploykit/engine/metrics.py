"""The engine's figures, named as vLLM names them (without its prefix), for Prometheus to collect."""

import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final, Literal, get_args

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

FinishReason = Literal["stop", "length", "cancelled", "timeout", "error"]
Kind = Literal["counter", "gauge", "histogram"]

# Seconds; the bounds of vLLM, so that its dashboards fit.
_FIRST: Final = (0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0, 20.0, 40.0)
_NEXT: Final = (0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0)
_KINDS: Final[Mapping[str, Kind]] = {"counter": "counter", "gauge": "gauge", "histogram": "histogram"}
_WHOLE: Final = (0.3, 0.5, 0.8, 1.0, 1.5, 2.0, 2.5, 5.0, 10.0, 15.0, 20.0, 30.0, 40.0, 50.0, 60.0, 120.0, 240.0, 480.0)


@dataclass(frozen=True, kw_only=True)
class Sample:
    """One figure of one metric at one moment."""

    family: str
    """The metric it belongs to, such as `time_to_first_token_seconds`."""
    kind: Kind
    help: str
    name: str
    """As Prometheus writes it: a histogram has `_bucket`, `_sum` and `_count`."""
    labels: Mapping[str, str]
    value: float


class Metrics:
    """What the engine counts and times; the loop's thread writes, any thread may read."""

    def __init__(self) -> None:
        registry = self.registry = CollectorRegistry(auto_describe=False)
        """For whoever publishes the figures with prometheus-client."""
        self.prompt_tokens: Final = Counter("prompt_tokens", "Prompt tokens of the requests begun.", registry=registry)
        self.generation_tokens: Final = Counter("generation_tokens", "Tokens generated.", registry=registry)
        self.preemptions: Final = Counter(
            "num_preemptions", "Sequences set aside because the cache was full.", registry=registry
        )
        self.finished: Final = Counter(
            "request_success", "Choices that ended, by how.", ["finished_reason"], registry=registry
        )
        for reason in get_args(FinishReason):
            # From the beginning: Prometheus can't tell growth where a series begins with its first error.
            self.finished.labels(reason)
        self.first_token: Final = Histogram(
            "time_to_first_token_seconds", "From the request to its first token.", buckets=_FIRST, registry=registry
        )
        self.next_token: Final = Histogram(
            "time_per_output_token_seconds", "From a token to the next.", buckets=_NEXT, registry=registry
        )
        self.whole_request: Final = Histogram(
            "e2e_request_latency_seconds", "From the request to its last token.", buckets=_WHOLE, registry=registry
        )
        self.queued: Final = Histogram(
            "request_queue_time_seconds", "From the request to its first row.", buckets=_WHOLE, registry=registry
        )
        self.prefilled: Final = Histogram(
            "request_prefill_time_seconds", "From the first row to the first token.", buckets=_WHOLE, registry=registry
        )
        self.decoded: Final = Histogram(
            "request_decode_time_seconds", "From the first token to the end.", buckets=_WHOLE, registry=registry
        )
        self.running: Final = Gauge("num_requests_running", "Sequences that have a row.", registry=registry)
        self.waiting: Final = Gauge("num_requests_waiting", "Sequences that wait for one.", registry=registry)
        self.cache_usage: Final = Gauge(
            "kv_cache_usage_perc", "Share of the cache in use; 1 is all of it.", registry=registry
        )

    def samples(self) -> Iterator[Sample]:
        """Yield every figure as it is now."""
        for family in self.registry.collect():
            for sample in family.samples:
                # When a metric was made is of no use to anyone here.
                if not sample.name.endswith("_created"):
                    yield Sample(
                        family=family.name,
                        kind=_KINDS[family.type],
                        help=family.documentation,
                        name=sample.name,
                        labels=sample.labels,
                        value=sample.value,
                    )


@dataclass(frozen=True, kw_only=True)
class Timing:
    """When each stage of an answer began, in seconds of `time.monotonic`; None for those that it didn't reach."""

    queued: float
    """When it was asked for."""
    begun: float | None
    """When the first piece of its prompt ran."""
    first_token: float | None
    ended: float


class Stopwatch:
    """Times one answer."""

    def __init__(self, metrics: Metrics, *, prompt_tokens: int) -> None:
        self._metrics = metrics
        self._prompt_tokens = prompt_tokens
        self._queued = time.monotonic()
        self._begun: float | None = None
        self._first: float | None = None
        self._last = 0.0
        """When the last token came."""

    def begin(self) -> None:
        """Note that the model works on it, from the first call on."""
        if self._begun is None:
            self._begun = time.monotonic()

    def token(self) -> None:
        """Note that a token has come."""
        now = time.monotonic()
        if self._first is None:
            self._first = now
            self._metrics.prompt_tokens.inc(self._prompt_tokens)
            self._metrics.first_token.observe(now - self._queued)
        else:
            self._metrics.next_token.observe(now - self._last)
        self._metrics.generation_tokens.inc()
        self._last = now

    def end(self, reason: str) -> Timing:
        """Note that the answer has ended, and return how long everything took."""
        now = time.monotonic()
        self._metrics.finished.labels(reason).inc()
        self._metrics.whole_request.observe(now - self._queued)
        if self._begun is not None:
            self._metrics.queued.observe(self._begun - self._queued)
        if self._begun is not None and self._first is not None:
            self._metrics.prefilled.observe(self._first - self._begun)
            self._metrics.decoded.observe(now - self._first)
        return Timing(queued=self._queued, begun=self._begun, first_token=self._first, ended=now)


def counted(counter: Counter) -> int:
    """Return how far a counter without labels has come."""
    return int(next(sample.value for family in counter.collect() for sample in family.samples))
