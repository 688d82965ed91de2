"""Alerts on what a model's pods tell of themselves: Triton's `/metrics`, with the engine's figures in it."""

import math
from dataclasses import dataclass
from typing import Final

from deploykit.deploy.config import DeployConfig
from deploykit.deploy.facts import ModelFacts
from deploykit.deploy.names import kubernetes_name, namespace_of
from deploykit.deploy.prometheus import Alert, Group, series_of
from deploykit.deploy.sizing import Sizing

MINUTE: Final = 60
FIRST_TOKEN: Final = 5.0
"""Seconds to the first token, of the 95th percentile, that alert: a bound of the histogram, so exact."""
ERRORS: Final = 0.05
"""Share of the answers that ended with an error."""
LEAST_ERRORS: Final = 3
"""Errors in the same time: fewer don't alert, whatever their share."""
TIMEOUTS: Final = 0.05
"""Share of the answers whose caller's `timeout` ran out while they waited."""
CACHE: Final = 0.9
"""Share of the cache in use on average."""
PREEMPTIONS: Final = 1.0
"""Preemptions a minute."""
QUEUE: Final = 0.9
"""Share of the places to wait in."""

POD: Final = "{{ $labels.pod }}"
VALUE: Final = "{{ $value | humanize }}"
PERCENT: Final = "{{ $value | humanizePercentage }}"
SECONDS: Final = "{{ $value | humanizeDuration }}"


@dataclass(frozen=True, kw_only=True)
class Watched:
    """What alerts must know of a model's pods."""

    name: str
    """The name of its objects."""
    namespace: str
    series: str
    """Matchers of everything that its pods tell."""
    rows: int
    queue: int
    """Requests of a pod that may wait."""
    load: int
    """Seconds in which a pod is ready if all goes well, three times what was measured."""
    startup: int
    """Seconds until a pod that isn't ready is given up."""

    @property
    def labels(self) -> dict[str, str]:
        """What all alerts have, those too whose condition is that nothing is there."""
        return {"namespace": self.namespace, "model": self.name}

    @property
    def pods(self) -> str:
        """The command that shows its pods."""
        return f"kubectl -n {self.namespace} get pods -l app.kubernetes.io/instance={self.name} -o wide"

    def log(self, pod: str = POD) -> str:
        """Return the command that shows a pod's log."""
        return f"kubectl -n {self.namespace} logs {pod} -c triton"


def watched(facts: ModelFacts, sizing: Sizing, config: DeployConfig) -> Watched:
    """Return what alerts must know."""
    return Watched(
        name=kubernetes_name(facts.name),
        namespace=namespace_of(facts, config),
        series=series_of(facts, config),
        rows=facts.rows,
        queue=config.engine.max_queue,
        load=math.ceil(3 * facts.load_seconds),
        startup=sizing.startup_seconds,
    )


def group(model: Watched) -> Group:
    """Return the alerts, those that wake somebody first."""
    makers = (_down, _stalled, _errors, _queue_full, _restart_loop, _pod_down, _restarted)
    slower = (_queue_long, _uneven, _cache_full, _first_token, _timeouts, _silent)
    alerts = [make(model) for make in (*makers, *slower)]
    return Group(name=f"{model.name}.deploykit", alerts=alerts, labels=model.labels)


def _down(model: Watched) -> Alert:
    return Alert(
        name="DeploykitDown",
        expr=f"absent(up{{{model.series}}} == 1)",
        seconds=max(2 * MINUTE, model.load),
        severity="critical",
        summary=f"No pod of {model.name} answers",
        description="No pod tells Prometheus anything, so that most likely no request is answered either.",
        runbook=f"{model.pods} - are there pods, and are they ready? Pending: kubectl describe tells which resource or "
        "node is missing. CrashLoopBackOff: the log of `--previous` ends with the reason. All ready: the PodMonitor's "
        "labels, or the NetworkPolicy's namespace of Prometheus, don't fit.",
    )


def _pod_down(model: Watched) -> Alert:
    return Alert(
        name="DeploykitPodDown",
        expr=f"up{{{model.series}}} == 0",
        seconds=max(5 * MINUTE, model.startup),
        severity="warning",
        summary=f"Pod {POD} doesn't answer",
        description="It is still there but hasn't told Prometheus anything for longer than a start may take. The "
        "others have its share of the load.",
        runbook=f"{model.log()} - is it still loading, or restarted again and again? kubectl -n {model.namespace} "
        f"describe pod {POD} shows failed probes and the last state. Deleting the pod brings a fresh one.",
    )


def _stalled(model: Watched) -> Alert:
    running = f"sum by (namespace, pod) (num_requests_running{{{model.series}}}) > 0"
    tokens = f"sum by (namespace, pod) (increase(generation_tokens_total{{{model.series}}}[5m])) > 0"
    return Alert(
        name="DeploykitStalled",
        expr=f"{running} unless {tokens}",
        seconds=5 * MINUTE,
        severity="critical",
        summary=f"Pod {POD} has requests and generates nothing",
        description=f"{VALUE} requests have a row, and not one token has come in five minutes. Their callers wait.",
        runbook=f"{model.log()} - errors? The heartbeat should have had it restarted: kubectl -n {model.namespace} "
        f"describe pod {POD} shows whether liveness fails. A node without free processor time looks the same: kubectl "
        f"top pod. Deleting the pod ends its requests with an error and brings a fresh one.",
    )


def _errors(model: Watched) -> Alert:
    def ended(matchers: str) -> str:
        return f"sum by (namespace) (increase(request_success_total{{{matchers}}}[5m]))"

    failed = ended(f'{model.series},finished_reason="error"')
    return Alert(
        name="DeploykitErrors",
        expr=f"{failed} / {ended(model.series)} > {ERRORS} and {failed} >= {LEAST_ERRORS}",
        seconds=5 * MINUTE,
        severity="critical",
        summary=f"{PERCENT} of {model.name}'s answers end with an error",
        description=f"The engine failed while it ran them; requests that are refused don't count. More than "
        f"{ERRORS:.0%} for five minutes.",
        runbook=f"kubectl -n {model.namespace} logs -l app.kubernetes.io/instance={model.name} -c triton --tail=200 - "
        "each failure is a line that names its kind. After a rollout: kubectl rollout undo. On one node: drain it.",
    )


def _queue_full(model: Watched) -> Alert:
    return Alert(
        name="DeploykitQueueFull",
        expr=f"sum by (namespace, pod) (num_requests_waiting{{{model.series}}}) > {QUEUE * model.queue:g}",
        seconds=MINUTE,
        severity="critical",
        summary=f"{VALUE} requests wait at pod {POD}",
        description=f"At {model.queue} it refuses every further request as UNAVAILABLE.",
        runbook="More pods: raise the scaler's maximum, or replicas. If other pods are idle, see DeploykitLoadUneven. "
        "Who sends so many? The engine shares rows evenly among clients (`client`), so one of them can't starve the "
        "others, but it can fill the queue.",
    )


def _restart_loop(model: Watched) -> Alert:
    return Alert(
        name="DeploykitRestartLoop",
        expr=f"{_restarts(model, '30m')} > 2",
        seconds=0,
        severity="critical",
        summary=f"Triton of pod {POD} has died {VALUE} times in half an hour",
        description="Each time, all of its open requests ended with an error.",
        runbook=f"{model.log()} - each death is a line that says what died and of which signal. Signal 9 is lack of "
        "memory: see the arithmetic in the README beside the manifests. After five in a row the container ends.",
    )


def _restarted(model: Watched) -> Alert:
    return Alert(
        name="DeploykitRestarted",
        expr=f"{_restarts(model, '15m')} > 0",
        seconds=0,
        severity="warning",
        summary=f"Triton of pod {POD} has died and was started again",
        description="Its counters began at nothing again. Requests that were open ended with an error.",
        runbook=f"{model.log()} - a line on stderr says what died, of which signal, and how long it took; with "
        "`--previous` if the container itself was restarted.",
    )


def _restarts(model: Watched, window: str) -> str:
    """Return how often a pod's counters began again: neither a reload nor a new pod makes them do so."""
    return f"max by (namespace, pod) (resets(prompt_tokens_total{{{model.series}}}[{window}]))"


def _queue_long(model: Watched) -> Alert:
    waiting = f"sum by (namespace) (num_requests_waiting{{{model.series}}})"
    return Alert(
        name="DeploykitQueueLong",
        expr=f"{waiting} > {model.rows} * count by (namespace) (up{{{model.series}}} == 1)",
        seconds=5 * MINUTE,
        severity="warning",
        summary=f"{VALUE} requests wait for {model.name}",
        description=f"More wait than can run at once ({model.rows} rows a pod), for five minutes.",
        runbook="More pods, or fewer tokens a request. Where something scales: kubectl describe hpa shows "
        "whether it is at its maximum, and whether it gets its figure.",
    )


def _uneven(model: Watched) -> Alert:
    waiting, running = (
        f"sum by (namespace, pod) ({gauge}{{{model.series}}})"
        for gauge in ("num_requests_waiting", "num_requests_running")
    )
    return Alert(
        name="DeploykitLoadUneven",
        expr=f"max by (namespace) ({waiting}) > {model.rows} "
        f"and min by (namespace) ({waiting} + {running}) < {model.rows / 2:g}",
        seconds=10 * MINUTE,
        severity="warning",
        summary=f"{VALUE} requests wait at one pod of {model.name} while another has rows to spare",
        description="A gRPC client keeps one connection, and a Service keeps a connection at one pod.",
        runbook=f"Let gRPC clients ask dns:///{model.name}-headless.{model.namespace}.svc:8001 with round_robin, or go "
        f"through a proxy that balances requests. {model.pods} - a pod that isn't ready gets nothing, either.",
    )


def _cache_full(model: Watched) -> Alert:
    used = f"max by (namespace, pod) (avg_over_time(kv_cache_usage_perc{{{model.series}}}[5m]))"
    preempted = f"sum by (namespace, pod) (rate(num_preemptions_total{{{model.series}}}[5m])) * 60"
    return Alert(
        name="DeploykitCacheFull",
        expr=f"{used} > {CACHE} and {preempted} > {PREEMPTIONS:g}",
        seconds=5 * MINUTE,
        severity="warning",
        summary=f"The cache of pod {POD} is {PERCENT} full, and answers are set aside",
        description=f"Keys and values fill their memory: more than {PREEMPTIONS:g} answer a minute is set aside and "
        "goes on later. None is lost, all get slower.",
        runbook="A larger --cache-memory (and memory limit: deploy again with it, so that the arithmetic fits), fewer "
        "--max-rows, or more pods.",
    )


def _first_token(model: Watched) -> Alert:
    rate = f"sum by (namespace, le) (rate(time_to_first_token_seconds_bucket{{{model.series}}}[5m]))"
    return Alert(
        name="DeploykitFirstTokenSlow",
        expr=f"histogram_quantile(0.95, {rate}) > {FIRST_TOKEN:g}",
        seconds=10 * MINUTE,
        severity="warning",
        summary=f"One in twenty callers of {model.name} waits {SECONDS} or longer for the first token",
        description=f"The 95th percentile has been above {FIRST_TOKEN:g} s for ten minutes.",
        runbook="The dashboard tells which part it is. Queue: more pods. Prefill: longer prompts than before, or less "
        "processor time than requested (kubectl top pod). Every part: other load on the node.",
    )


def _timeouts(model: Watched) -> Alert:
    def ended(matchers: str) -> str:
        return f"sum by (namespace) (increase(request_success_total{{{matchers}}}[5m]))"

    late = ended(f'{model.series},finished_reason="timeout"')
    return Alert(
        name="DeploykitTimeouts",
        expr=f"{late} / {ended(model.series)} > {TIMEOUTS}",
        seconds=10 * MINUTE,
        severity="warning",
        summary=f"{PERCENT} of {model.name}'s requests wait longer than their callers allow",
        description="Their `timeout` ran out before they began; nothing of them has run.",
        runbook="As for DeploykitQueueLong: more pods, or callers with more patience.",
    )


def _silent(model: Watched) -> Alert:
    return Alert(
        name="DeploykitFiguresMissing",
        expr=f"up{{{model.series}}} == 1 unless on (namespace, pod) num_requests_running{{{model.series}}}",
        seconds=5 * MINUTE,
        severity="warning",
        summary=f"Pod {POD} tells nothing of its engine",
        description="Triton answers, but its figures of the engine are missing: the other alerts are blind for this "
        "pod.",
        runbook=f"{model.log()} - is the model loaded? Is it served by deploykit's backend, and is Triton started with "
        "metrics?",
    )
