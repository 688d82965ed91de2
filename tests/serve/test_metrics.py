"""What an engine counted reaches Triton as what has changed since."""

import math
from bisect import bisect_left
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deploykit.engine.metrics import Metrics
from deploykit.serve.metrics import Histogram, Publisher, values_between

BOUNDS = (0.1, 0.5, 1.0, math.inf)


def histogram(values: Iterable[float]) -> Histogram:
    values = list(values)
    return Histogram(
        counts={bound: float(sum(value <= bound for value in values)) for bound in BOUNDS}, total=math.fsum(values)
    )


SECONDS = st.lists(st.floats(0, 3, allow_subnormal=False), max_size=20)


@given(SECONDS, SECONDS)
def test_a_histogram_is_led_from_one_state_to_the_next(old: list[float], new: list[float]) -> None:
    made = list(values_between(histogram(old), histogram(old + new)))
    assert [bisect_left(BOUNDS, value) for value in made] == sorted(bisect_left(BOUNDS, value) for value in new)
    assert math.fsum(made) == pytest.approx(math.fsum(new), rel=1e-6, abs=1e-6)


class Written:
    """What stands in Triton's metrics."""

    def __init__(self) -> None:
        self.lines: dict[tuple[str, tuple[tuple[str, str], ...]], list[float]] = {}

    def family(self, name: str, kind: str, description: str) -> "WrittenFamily":
        assert description
        return WrittenFamily(self, name, kind)

    def value(self, name: str, **labels: str) -> float:
        return [0.0, *self.lines[name, tuple(sorted({"model": "m", **labels}.items()))]][-1]


class WrittenFamily:
    def __init__(self, written: Written, name: str, kind: str) -> None:
        self.written, self.name, self.kind = written, name, kind

    def metric(self, labels: Mapping[str, str], bounds: list[float] | None = None) -> "WrittenMetric":
        assert (bounds is not None) == (self.kind == "histogram")
        values = self.written.lines.setdefault((self.name, tuple(sorted(labels.items()))), [])
        return WrittenMetric(values, self.kind)


class WrittenMetric:
    """Only what Triton allows for its kind."""

    def __init__(self, values: list[float], kind: str) -> None:
        self.values, self.kind = values, kind

    def increment(self, value: float) -> None:
        assert self.kind in ("counter", "gauge")
        assert value > 0 or (self.kind == "gauge" and value < 0)
        self.values.append((self.values or [0.0])[-1] + value)

    def observe(self, value: float) -> None:
        assert self.kind == "histogram"
        self.values.append(value)


@pytest.fixture
def published() -> tuple[Metrics, Written, Callable[[], None]]:
    """An engine's metrics with a warm-up in them, and what has been written of those since."""
    metrics, written = Metrics(), Written()
    metrics.generation_tokens.inc(1000)
    metrics.first_token.observe(5.0)
    metrics.finished.labels("length").inc()
    failures: list[Any] = []
    publisher = Publisher(metrics.samples, written.family, labels={"model": "m"}, on_failure=failures.append)

    def close() -> None:
        publisher.close()
        assert not failures

    return metrics, written, close


def test_figures_are_those_since_the_model_is_ready(
    published: tuple[Metrics, Written, Callable[[], None]],
) -> None:
    metrics, written, close = published
    metrics.generation_tokens.inc(7)
    metrics.finished.labels("length").inc(2)
    metrics.finished.labels("cancelled").inc()
    for seconds in (0.003, 0.03, 0.03, 100.0):
        metrics.first_token.observe(seconds)
    close()
    assert written.value("generation_tokens_total") == 7
    assert written.value("request_success_total", finished_reason="length") == 2
    assert written.value("request_success_total", finished_reason="cancelled") == 1
    assert written.value("num_requests_running") == 0
    waits = written.lines["time_to_first_token_seconds", (("model", "m"),)]
    assert len(waits) == 4
    assert math.fsum(waits) == pytest.approx(100.063)


def test_two_backends_of_one_model_add_up_and_leave_nothing_behind() -> None:
    written, failures = Written(), list[Exception]()
    both = [Metrics(), Metrics()]
    publishers = []
    for number, metrics in enumerate(both, 1):
        metrics.running.set(number)
        metrics.cache_usage.set(number / 7)
        publishers.append(Publisher(metrics.samples, written.family, labels={"model": "m"}, on_failure=failures.append))
    assert written.value("num_requests_running") == 3
    assert written.value("kv_cache_usage_perc") == pytest.approx(3 / 7, abs=1e-6)
    for metrics, publisher in zip(both, publishers, strict=True):
        metrics.running.set(0)
        metrics.cache_usage.set(0)
        publisher.close()
    assert (written.value("num_requests_running"), written.value("kv_cache_usage_perc")) == (0, 0)
    assert not failures


def test_what_cannot_be_written_ends_the_writing_and_nothing_else() -> None:
    failures: list[Exception] = []

    class Broken(WrittenFamily):
        def metric(self, labels: Mapping[str, str], bounds: list[float] | None = None) -> WrittenMetric:
            metric = super().metric(labels, bounds)
            metric.kind = "none"
            return metric

    metrics, written = Metrics(), Written()
    for gauge in (metrics.running, metrics.waiting, metrics.cache_usage):
        metrics.registry.unregister(gauge)
    publisher = Publisher(
        metrics.samples, lambda name, kind, _: Broken(written, name, kind), labels={}, on_failure=failures.append
    )
    metrics.generation_tokens.inc()
    publisher.close()
    assert [type(failure) for failure in failures] == [AssertionError]
