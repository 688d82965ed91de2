"""Alerts on what the cluster tells of a model's objects: they need kube-state-metrics, and are silent without it."""

from typing import Final

from deploykit.deploy.alerts import MINUTE, Watched
from deploykit.deploy.config import Scaling
from deploykit.deploy.prometheus import Alert, Group

# Kube-state-metrics may run twice, or be read twice: what it tells of an object is then told twice.
_CONTAINER: Final = "max by (namespace, pod, container)"
_DEPLOYMENT: Final = "max by (namespace, deployment)"
_SCALER: Final = "max by (namespace, horizontalpodautoscaler)"

CONTAINER: Final = "{{ $labels.container }} of pod {{ $labels.pod }}"


def group(model: Watched, scaling: Scaling) -> Group:
    """Return the alerts, those on the scaler only where something scales."""
    alerts = [_out_of_memory(model), _crashes(model), _too_few(model), _rollout(model)]
    if scaling != "none":
        scaler = f"keda-hpa-{model.name}" if scaling == "keda" else model.name
        alerts += [_blind(model, scaler), _most(model, scaler)]
    return Group(name=f"{model.name}.kube-state-metrics", alerts=alerts, labels=model.labels)


def _containers(model: Watched, further: str = "") -> str:
    """Return the matchers of the containers of a Deployment's pods, and of no other's whose name begins alike."""
    return f'namespace="{model.namespace}",pod=~"{model.name}-[a-z0-9]+-[a-z0-9]{{5}}"{further}'


def _restarts(model: Watched, window: str) -> str:
    return f"{_CONTAINER} (increase(kube_pod_container_status_restarts_total{{{_containers(model)}}}[{window}]))"


def _out_of_memory(model: Watched) -> Alert:
    reason = _containers(model, ',reason="OOMKilled"')
    killed = f"{_CONTAINER} (kube_pod_container_status_last_terminated_reason{{{reason}}}) == 1"
    return Alert(
        name="DeploykitOutOfMemory",
        expr=f"{_restarts(model, '15m')} > 0 and {killed}",
        seconds=0,
        severity="critical",
        summary=f"Container {CONTAINER} was killed for lack of memory",
        description="It took more than its limit. All of its open requests ended with an error.",
        runbook="The README beside the manifests has the arithmetic of the limit. A larger artifact, cache, context or "
        "number of rows than it was made for? Deploy again from the artifact that runs, with the options that run.",
    )


def _crashes(model: Watched) -> Alert:
    return Alert(
        name="DeploykitContainerCrashes",
        expr=f"{_restarts(model, '30m')} >= 3",
        seconds=0,
        severity="critical",
        summary=f"Container {CONTAINER} is restarted again and again",
        description="Three times or more in half an hour.",
        runbook=f"kubectl -n {model.namespace} logs {{{{ $labels.pod }}}} -c {{{{ $labels.container }}}} --previous "
        "ends with the reason. Exit status 5 is a damaged artifact, 8 a server that didn't come up; 137 is "
        "SIGKILL: lack of memory, or a grace period that was too short.",
    )


def _too_few(model: Watched) -> Alert:
    deployment = f'namespace="{model.namespace}",deployment="{model.name}"'
    return Alert(
        name="DeploykitPodsMissing",
        expr=f"{_DEPLOYMENT} (kube_deployment_status_replicas_available{{{deployment}}}) "
        f"< {_DEPLOYMENT} (kube_deployment_spec_replicas{{{deployment}}})",
        seconds=max(15 * MINUTE, 2 * model.startup),
        severity="warning",
        summary=f"{model.name} has {{{{ $value }}}} pods that are ready, fewer than it should",
        description="For longer than a start may take.",
        runbook=f"{model.pods} - Pending: no node has room for the request. Not ready: kubectl describe pod shows the "
        "probe that fails.",
    )


def _rollout(model: Watched) -> Alert:
    deployment = f'namespace="{model.namespace}",deployment="{model.name}"'
    condition = 'condition="Progressing",status="false"'
    return Alert(
        name="DeploykitRolloutStuck",
        expr=f"{_DEPLOYMENT} (kube_deployment_status_condition{{{deployment},{condition}}}) == 1",
        seconds=MINUTE,
        severity="warning",
        summary=f"A rollout of {model.name} doesn't come to its end",
        description="The new pods don't get ready. The old ones serve on, since none goes before its successor is "
        "ready.",
        runbook=f"kubectl -n {model.namespace} rollout status deployment/{model.name}; {model.pods} - the newest pods' "
        f"log tells why. Back: kubectl -n {model.namespace} rollout undo deployment/{model.name}.",
    )


def _scaler(model: Watched, scaler: str) -> str:
    return f'namespace="{model.namespace}",horizontalpodautoscaler="{scaler}"'


def _blind(model: Watched, scaler: str) -> Alert:
    condition = 'condition="ScalingActive",status="false"'
    return Alert(
        name="DeploykitScalerBlind",
        expr=f"{_SCALER} (kube_horizontalpodautoscaler_status_condition{{{_scaler(model, scaler)},{condition}}}) == 1",
        seconds=5 * MINUTE,
        severity="warning",
        summary=f"What scales {model.name} gets no figure to scale by",
        description="The number of pods stays as it is, whatever the load.",
        runbook=f"kubectl -n {model.namespace} describe hpa {scaler} - its events name the metric that is missing. "
        "prometheus-adapter must have the rule from the README beside the manifests; KEDA must reach Prometheus.",
    )


def _most(model: Watched, scaler: str) -> Alert:
    matchers = _scaler(model, scaler)
    return Alert(
        name="DeploykitScaledToTheMost",
        expr=f"{_SCALER} (kube_horizontalpodautoscaler_status_current_replicas{{{matchers}}}) "
        f">= {_SCALER} (kube_horizontalpodautoscaler_spec_max_replicas{{{matchers}}})",
        seconds=15 * MINUTE,
        severity="warning",
        summary=f"{model.name} has {{{{ $value }}}} pods, as many as it may",
        description="More load makes callers wait.",
        runbook="Is the load real? Then raise the maximum (`deploy --max-replicas`) where the nodes have room for it.",
    )
