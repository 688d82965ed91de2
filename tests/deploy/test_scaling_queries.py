"""What the number of pods follows, as Prometheus's own promtool computes it from series that are made up."""

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import pytest
import yaml
from deploy.alerting import INTERVAL, Series, promtool, told
from deploy.monitored import facts

from deploykit.deploy.config import DeployConfig
from deploykit.deploy.scaling import adapter_rules, in_flight_query

pytestmark = pytest.mark.skipif(not shutil.which("promtool"), reason="promtool is missing (Debian: prometheus)")

QUERY: Final = in_flight_query(facts(), DeployConfig(monitoring=True, scaling="keda"))


def pod(name: str, running: str, waiting: str, **labels: str) -> list[Series]:
    return [
        told("num_requests_running", running, name, **labels),
        told("num_requests_waiting", waiting, name, **labels),
    ]


def run(tmp_path: Path, expr: str, series: Sequence[Series], *expected: tuple[dict[str, str], float]) -> None:
    """Compare what a query gives after five minutes."""
    samples = [
        {"labels": "{" + ",".join(f'{key}="{value}"' for key, value in labels.items()) + "}", "value": value}
        for labels, value in expected
    ]
    test = {
        "interval": f"{INTERVAL}s",
        "input_series": [each.to_dict() for each in series],
        "promql_expr_test": [{"expr": expr, "eval_time": "5m", "exp_samples": samples}],
    }
    (tmp_path / "tests.yml").write_text(yaml.safe_dump({"evaluation_interval": f"{INTERVAL}s", "tests": [test]}))
    promtool("test", "rules", tmp_path / "tests.yml")


STEADY: Final = [*pod("a", "16x40", "5x40"), *pod("b", "3x40", "0x40")]


@pytest.mark.parametrize(
    ("what", "series", "expected"),
    [
        ("two pods", STEADY, 24),
        ("nothing to do", pod("a", "0x40", "0x40"), 0),
        ("one is gone", [*pod("a", "16x40", "5x40"), *pod("b", "9x10 stale", "9x10 stale")], 21),
        ("a version takes over", [*pod("a", "4x40", "1x40"), *pod("a", "2x40", "0x40", version="2")], 7),
        ("another namespace", [*STEADY, *pod("c", "50x40", "50x40", namespace="elsewhere")], 24),
        ("another model", [*STEADY, *pod("c", "50x40", "50x40", job="other")], 24),
    ],
)
def test_keda_asks_for_all_requests_in_flight(
    what: str, series: Sequence[Series], expected: float, tmp_path: Path
) -> None:
    run(tmp_path, QUERY, series, ({}, expected))


def test_keda_hears_nothing_where_there_is_nothing(tmp_path: Path) -> None:
    """Not 0, which would take pods away."""
    run(tmp_path, QUERY, [])
    run(tmp_path, QUERY, [told("num_requests_running", "3x40")])


def test_promtool_sees_a_wrong_figure(tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match=r"got: \{\} 2\.4E\+01"):
        run(tmp_path, QUERY, STEADY, ({}, 23))


def adapted(rule: dict[str, Any], matchers: str) -> str:
    """The adapter's query as it asks Prometheus for the pods of an autoscaler."""
    query: str = rule["metricsQuery"]
    return query.replace("<<.GroupBy>>", "pod").replace("<<.LabelMatchers>>", matchers)


def test_the_adapter_tells_the_figure_of_each_pod_it_is_asked_for(tmp_path: Path) -> None:
    (rule,) = adapter_rules()["rules"]["custom"]
    others = pod("c", "50x40", "50x40", namespace="elsewhere")
    both = pod("a", "2x40", "0x40", version="2")
    query = adapted(rule, 'namespace="tiny-python",pod=~"a|b"')
    run(tmp_path, query, [*STEADY, *others], ({"pod": "a"}, 21), ({"pod": "b"}, 3))
    run(tmp_path, query, [*STEADY, *both], ({"pod": "a"}, 23), ({"pod": "b"}, 3))
    run(tmp_path, query, [])


def test_the_adapter_finds_the_series_of_engines_in_a_cluster(tmp_path: Path) -> None:
    (rule,) = adapter_rules()["rules"]["custom"]
    outside = Series(name="num_requests_running", values="1x40", labels={"model": "tiny-python"})
    found = {"__name__": "num_requests_running", **STEADY[0].labels}
    run(tmp_path, rule["seriesQuery"], [STEADY[0], outside], (found, 16))
