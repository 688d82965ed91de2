import pytest
from manifest_examples import GONE, Case, alerts, correct, findings, monitor, named

from deploykit.deploy.check.rules import monitoring

ENDPOINT = "PodMonitor.spec.podMetricsEndpoints[0]"
RULE = "PrometheusRule.spec.groups[0].rules[0]"
SCRAPED, ALERTED = [*correct(), monitor()], [*correct(), alerts()]
SERVICES = correct()
SERVICES[2]["metadata"]["labels"] = {"app": "writer"}
SERVICES.append(
    named("ServiceMonitor", spec={"selector": {"matchLabels": {"app": "writer"}}, "endpoints": [{"port": "metrics"}]})
)

CASES = [
    Case(
        rule=monitoring.monitor_port,
        bad={f"{ENDPOINT}.port": "metric"},
        objects=SCRAPED,
        good=[{f"{ENDPOINT}.port": "metric", "PodMonitor.spec.namespaceSelector": {"matchNames": ["other"]}}],
    ),
    Case(rule=monitoring.monitor_port, bad={"ServiceMonitor.spec.endpoints[0].port": "health"}, objects=SERVICES),
    Case(rule=monitoring.monitor_path, bad={f"{ENDPOINT}.path": "/metric"}, objects=SCRAPED),
    Case(rule=monitoring.monitor_path, bad={f"{ENDPOINT}.port": "health"}, field="path", objects=SCRAPED),
    Case(
        rule=monitoring.monitor_path,
        bad={f"{ENDPOINT}.port": "openai"},
        field="path",
        objects=SCRAPED,
        good=[
            {f"{ENDPOINT}.port": "openai", "gateway.args[5]": "--metrics-access=open"},
            {f"{ENDPOINT}.port": "openai", "gateway.env": []},
            {f"{ENDPOINT}.port": "openai", f"{ENDPOINT}.authorization": {"credentials": {"name": "a", "key": "b"}}},
        ],
    ),
    Case(rule=monitoring.monitor_path, bad={"ServiceMonitor.spec.endpoints[0].port": "grpc"}, objects=SERVICES),
    Case(rule=monitoring.monitor_times, bad={f"{ENDPOINT}.interval": "30"}, objects=SCRAPED),
    Case(
        rule=monitoring.monitor_times,
        bad={f"{ENDPOINT}.scrapeTimeout": "1m"},
        objects=SCRAPED,
        good=[{f"{ENDPOINT}.scrapeTimeout": "10s"}, {f"{ENDPOINT}.interval": "1m30s"}],
    ),
    Case(rule=monitoring.alert_times, bad={f"{RULE}.for": "5 min"}, objects=ALERTED, good=[{f"{RULE}.for": "1h30m"}]),
    Case(rule=monitoring.alert_times, bad={"PrometheusRule.spec.groups[0].interval": 30}, objects=ALERTED),
    Case(
        rule=monitoring.alert_names,
        bad={f"{RULE}.alert": GONE, f"{RULE}.for": GONE, f"{RULE}.record": "writer-errors"},
        objects=ALERTED,
        good=[{f"{RULE}.alert": GONE, f"{RULE}.for": GONE, f"{RULE}.record": "writer:errors:rate5m"}],
    ),
    Case(rule=monitoring.alert_names, bad={f"{RULE}.labels.`how-bad`": "very"}, objects=ALERTED),
    Case(
        rule=monitoring.no_rules,
        bad={"PrometheusRule.spec.groups[0].rules": []},
        field="spec.groups",
        level="warning",
        objects=ALERTED,
    ),
]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_finds_the_mistake_and_leaves_its_repair_alone(case: Case) -> None:
    case.check()


def test_finds_nothing_in_a_correct_set() -> None:
    assert findings(correct(), rules=monitoring.RULES) == []
