"""Places, single values and scrapes: each rule with a mistake that it finds, and repairs that it leaves alone."""

from typing import Any

import pytest
from manifest_examples import GONE, Case, alerts, correct, keda, monitor, scaled

from deploykit.deploy.check.rules import places, scraping, values
from deploykit.pull import store

POD = "Deployment.spec.template.spec"
VOLUMES: dict[str, object] = {
    "pod.volumes[3]": {"name": "models", "persistentVolumeClaim": {"claimName": "models"}},
    "triton.volumeMounts[2]": {"name": "models", "mountPath": "/models"},
}
GATEWAY_TOO = {**VOLUMES, "gateway.volumeMounts[1]": {"name": "models", "mountPath": "/models"}}
KEYS = ["gateway", "/models", "--host=0.0.0.0", "--api-keys=/etc/keys/keys"]
SECRET = {"secretName": "writer-api-keys", "items": [{"key": "keys", "path": "keys"}]}
KEYS_MOUNTED: dict[str, object] = {
    "gateway.args": KEYS,
    "pod.volumes[3]": {"name": "keys", "secret": SECRET},
    "gateway.volumeMounts[1]": {"name": "keys", "mountPath": "/etc/keys"},
}
PULL: dict[str, Any] = {
    "name": "fetch", "image": "deploykit-writer:1", "command": ["deploykit"],
    "args": ["pull", "s3://models/writer", "-o", "/tmp/models"],
}  # fmt: skip
EGRESS = "NetworkPolicy.spec.egress"
CLOSED: dict[str, object] = {
    "pod.initContainers": [PULL], "NetworkPolicy.spec.policyTypes": ["Ingress", "Egress"],
    EGRESS: [{"ports": [{"port": 53, "protocol": "UDP"}]}],
}  # fmt: skip
RUNNING = 'num_requests_running{namespace="writer",job="writer/writer"}'
COUNTED = 'rate(generation_tokens_total{namespace="writer",job="writer/writer"}[5m])'
EXPR = "PrometheusRule.spec.groups[0].rules[0].expr"
ENDPOINT = "PodMonitor.spec.podMetricsEndpoints[0]"
TRIGGER = "ScaledObject.spec.triggers[0]"


def credentials(folder: str) -> dict[str, Any]:
    fetch = {**PULL, "args": [*PULL["args"], f"--credentials={folder}"]}
    mount = {"name": "store", "mountPath": "/etc/store", "readOnly": True}
    return {
        "pod.volumes[3]": {"name": "store", "secret": {"secretName": "writer-api-keys"}},
        "pod.initContainers": [{**fetch, "volumeMounts": [*fetch.get("volumeMounts", ()), mount]}],
    }


def watched(expr: str = f"{RUNNING} > 0") -> list[dict[str, Any]]:
    return [*correct(), monitor(), alerts(expr=expr)]


CASES = (
    Case(rule=places.models_not_mounted, bad={**VOLUMES}, field="containers[1].args", good=[GATEWAY_TOO]),
    Case(
        rule=places.models_not_mounted, level="warning", field="containers[0].args",
        bad={**VOLUMES, "triton.volumeMounts[2].mountPath": "/mnt"},
    ),
    Case(
        rule=places.keys_not_mounted, field="args[3]", good=[KEYS_MOUNTED],
        bad={**KEYS_MOUNTED, "gateway.args": [*KEYS[:3], "--api-keys=/etc/other/keys"]},
    ),
    Case(
        rule=places.keys_not_mounted, field="args[3]",
        bad={**KEYS_MOUNTED, "pod.volumes[3].secret.items[0].path": "api-keys"},
    ),
    Case(
        rule=places.credentials_not_mounted, field="initContainers[0].args[4]",
        bad={"pod.initContainers": [{**PULL, "args": [*PULL["args"], "--credentials=/etc/store"]}]}, level="warning",
    ),
    Case(
        rule=places.credentials_not_mounted, field="initContainers[0].args[4]", good=[credentials("/etc/store")],
        bad=credentials("/etc/stores"),
    ),
    Case(
        rule=places.pull_without_store, bad={"pod.initContainers": [{**PULL, "args": ["pull", "s3:/a", "-o", "/b"]}]},
        field="initContainers[0].args", good=[{"pod.initContainers": [PULL]}],
    ),
    Case(
        rule=places.policy_shuts_store, bad=CLOSED, field="spec.egress",
        good=[{**CLOSED, f"{EGRESS}[1]": {"ports": [{"port": 443}]}}],
    ),
    Case(
        rule=places.policy_shuts_store, bad={**CLOSED, f"{EGRESS}[1]": {"ports": [{"port": 9000}]}}, level="warning",
        field="spec.egress",
    ),
    Case(
        rule=values.file_mode, bad={**KEYS_MOUNTED, "pod.volumes[3].secret.defaultMode": 644},
        good=[{**KEYS_MOUNTED, "pod.volumes[3].secret.defaultMode": 0o644}],
    ),
    Case(
        rule=values.variable_of_unknown_field, field="fieldRef.fieldPath",
        bad={"triton.env[1]": {"name": "IP", "valueFrom": {"fieldRef": {"fieldPath": "status.ip"}}}},
        good=[
            {"triton.env[1]": {"name": "IP", "valueFrom": {"fieldRef": {"fieldPath": each}}}}
            for each in ("status.podIP", "metadata.labels['app']", "spec.nodeName")
        ],
    ),
    Case(
        rule=values.cluster_ip, bad={"Service.spec.clusterIP": "none"},
        good=[{"Service.spec.clusterIP": each} for each in ("None", "10.0.0.7", "fd00::7")],
    ),
    Case(
        rule=values.image_volume, bad={"pod.volumes[3]": {"name": "models", "image": {}}}, field="image.reference",
        good=[{"pod.volumes[3]": {"name": "models", "image": {"reference": "example.com/models:1"}}}],
    ),
    Case(
        rule=values.image_volume, field="image.reference",
        bad={"pod.volumes[3]": {"name": "models", "image": {"reference": "example.com/models@sha256:12"}}},
    ),
    Case(
        rule=values.pause_unreadable, bad={"triton.lifecycle.preStop.exec.command[1]": "15sec"},
        good=[{"triton.lifecycle.preStop.exec.command[1]": each} for each in ("15s", "0.5", "1m", "infinity")],
    ),
    Case(
        rule=values.rule_labels, bad={"PrometheusRule.spec.groups[0].rules[0].labels": {"severity": 1}},
        field="labels.severity", objects=watched(),
    ),
    Case(
        rule=values.rule_labels, bad={"PrometheusRule.spec.groups[0].rules[0].annotations": {"summary": "{{ $value }"}},
        field="annotations.summary", objects=watched(),
        good=[{"PrometheusRule.spec.groups[0].rules[0].annotations": {"summary": "{{ $value }} of {{ $labels.pod }}"}}],
    ),
    Case(rule=values.flag_twice, bad={"triton.args[10]": "--threads=8"}, level="warning"),
    Case(
        rule=values.app_protocol, bad={"Service.spec.ports[1].appProtocol": "http"}, level="warning",
        good=[{"Service.spec.ports[1].appProtocol": "kubernetes.io/h2c"}],
    ),
    Case(
        rule=values.app_protocol, bad={"Service.spec.ports[3].appProtocol": "kubernetes.io/h2c"}, level="warning",
        good=[{"Service.spec.ports[3].appProtocol": "http"}],
    ),
    Case(
        rule=scraping.query_of_other_target, objects=watched(),
        bad={EXPR: 'num_requests_running{job="writer"} > 0'},
        good=[
            {EXPR: 'num_requests_running{job=~"writer.*"} > 0'}, {EXPR: 'num_requests_running{job!="other"} > 0'},
            {EXPR: 'num_requests_running{job="other"} > 0', f"{ENDPOINT}.relabelings": [{"targetLabel": "job"}]},
        ],
    ),
    Case(
        rule=scraping.query_of_other_target, objects=watched(),
        bad={"PodMonitor.spec.jobLabel": "app.kubernetes.io/name"}, field=EXPR.partition(".")[2],
    ),
    Case(
        rule=scraping.window_too_short, objects=watched(f"{COUNTED} < 1"), bad={EXPR: COUNTED.replace("5m", "10s")},
        good=[{EXPR: COUNTED.replace("5m", "1m")}],
    ),
    Case(
        rule=scraping.window_too_short, objects=watched(f"{COUNTED} < 1"), level="warning",
        bad={EXPR: COUNTED.replace("5m", "45s")},
    ),
    Case(
        rule=scraping.rate_of_gauge, objects=watched(), bad={EXPR: f"increase({RUNNING}[5m]) > 0"},
        good=[{EXPR: f"delta({RUNNING}[5m]) > 0"}],
    ),
    Case(
        rule=scraping.monitor_scheme, objects=watched(), bad={f"{ENDPOINT}.scheme": "https"},
        good=[{f"{ENDPOINT}.scheme": "http"}],
    ),
    Case(rule=scraping.monitor_of_nothing, objects=watched(), bad={"PodMonitor.spec.podMetricsEndpoints": GONE}),
    Case(
        rule=scraping.policy_shuts_monitor, objects=watched(), field="spec.ingress",
        bad={"NetworkPolicy.spec.ingress[1].ports[0].port": 9000},
        good=[{"NetworkPolicy.spec.ingress[1].ports[0].port": 8002}],
    ),
    Case(
        rule=scraping.trigger_unknown, objects=scaled(keda()), bad={f"{TRIGGER}.type": "Prometheus"},
        good=[{f"{TRIGGER}.type": each} for each in ("kafka", "cron", "azure-monitor")],
    ),
    Case(
        rule=scraping.trigger_unknown, objects=scaled(keda()),
        bad={f"{TRIGGER}.metadata.serverAddress": "prometheus:9090"},
    ),
    Case(
        rule=scraping.trigger_of_many, objects=scaled(keda()),
        bad={f"{TRIGGER}.metadata.query": "num_requests_waiting"},
        good=[{f"{TRIGGER}.metadata.query": "sum(num_requests_waiting) / 2"}],
    ),
    Case(rule=scraping.scaled_object_field, objects=scaled(keda()), bad={"ScaledObject.spec.maxReplicas": 8}),
    Case(
        rule=scraping.alert_without_condition, objects=watched(), bad={EXPR: f"sum({RUNNING})"}, level="warning",
        good=[{EXPR: f"absent({RUNNING})"}, {EXPR: f"sum({RUNNING}) unless sum({RUNNING})"}],
    ),
)  # fmt: skip


@pytest.mark.parametrize("case", CASES, ids=str)
def test_slips(case: Case) -> None:
    case.check()


def test_every_rule_of_these_has_a_case() -> None:
    assert {case.rule for case in CASES} == {*places.RULES, *values.RULES, *scraping.RULES}


def test_stores_are_those_that_pull_opens() -> None:
    assert set(places._STORES) == set(store.SCHEMES)
