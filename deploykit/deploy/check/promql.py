"""PromQL in manifests: where it stands, whether it can be read, and which series it asks for."""

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

import promql_parser
import yaml

from deploykit.deploy.check.manifests import Manifests, Resource, mapping, sequence
from deploykit.deploy.check.patterns import matches

_COUNTERS: Final = ("prompt_tokens", "generation_tokens", "request_success", "num_preemptions")
_HISTOGRAMS: Final = (
    "time_to_first_token_seconds", "time_per_output_token_seconds", "e2e_request_latency_seconds",
    "request_queue_time_seconds", "request_prefill_time_seconds", "request_decode_time_seconds",
)  # fmt: skip
_GAUGES: Final = ("num_requests_running", "num_requests_waiting", "kv_cache_usage_perc")
SERIES: Final = frozenset({
    *(f"{name}_total" for name in _COUNTERS), *_GAUGES, "http_requests_total",
    *(f"{name}_{part}" for name in _HISTOGRAMS for part in ("bucket", "sum", "count")),
})  # fmt: skip
"""Series of the engine and of the gateway, as Prometheus has them."""
FAMILIES: Final[Mapping[str, str]] = {
    **{name: f"{name}_total" for name in (*_COUNTERS, "http_requests")},
    **{name: f"{name}_bucket, {name}_sum or {name}_count" for name in _HISTOGRAMS},
}
"""Metrics that no series is called after, and what their series are called."""
_STEPS: Final = ("input", "infer", "output")
TRITON: Final = frozenset({
    *(f"nv_inference_{name}" for name in (
        "request_success", "request_failure", "count", "exec_count", "pending_request_count", "request_duration_us",
        "queue_duration_us", "first_response_histogram_ms", "load_ratio", "request_summary_us", "queue_summary_us",
    )),
    *(f"nv_inference_compute_{step}_{kind}_us" for step in _STEPS for kind in ("duration", "summary")),
    *(f"nv_inference_first_response_histogram_ms_{part}" for part in ("bucket", "sum", "count")),
    *(f"nv_gpu_{name}" for name in (
        "utilization", "memory_total_bytes", "memory_used_bytes", "power_usage", "power_limit",
    )),
    *(f"nv_cpu_{name}" for name in ("utilization", "memory_total_bytes", "memory_used_bytes")),
    *(f"nv_pinned_memory_pool_{name}_bytes" for name in ("total", "used")),
    *(f"nv_cache_num_{name}_per_model" for name in ("hits", "misses")),
    *(f"nv_cache_{name}_per_model" for name in ("hit_duration", "miss_duration", "hit_summary", "miss_summary")),
    "nv_energy_consumption",
})  # fmt: skip
"""Triton's own series (docs/user_guide/metrics.md of its server)."""

_WINDOW: Final = re.compile(r"\$__\w+|\$\{__\w+\}|(?<=\[)(?:\$\w+|\$\{\w+\})(?=[\]:])")
_STRING: Final = re.compile(r"\"(?:[^\"\\]|\\.)*\"|'(?:[^'\\]|\\.)*'|`[^`]*`")
_ADAPTER: Final[Mapping[str, str]] = {"<<.LabelMatchers>>": 'pod="a"', "<<.GroupBy>>": "pod"}


@dataclass(frozen=True, kw_only=True)
class Matcher:
    """A condition on a label."""

    label: str
    sign: str
    value: str

    def takes(self, value: str) -> bool:
        """Return whether a label of this value passes."""
        if self.sign in ("=", "!="):
            return (value == self.value) == (self.sign == "=")
        found = matches(self.value, value)
        return found is None or found == (self.sign == "=~")


@dataclass(frozen=True, kw_only=True)
class Selector:
    """A series that a query asks for."""

    name: str
    matchers: tuple[Matcher, ...]


@dataclass(frozen=True, kw_only=True)
class Query:
    """A query, and where it stands."""

    resource: Resource
    field: str
    text: str
    """As it is written."""

    def parsed(self) -> Any:
        """Return the expression; None where a template leaves it unknown.

        Raises:
            ValueError: it is no PromQL.
        """
        text = _WINDOW.sub("5m", self.text)
        for sign, example in _ADAPTER.items():
            text = text.replace(sign, example)
        bare = _STRING.sub('""', text)
        if any(sign in bare for sign in ("<<", "$", "[[", "{{", '{""')):
            # Templates; and names in quotes, which Prometheus 3 has and this parser doesn't know.
            return None
        return promql_parser.parse(text)

    def nodes(self) -> list[Any]:
        """Return the parts of the expression, each before its own parts; none where it can't be read."""
        try:
            expression = self.parsed()
        except ValueError:
            return []
        found: list[Any] = []
        if expression is not None:
            # A callback that returns nothing goes on.
            promql_parser.walk(expression, found.append)
        return found

    def selectors(self) -> list[Selector]:
        """Return the series that it asks for; none where it can't be read."""
        found = [
            node.vector_selector if isinstance(node, promql_parser.MatrixSelector) else node for node in self.nodes()
        ]
        return [_selector(node) for node in found if isinstance(node, promql_parser.VectorSelector)]


def queries(manifests: Manifests) -> Iterator[Query]:
    """Yield all PromQL: of alerts, scalers, adapters and dashboards."""
    for resource in manifests.of_kind("PrometheusRule"):
        for group, body in enumerate(map(mapping, sequence(resource.spec.get("groups")))):
            for index, rule in enumerate(map(mapping, sequence(body.get("rules")))):
                yield from _query(resource, f"spec.groups[{group}].rules[{index}].expr", rule.get("expr"))
    for resource in manifests.of_kind("ScaledObject", "ScaledJob"):
        for index, trigger in enumerate(map(mapping, sequence(resource.spec.get("triggers")))):
            if trigger.get("type") == "prometheus":
                query = mapping(trigger.get("metadata")).get("query")
                yield from _query(resource, f"spec.triggers[{index}].metadata.query", query)
    for resource in manifests.of_kind("ConfigMap"):
        for key, text in mapping(resource.body.get("data")).items():
            yield from _in_file(resource, f"data.{key}", text)


def recorded(manifests: Manifests) -> set[str]:
    """Return the series that recording rules of the set make."""
    return {
        str(mapping(rule).get("record"))
        for resource in manifests.of_kind("PrometheusRule")
        for group in sequence(resource.spec.get("groups"))
        for rule in sequence(mapping(group).get("rules"))
        if mapping(rule).get("record")
    }


def adapter_rules(manifests: Manifests) -> Iterator[Mapping[str, Any]]:
    """Yield the rules of prometheus-adapter that ConfigMaps of the set hold."""
    for resource in manifests.of_kind("ConfigMap"):
        for text in mapping(resource.body.get("data")).values():
            yield from _adapter(text)


def _in_file(resource: Resource, field: str, text: object) -> Iterator[Query]:
    if not isinstance(text, str):
        return
    if field.endswith(".json"):
        try:
            board = json.loads(text)
        except ValueError:
            return
        for path, query in _expressions(board, "") if isinstance(board, dict) and "panels" in board else ():
            yield Query(resource=resource, field=f"{field}: {path}", text=query)
        return
    for rule in _adapter(text):
        series = str(rule.get("seriesQuery") or "").partition("{")[0]
        asked = rule.get("metricsQuery")
        if isinstance(asked, str) and series:
            place = f"{field}: metricsQuery of {series}"
            yield Query(resource=resource, field=place, text=asked.replace("<<.Series>>", series))


def _adapter(text: object) -> Iterator[Mapping[str, Any]]:
    if not isinstance(text, str) or "seriesQuery" not in text:
        return
    try:
        config = mapping(yaml.safe_load(text))
    except yaml.YAMLError:
        return
    for key in ("rules", "externalRules"):
        yield from map(mapping, sequence(config.get(key)))


def _query(resource: Resource, field: str, text: object) -> Iterator[Query]:
    if isinstance(text, str):
        yield Query(resource=resource, field=field, text=text)


def _expressions(value: object, path: str) -> Iterator[tuple[str, str]]:
    pairs: Mapping[Any, Any] = value if isinstance(value, dict) else {}
    for key, each in pairs.items():
        if key == "expr" and isinstance(each, str) and each:
            yield f"{path}.{key}".lstrip("."), each
        else:
            yield from _expressions(each, f"{path}.{key}")
    for index, each in enumerate(sequence(value)):
        yield from _expressions(each, f"{path}[{index}]")


def _selector(node: Any) -> Selector:
    matchers = tuple(Matcher(label=each.name, sign=_sign(each.op), value=each.value) for each in node.matchers.matchers)
    name = node.name or next((each.value for each in matchers if each.label == "__name__" and each.sign == "="), "")
    return Selector(name=name, matchers=matchers)


def _sign(operation: Any) -> str:
    # They can be compared, and not hashed.
    signs = (
        (promql_parser.MatchOp.Equal, "="),
        (promql_parser.MatchOp.NotEqual, "!="),
        (promql_parser.MatchOp.Re, "=~"),
        (promql_parser.MatchOp.NotRe, "!~"),
    )
    return next(sign for each, sign in signs if each == operation)
