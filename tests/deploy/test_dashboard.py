"""A real Prometheus reads a real Triton: every panel shows something, and alerts and scaling ask for what is there."""

import json
import math
import shutil
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

import promql_parser
import pytest
import yaml
from deploy.alerting import write_rules
from deploy.composed import PROMETHEUS, SERVICES, asks
from deploy.monitored import facts, groups
from deploy.prometheus import Prometheus, as_grafana_asks, reading
from stacks import PROMPT, Stack

from deploykit.deploy.config import DeployConfig
from deploykit.deploy.dashboard import dashboard, text
from deploykit.deploy.grafana import WIDTH, Dashboard
from deploykit.deploy.scaling import adapter_rules, in_flight_query

CONFIG: Final = DeployConfig(monitoring=True, scaling="hpa")
GROUPS: Final = groups(CONFIG)
ELSEWHERE: Final = {"Cores in use: {{pod}}", "Memory: {{pod}}", "Memory: limit"}
"""Panels whose figures the cluster tells, not Triton."""
STREAMS: Final = 3
BOARDS: Final = {"models": dashboard(), "tiny-python": dashboard(facts(), CONFIG)}
GOLDEN: Final = Path(__file__).parents[2] / "docker/grafana/dashboards/models.json"

needs_prometheus = pytest.mark.skipif(
    not shutil.which("prometheus"), reason="prometheus is missing (Debian: prometheus)"
)


@pytest.fixture(scope="module")
def prometheus(stack: Stack, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Prometheus]:
    """A Prometheus that has seen some requests, and sees `STREAMS` more run."""
    folder = tmp_path_factory.mktemp("prometheus")
    target = urlsplit(stack.server.metrics_url).netloc
    # Once labelled as the PodMonitor has it in a cluster, and once as compose has it.
    labels = {"namespace": "tiny-python", "pod": "a"}
    job = {"job_name": "tiny-python", "static_configs": [{"targets": [target], "labels": labels}]}
    (composed,) = yaml.safe_load(PROMETHEUS.read_text())["scrape_configs"]
    composed["static_configs"][0]["targets"] = [target]
    rules = write_rules(folder / "rules.yml", GROUPS)
    with reading(folder, [job, composed], rules) as running:
        running.until('count(generation_tokens_total{model="fast"}) == 2')
        with stack.grpc("fast") as client:
            for tokens in (1, 8, 24):
                client.generate(PROMPT, max_tokens=tokens, ignore_eos=True)
        with stack.grpc("slow") as client, ExitStack() as streams:
            for _ in range(STREAMS):
                stream = client.generate(PROMPT, stream=True, max_tokens=900, ignore_eos=True)
                streams.callback(stream.close)
                next(stream)
            running.until(f'count(num_requests_running{{model="slow"}} == {STREAMS}) == 2')
            running.until('count(rate(generation_tokens_total{model="slow"}[20s]) > 0) == 2')
            yield running
    stack.calm()


@needs_prometheus
@pytest.mark.triton
@pytest.mark.parametrize(("board", "namespace"), [("models", "compose"), ("tiny-python", "tiny-python")])
def test_every_panel_shows_something(board: str, namespace: str, prometheus: Prometheus) -> None:
    asked = as_grafana_asks(BOARDS[board], prometheus, __rate_interval="20s", namespace=namespace)
    shown = {title: prometheus.query(expr) for title, expr in asked}
    assert {title for title, found in shown.items() if not found} == ELSEWHERE
    values = {title: value for title, found in shown.items() for _, value in found}
    assert not [title for title, value in values.items() if math.isnan(value)]
    assert len(shown) > 35
    assert values["Requests running"] == values["Requests: running"] == values["Requests by pod: {{pod}}"] == STREAMS
    assert values["Tokens a second: generated"] > 1
    assert 0 < values["Cache in use: {{pod}}"] < 1
    assert 0 < values["First token, p95"] < 40
    assert (values["Errors"], values["Up: {{pod}}"], values["Pods that answer"]) == (0, 1, 1)
    assert {labels["finished_reason"] for labels, _ in shown["Answers that ended: {{finished_reason}}"]} == {
        "stop", "length", "cancelled", "timeout", "error",
    }  # fmt: skip


@needs_prometheus
@pytest.mark.triton
def test_alerts_ask_for_series_that_are_there(prometheus: Prometheus) -> None:
    asked = {name for group in GROUPS for alert in group.alerts for name in _names(alert.expr)}
    ours = {name for name in asked if not name.startswith("kube_")}
    assert len(ours) > 8
    assert {name for name in ours if not prometheus.query(f'{name}{{job="tiny-python"}}')} == set()


@needs_prometheus
@pytest.mark.triton
def test_a_server_at_work_makes_no_alert(prometheus: Prometheus) -> None:
    """Prometheus itself runs the rules; those without a `for` would fire at once, the others be pending."""
    rules = prometheus.get("rules")["groups"]
    assert len([rule for group in rules for rule in group["rules"]]) == sum(len(group.alerts) for group in GROUPS)
    # Their first evaluation is within the interval of a second.
    prometheus.until("count(scrape_samples_scraped)")
    time.sleep(1.2)
    rules = prometheus.get("rules")["groups"]
    assert {rule["health"] for group in rules for rule in group["rules"]} == {"ok"}
    assert prometheus.query('ALERTS{alertstate="firing"}') == []
    assert prometheus.query('ALERTS{alertname!="DeploykitStalled"}') == []


@needs_prometheus
@pytest.mark.triton
def test_what_scales_counts_the_requests_in_flight(prometheus: Prometheus) -> None:
    assert prometheus.value(in_flight_query(facts(), CONFIG)) == STREAMS
    (rule,) = adapter_rules()["rules"]["custom"]
    ours: dict[str, Any] = {"<<.GroupBy>>": "pod", "<<.LabelMatchers>>": 'namespace="tiny-python",pod=~"a|b"'}
    query = rule["metricsQuery"]
    for placeholder, value in ours.items():
        query = query.replace(placeholder, value)
    assert prometheus.query(query) == [({"pod": "a"}, STREAMS)]
    assert prometheus.query(rule["seriesQuery"])


@needs_prometheus
@pytest.mark.triton
def test_composes_probe_of_prometheus_asks_it(prometheus: Prometheus, stack: Stack) -> None:
    probe = SERVICES["prometheus"]["healthcheck"]["test"]
    assert asks(probe, 9090, urlsplit(prometheus.url).port)
    assert not asks(probe, 9090, stack.port)


def _names(expr: str) -> set[str]:
    """The names of the series that an expression asks for."""
    found: set[str] = set()

    def visit(node: Any) -> None:
        if isinstance(node, promql_parser.VectorSelector):
            found.add(node.name or "")

    promql_parser.walk(promql_parser.parse(expr), visit)
    assert found, expr
    return found


@pytest.mark.parametrize("board", BOARDS.values(), ids=BOARDS)
def test_panels_fill_the_grid_without_overlap(board: Dashboard) -> None:
    taken: dict[tuple[int, int], str] = {}
    written = json.loads(text(board))
    for panel in written["panels"]:
        at = panel["gridPos"]
        assert at["x"] + at["w"] <= WIDTH
        for cell in ((x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])):
            assert taken.setdefault(cell, panel["title"]) == panel["title"]
    numbers = [panel["id"] for panel in written["panels"]]
    assert len(set(numbers)) == len(numbers)
    assert len(taken) == WIDTH * (1 + max(y for _, y in taken)), "no holes"


def test_a_models_dashboard_begins_with_the_model() -> None:
    model, every = (board.to_dict() for board in (BOARDS["tiny-python"], BOARDS["models"]))
    chosen = {each["name"]: each["current"] for each in model["templating"]["list"]}
    assert chosen["namespace"] == {"text": ["tiny-python"], "value": ["tiny-python"]}
    assert chosen["model"] == {"text": ["tiny-python"], "value": ["tiny-python"]}
    assert {each["current"].get("text", ["All"])[0] for each in every["templating"]["list"]} == {"All"}
    assert model["uid"] != every["uid"]
    assert len(dashboard(facts("m" * 128), CONFIG).uid) <= 40


def test_the_dashboard_of_compose_is_the_one_for_all_models(regen: bool) -> None:
    if regen:
        GOLDEN.parent.mkdir(parents=True, exist_ok=True)
        GOLDEN.write_text(text(dashboard()))
    assert GOLDEN.read_text() == text(dashboard())
