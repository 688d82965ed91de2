"""Rules on PromQL, wherever it stands: whether Prometheus reads it, and whether it finds anything."""

import difflib
from collections.abc import Iterator
from typing import Any, Final

from deploykit.deploy.check.finding import Finding
from deploykit.deploy.check.manifests import Manifests, Resource, mapping, sequence
from deploykit.deploy.check.promql import FAMILIES, SERIES, TRITON, Query, Selector, adapter_rules, queries, recorded
from deploykit.deploy.check.workloads import servers
from deploykit.deploy.facts import ModelFacts

_NAMED_BY: Final = ("model", "model_name")
"""Labels with the model's name: the engine's and Triton's, and the gateway's."""

_NAMED_AFTER: Final = ("job", "pod", "deployment", "statefulset", "service", "horizontalpodautoscaler")
"""Labels with the name of a workload, or one that begins with it."""


def query_unreadable(manifests: Manifests, _facts: ModelFacts | None) -> Iterator[Finding]:
    """PromQL that can't be read: the rules aren't loaded, and nothing is scaled."""
    for query in queries(manifests):
        try:
            query.parsed()
        except ValueError as error:
            # Prometheus has had new functions since the release that the parser knows.
            new = "unknown function" in str(error)
            why = f"Prometheus can't read it: {' '.join(str(error).split())[:160]}"
            yield query.resource.find(
                "query-unreadable",
                query.field,
                query.text,
                why,
                "correct the expression",
                level="warning" if new else "error",
            )


def query_empty(manifests: Manifests, _facts: ModelFacts | None) -> Iterator[Finding]:
    """A rule or a trigger with an empty query."""
    for query in queries(manifests):
        if not query.text.strip():
            yield query.resource.find("query-empty", query.field, "", "there is nothing to ask", "write PromQL")


def metric_misspelled(manifests: Manifests, _facts: ModelFacts | None) -> Iterator[Finding]:
    """A series that is almost one of the engine's or Triton's, and isn't: the query finds nothing."""
    own, serving = recorded(manifests), any(any(servers(pods)) for pods in manifests.pods())
    for query, selector in _selected(manifests):
        name = selector.name
        if name in SERIES or name in TRITON or name in own or not name:
            continue
        if name in FAMILIES:
            why, remedy = "no series is called so", f"write {FAMILIES[name]}"
        elif serving and name.startswith("vllm:") and name.removeprefix("vllm:") in SERIES:
            why, remedy = "deploykit names its series without that prefix", f"write {name.removeprefix('vllm:')}"
        elif near := difflib.get_close_matches(name, sorted(SERIES | TRITON), n=1, cutoff=0.9):
            why, remedy = "neither deploykit nor Triton has a series of that name", f"write {near[0]}"
        else:
            continue
        sure = serving and (name in FAMILIES or not name.startswith("vllm:"))
        yield query.resource.find(
            "metric-misspelled", query.field, name, f"{why}: the query finds nothing", remedy,
            level="error" if sure else "warning",
        )  # fmt: skip


def query_of_other_model(manifests: Manifests, facts: ModelFacts | None) -> Iterator[Finding]:
    """A query for the series of another model than the one that is served: it finds nothing."""
    for query, selector in _selected(manifests) if facts else ():
        assert facts is not None
        if selector.name not in SERIES and selector.name not in TRITON:
            continue
        for matcher in selector.matchers:
            if matcher.label in _NAMED_BY and "$" not in matcher.value and not matcher.takes(facts.name):
                if matcher.sign in ("!=", "!~"):
                    continue
                yield query.resource.find(
                    "query-of-other-model", query.field, f'{matcher.label}{matcher.sign}"{matcher.value}"',
                    f"the model that is served is called {facts.name}: the query finds nothing",
                    f'write {matcher.label}="{facts.name}"',
                )  # fmt: skip


def query_of_other_namespace(manifests: Manifests, _facts: ModelFacts | None) -> Iterator[Finding]:
    """A query for the pods of another namespace than the one that they run in: it finds nothing."""
    serving = [pods.resource for pods in manifests.pods() if any(servers(pods))]
    there = {resource.namespace for resource in serving}
    if not serving or not all(resource.says_namespace for resource in serving):
        return
    for query, selector in _selected(manifests):
        if not _is_about(selector, {resource.name for resource in serving}):
            continue
        for matcher in selector.matchers:
            if matcher.label == "namespace" and "$" not in matcher.value and not any(map(matcher.takes, there)):
                yield query.resource.find(
                    "query-of-other-namespace", query.field, f'namespace{matcher.sign}"{matcher.value}"',
                    f"{serving[0].title} runs in metadata.namespace = {serving[0].namespace}: the query finds nothing, "
                    "so that nothing is scaled by it and alerts are blind",
                    f'write namespace="{serving[0].namespace}", or write the manifests again: deploykit deploy '
                    f"--namespace {serving[0].namespace}",
                )  # fmt: skip


def scaling_metric_of_other_model(manifests: Manifests, facts: ModelFacts | None) -> Iterator[Finding]:
    """A HorizontalPodAutoscaler that asks for a metric of another model."""
    for scaler, path, metric in _metrics(manifests) if facts else ():
        assert facts is not None
        labels = mapping(mapping(mapping(metric.get("selector"))).get("matchLabels"))
        for label in _NAMED_BY:
            if isinstance(labels.get(label), str) and labels[label] != facts.name:
                why = f"the model that is served is called {facts.name}: nothing is scaled"
                field = f"{path}.selector.matchLabels.{label}"
                yield scaler.find("scaling-metric-of-other-model", field, labels[label], why, f"write {facts.name}")


def metric_without_adapter(manifests: Manifests, _facts: ModelFacts | None) -> Iterator[Finding]:
    """A metric to scale by that no rule of the prometheus-adapter in the set makes."""
    rules = list(adapter_rules(manifests))
    names = {_called(rule) for rule in rules}
    for scaler, path, metric in _metrics(manifests) if rules and None not in names else ():
        name = metric.get("name")
        if name not in names:
            yield scaler.find(
                "metric-without-adapter", f"{path}.name", name,
                f"the adapter's rules make {', '.join(sorted(filter(None, names)))}: nothing is "
                "scaled", "name one of them",
                level="warning",
            )  # fmt: skip


def quantile_without_le(manifests: Manifests, _facts: ModelFacts | None) -> Iterator[Finding]:
    """A quantile of buckets whose label `le` was summed away: it finds nothing."""
    for query in queries(manifests):
        for node in query.nodes():
            if type(node).__name__ != "Call" or node.func.name != "histogram_quantile" or len(node.args) != 2:
                continue
            inner = node.args[1]
            modifier = getattr(inner, "modifier", None)
            if type(inner).__name__ != "AggregateExpr" or "_bucket" not in query.text:
                continue
            labels = list(modifier.labels) if modifier is not None else []
            by = modifier is None or "By" in str(modifier.type)
            if (by and "le" not in labels) or (not by and "le" in labels):
                why = "histogram_quantile tells buckets apart by le, which is summed away: it finds nothing"
                yield query.resource.find("quantile-without-le", query.field, query.text, why, "write sum by (le) (…)")


def _selected(manifests: Manifests) -> Iterator[tuple[Query, Selector]]:
    for query in queries(manifests):
        for selector in query.selectors():
            yield query, selector


def _is_about(selector: Selector, workloads: set[str]) -> bool:
    """Return whether a selector asks for what model servers give, or for something that is called as one of them is."""
    if selector.name in SERIES or selector.name in TRITON:
        return True
    named = [each.value for each in selector.matchers if each.label in _NAMED_AFTER and each.sign in ("=", "=~")]
    return any(value == name or value.startswith(f"{name}-") for value in named for name in workloads)


def _metrics(manifests: Manifests) -> Iterator[tuple[Resource, str, Any]]:
    """Yield the metrics by name that autoscalers ask adapters for."""
    for scaler in manifests.of_kind("HorizontalPodAutoscaler"):
        for index, each in enumerate(map(mapping, sequence(scaler.spec.get("metrics")))):
            for kind in ("pods", "object", "external"):
                metric = mapping(mapping(each.get(kind)).get("metric"))
                if metric:
                    yield scaler, f"spec.metrics[{index}].{kind}.metric", metric


def _called(rule: Any) -> str | None:
    """Return the metric that a rule of the adapter makes; None where it takes a pattern to tell."""
    name = mapping(rule.get("name"))
    if name.get("as") and "$" not in str(name["as"]):
        return str(name["as"])
    series = str(rule.get("seriesQuery") or "").partition("{")[0]
    return series if series and not name else None


RULES: Final = (
    query_unreadable, query_empty, metric_misspelled, query_of_other_model, query_of_other_namespace,
    scaling_metric_of_other_model, metric_without_adapter, quantile_without_le,
)  # fmt: skip
