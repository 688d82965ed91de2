"""Puts an engine's figures into Triton's `/metrics`: once a second, as what has changed since."""

import math
import os
import threading
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Literal, Protocol

Kind = Literal["counter", "gauge", "histogram"]
INTERVAL: Final = 1.0
"""Seconds between two updates."""

_EXACT: Final = 2**20
"""Parts of one in which a gauge is told: of such numbers, changes add up to nothing again, to the last bit."""

_Labels = tuple[tuple[str, str], ...]


class Sample(Protocol):
    """One figure of an engine's metric."""

    @property
    def family(self) -> str: ...  # noqa: D102  # the engine's own documentation says what each is
    @property
    def kind(self) -> Kind: ...  # noqa: D102
    @property
    def help(self) -> str: ...  # noqa: D102
    @property
    def name(self) -> str: ...  # noqa: D102
    @property
    def labels(self) -> Mapping[str, str]: ...  # noqa: D102
    @property
    def value(self) -> float: ...  # noqa: D102


class Metric(Protocol):
    """One line of Triton's metrics, or a histogram's lines."""

    def increment(self, value: float) -> None:
        """Add to a counter, or to a gauge, which may be less than nothing."""
        ...

    def observe(self, value: float) -> None:
        """Count one value in a histogram."""
        ...


class Family(Protocol):
    """A metric by name."""

    def metric(self, labels: Mapping[str, str], bounds: list[float] | None = None) -> Metric:
        """Return its values for one set of labels; `bounds` are a histogram's."""
        ...


@dataclass(frozen=True, kw_only=True)
class Histogram:
    """A histogram's figures at one moment."""

    counts: Mapping[float, float]
    """Values up to each bound, as Prometheus counts them; the last bound is infinite."""
    total: float
    """Sum of the values."""


class Publisher:
    """Writes what an engine counts into Triton's metrics, from a thread of its own.

    What was counted before it was made stays out: a warm-up is no request.

    Gauges are told by what has changed, too. While a replaced model finishes its requests two backends write the same
    lines, and so each adds its part and takes it away again.
    """

    def __init__(
        self,
        samples: Callable[[], Iterable[Sample]],
        family: Callable[[str, Kind, str], Family],
        *,
        labels: Mapping[str, str],
        on_failure: Callable[[Exception], None],
    ) -> None:
        self._samples = samples
        self._new_family = family
        self._labels = dict(labels)
        self._on_failure = on_failure
        self._families: dict[str, Family] = {}
        self._metrics: dict[tuple[str, _Labels], Metric] = {}
        self._values: dict[tuple[str, _Labels], float] = {}
        """What Triton has been told of each counter and gauge."""
        self._histograms: dict[str, Histogram] = {}
        self._closed = threading.Event()
        self._server = os.getppid()
        self._publish(told=False)
        self._thread = threading.Thread(target=self._run, name="metrics", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Write the last figures, and end."""
        self._closed.set()
        self._thread.join()

    def _run(self) -> None:
        try:
            while not self._closed.wait(INTERVAL):
                self._publish()
            self._publish()
        except Exception as error:  # figures are no reason to stop serving
            self._on_failure(error)

    def _publish(self, *, told: bool = True) -> None:
        if os.getppid() != self._server:
            # It would be waited for without end, and the whole process with it: the wait holds Python's lock.
            return
        by_family: defaultdict[str, list[Sample]] = defaultdict(list)
        for sample in self._samples():
            by_family[sample.family].append(sample)
        for name, samples in by_family.items():
            if samples[0].kind == "histogram":
                self._publish_histogram(name, samples, told=told)
                continue
            for sample in samples:
                self._publish_sample(sample, told=told)

    def _publish_sample(self, sample: Sample, *, told: bool) -> None:
        labels = tuple(sorted(sample.labels.items()))
        metric = self._metric(sample.name, sample, labels)
        value = round(sample.value * _EXACT) / _EXACT
        # A series that appears later begins at nothing: it wasn't there before the first look either.
        change = value - self._values.get((sample.name, labels), 0.0)
        self._values[sample.name, labels] = value
        if change and (told or sample.kind == "gauge"):
            metric.increment(change)

    def _publish_histogram(self, name: str, samples: Sequence[Sample], *, told: bool) -> None:
        now = _histogram(samples)
        before = self._histograms.get(name, Histogram(counts=dict.fromkeys(now.counts, 0.0), total=0.0))
        self._histograms[name] = now
        metric = self._metric(name, samples[0], (), [bound for bound in now.counts if bound < math.inf])
        if told:
            for value in values_between(before, now):
                metric.observe(value)

    def _metric(self, name: str, sample: Sample, labels: _Labels, bounds: list[float] | None = None) -> Metric:
        if (name, labels) not in self._metrics:
            if name not in self._families:
                self._families[name] = self._new_family(name, sample.kind, sample.help)
            self._metrics[name, labels] = self._families[name].metric({**self._labels, **dict(labels)}, bounds)
        return self._metrics[name, labels]


def values_between(before: Histogram, now: Histogram) -> Iterator[float]:
    """Yield values that lead from one state of a histogram to the next.

    They are not those that were observed, which nobody kept; but as many lie in each bucket, and their sum is the same.
    """
    buckets = list(_buckets(before, now))
    # As far into each bucket, counted from its lower bound, as makes up the sum.
    left = now.total - before.total - sum(count * low for low, _, count in buckets)
    width = sum(count * (high - low) for low, high, count in buckets)
    part = min(max(left / width, 0.0), 1.0) if width > 0 else 0.0
    for low, high, count in buckets:
        value = low + part * (high - low)
        for _ in range(count):
            yield max(value, math.nextafter(low, math.inf)) if low else value


def _buckets(before: Histogram, now: Histogram) -> Iterator[tuple[float, float, int]]:
    """Yield the bounds of each bucket, and how many values are new in it."""
    low = less = 0.0
    total = now.total - before.total
    for bound, count in now.counts.items():
        fresh = count - before.counts[bound]
        new = round(fresh - less)
        # Nothing bounds the last one but what all of them add up to.
        high = bound if bound < math.inf else max(low, total)
        yield low, high, new
        low, less = bound, fresh


def _histogram(samples: Sequence[Sample]) -> Histogram:
    counts = {float(sample.labels["le"]): sample.value for sample in samples if sample.name.endswith("_bucket")}
    total = sum(sample.value for sample in samples if sample.name.endswith("_sum"))
    return Histogram(counts=dict(sorted(counts.items())), total=total)
