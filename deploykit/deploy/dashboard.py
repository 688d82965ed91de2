"""The dashboard of a model, or of all models of a Prometheus."""

import json
from typing import Final

from deploykit.deploy.config import DeployConfig
from deploykit.deploy.facts import ModelFacts
from deploykit.deploy.grafana import Dashboard, Panel, Query, Row, Variable
from deploykit.deploy.names import kubernetes_name, namespace_of

_PODS: Final = 'namespace=~"$namespace",pod=~"$pod"'
"""Matchers of what the cluster tells of pods."""
_ENGINE: Final = f'{_PODS},model=~"$model"'
"""Matchers of what engines tell."""
_WINDOW: Final = "[$__rate_interval]"
_SERVER: Final = 'container="triton"'


def dashboard(facts: ModelFacts | None = None, config: DeployConfig | None = None) -> Dashboard:
    """Return the dashboard, with one model chosen at first, or all of them."""
    name = kubernetes_name(facts.name) if facts else None
    return Dashboard(
        # A uid has 40 characters at most; a name has up to 50.
        uid=f"deploykit-{name}"[:40].rstrip("-") if name else "deploykit-models",
        title=f"deploykit: {facts.name}" if facts else "deploykit: models",
        description="What the engines behind Triton do, by model and pod",
        variables=_variables(
            namespace=namespace_of(facts, config or DeployConfig()) if facts else None,
            model=facts.name if facts else None,
        ),
        rows=[_state(), _work(), _latency(), _stages(), _limits(), _processes()],
    )


def text(board: Dashboard) -> str:
    """Return a dashboard as a file's text."""
    return json.dumps(board.to_dict(), indent=2, ensure_ascii=False) + "\n"


def _variables(*, namespace: str | None, model: str | None) -> list[Variable]:
    """Return what is chosen, each narrowed by what stands before it."""
    series = "num_requests_running"
    within = '{namespace=~"$namespace"}'
    both = '{namespace=~"$namespace",model=~"$model"}'
    return [
        Variable(
            name="namespace", title="Namespace", query=f"label_values({series}, namespace)", chosen=namespace
        ),
        Variable(name="model", title="Model", query=f"label_values({series}{within}, model)", chosen=model),
        Variable(name="pod", title="Pod", query=f"label_values({series}{both}, pod)"),
    ]  # fmt: skip


def _stat(title: str, expr: str, unit: str = "short", *, warn: float | None = None, description: str = "") -> Panel:
    return Panel(
        title=title, queries=[Query(expr=expr)], unit=unit, kind="stat", width=4, height=4, warn=warn,
        description=description,
    )  # fmt: skip


def _rate(counter: str, further: str = "", *, by: str = "") -> str:
    grouping = f" by ({by})" if by else ""
    return f"sum{grouping} (rate({counter}{{{_ENGINE}{further}}}{_WINDOW}))"


def _quantile(histogram: str, share: float) -> str:
    return f"histogram_quantile({share:g}, {_rate(f'{histogram}_bucket', by='le')})"


def _quantiles(title: str, histogram: str, description: str) -> Panel:
    shares = {"p50": 0.5, "p95": 0.95, "p99": 0.99}
    queries = [Query(expr=_quantile(histogram, share), legend=name) for name, share in shares.items()]
    return Panel(title=title, queries=queries, unit="s", description=description)


def _state() -> Row:
    errors = _rate("request_success_total", ',finished_reason="error"')
    running, waiting = (f"sum({gauge}{{{_ENGINE}}})" for gauge in ("num_requests_running", "num_requests_waiting"))
    return Row(
        title="Now",
        panels=[
            _stat("Pods that answer", f"count(count by (namespace, pod) (num_requests_running{{{_ENGINE}}}))"),
            _stat("Tokens a second", _rate("generation_tokens_total")),
            _stat("Requests running", running),
            _stat("Requests waiting", waiting),
            _stat("First token, p95", _quantile("time_to_first_token_seconds", 0.95), "s", warn=5),
            _stat("Errors", f"{errors} / {_rate('request_success_total')}", "percentunit", warn=0.05),
        ],
    )


def _work() -> Row:
    gauges = [
        Query(expr=f"sum({gauge}{{{_ENGINE}}})", legend=legend)
        for gauge, legend in (("num_requests_running", "running"), ("num_requests_waiting", "waiting"))
    ]
    tokens = [
        Query(expr=_rate("generation_tokens_total"), legend="generated"),
        Query(expr=_rate("prompt_tokens_total"), legend="prompt"),
    ]
    ended = [Query(expr=_rate("request_success_total", by="finished_reason"), legend="{{finished_reason}}")]
    return Row(
        title="Work",
        panels=[
            Panel(title="Tokens a second", queries=tokens),
            Panel(title="Requests", queries=gauges, description="With a row, and in the queue"),
            Panel(title="Answers that ended", queries=ended, unit="reqps", stacked=True, description="By how"),
        ],
    )


def _latency() -> Row:
    return Row(
        title="Latency",
        panels=[
            _quantiles("Time to first token", "time_to_first_token_seconds", "From the request"),
            _quantiles("Time per output token", "time_per_output_token_seconds", "From a token to the next"),
            _quantiles("Whole request", "e2e_request_latency_seconds", "From the request to its last token"),
        ],
    )


def _stages() -> Row:
    return Row(
        title="Where the time goes",
        panels=[
            _quantiles("Queue", "request_queue_time_seconds", "From the request to the first piece of its prompt"),
            _quantiles("Prefill", "request_prefill_time_seconds", "From there to the first token"),
            _quantiles("Decode", "request_decode_time_seconds", "From the first token to the end"),
        ],
    )


def _limits() -> Row:
    cache = [Query(expr=f"max by (pod) (kv_cache_usage_perc{{{_ENGINE}}})", legend="{{pod}}")]
    preempted = [Query(expr=_rate("num_preemptions_total", by="pod"), legend="{{pod}}")]
    load = [
        Query(
            expr=f"sum by (pod) (num_requests_running{{{_ENGINE}}}) + sum by (pod) (num_requests_waiting{{{_ENGINE}}})",
            legend="{{pod}}",
        )
    ]
    return Row(
        title="Pods and their limits",
        panels=[
            Panel(
                title="Cache in use", queries=cache, unit="percentunit", highest=1, description="Of keys and values"
            ),
            Panel(
                title="Preemptions", queries=preempted, unit="ops",
                description="Answers set aside a second because the cache was full",
            ),
            Panel(title="Requests by pod", queries=load, description="Running and waiting"),
        ],
    )  # fmt: skip


def _processes() -> Row:
    restarts = f"max by (pod) (resets(prompt_tokens_total{{{_ENGINE}}}[1h]))"
    processor = f"sum by (pod) (rate(container_cpu_usage_seconds_total{{{_PODS},{_SERVER}}}{_WINDOW}))"
    memory = f"max by (pod) (container_memory_working_set_bytes{{{_PODS},{_SERVER}}})"
    limit = f'max(kube_pod_container_resource_limits{{{_PODS},{_SERVER},resource="memory"}})'
    return Row(
        title="Processes",
        panels=[
            Panel(
                title="Up", width=6, highest=1, queries=[Query(expr=f"max by (pod) (up{{{_PODS}}})", legend="{{pod}}")],
                description="1 where Triton's metrics answer",
            ),
            Panel(
                title="Restarts of Triton", width=6, queries=[Query(expr=restarts, legend="{{pod}}")],
                description="In the hour before: counters that began at nothing again",
            ),
            Panel(
                title="Cores in use", width=6, queries=[Query(expr=processor, legend="{{pod}}")],
                description="Needs cAdvisor (kubelet)",
            ),
            Panel(
                title="Memory", width=6, unit="bytes",
                queries=[Query(expr=memory, legend="{{pod}}"), Query(expr=limit, legend="limit")],
                description="Needs cAdvisor (kubelet); the limit needs kube-state-metrics",
            ),
        ],
    )  # fmt: skip
