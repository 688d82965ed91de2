"""Every alert fires where it must and is silent where it must, as Prometheus's own promtool sees it."""

import re
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final

import pytest
import yaml
from deploy.alert_cases import CASES
from deploy.alerting import Case, Series, promtool, promtool_file, write_rules
from deploy.monitored import facts, groups

from deploykit.deploy import alerts
from deploykit.deploy.config import DeployConfig
from deploykit.deploy.prometheus import Alert
from deploykit.deploy.sizing import size_pod

pytestmark = pytest.mark.skipif(not shutil.which("promtool"), reason="promtool is missing (Debian: prometheus)")

GROUPS: Final = groups(DeployConfig(monitoring=True, scaling="hpa"))
ALERTS: Final = {alert.name: alert for group in GROUPS for alert in group.alerts}
ON_NOTHING: Final = "DeploykitDown"
"""The one alert that fires because something isn't there."""


def rules_of(name: str, folder: Path) -> Path:
    """A rule file with one alert: promtool works through all that it is given, for each case."""
    found = [replace(group, alerts=[alert]) for group in GROUPS for alert in group.alerts if alert.name == name]
    return write_rules(folder / "rules.yml", found)


def with_others(cases: Sequence[Case]) -> list[Case]:
    """The cases, and for each that fires: figures of others in place of ours, which must be silent, and beside ours."""
    found = list(cases)
    for case in cases:
        if case.fires and case.alert != ON_NOTHING:
            found += (
                replace(
                    case, what=f"{case.what}, but of {label} {value}", series=_of(case.series, label, value), fires=()
                )
                for label, value in _others(case)
            )
            beside = [*case.series, *_of(case.series, "job", "other")]
            found.append(replace(case, what=f"{case.what}, beside others", series=beside))
    if cases[0].alert != ON_NOTHING:
        found.append(Case(alert=cases[0].alert, what="no series", series=[], at="30m"))
    return found


def _others(case: Case) -> Iterator[tuple[str, str]]:
    """Yield what tells others' series from ours, a label and its value at a time."""
    yield "namespace", "elsewhere"
    for each in ("job", "deployment", "horizontalpodautoscaler"):
        if any(series.labels.get(each) == "tiny-python" for series in case.series):
            yield each, "other"
    if any("container" in series.labels for series in case.series):
        yield "pod", "other-5f6c7d8e9f-abcde"


def _of(series: Sequence[Series], label: str, value: str) -> list[Series]:
    return [replace(each, labels={**each.labels, label: value}) for each in series]


@pytest.mark.parametrize("name", ALERTS)
def test_an_alert_fires_where_it_must_and_only_there(name: str, tmp_path: Path) -> None:
    cases = with_others([case for case in CASES if case.alert == name])
    assert any(case.fires for case in cases), "never seen to fire"
    assert sum(not case.fires for case in cases) > 2, "hardly seen to be silent"
    (tmp_path / "tests.yml").write_text(
        yaml.safe_dump(promtool_file(cases, rules_of(name, tmp_path), GROUPS), sort_keys=False)
    )
    promtool("test", "rules", tmp_path / "tests.yml")


def test_promtool_sees_an_alert_that_does_not_fire(tmp_path: Path) -> None:
    """Were cases not looked at, every test above would pass."""
    case = Case(alert=ON_NOTHING, what="wrong", series=[], at="1m", fires=[{}])
    (tmp_path / "tests.yml").write_text(yaml.safe_dump(promtool_file([case], rules_of(ON_NOTHING, tmp_path), GROUPS)))
    with pytest.raises(AssertionError, match="DeploykitDown: wrong"):
        promtool("test", "rules", tmp_path / "tests.yml")


@pytest.mark.parametrize("scaling", ["none", "hpa", "keda"])
def test_promtool_takes_the_rules(scaling: str, tmp_path: Path) -> None:
    found = groups(DeployConfig(monitoring=True, scaling=scaling))  # type: ignore[arg-type]
    said = promtool("check", "rules", "--lint-fatal", write_rules(tmp_path / "rules.yml", found))
    assert f"{sum(len(group.alerts) for group in found)} rules found" in said
    text = (tmp_path / "rules.yml").read_text()
    assert ("keda-hpa-tiny-python" in text) == (scaling == "keda")
    assert ("DeploykitScalerBlind" in text) == (scaling != "none")


def test_names_are_unique_and_every_case_has_its_alert() -> None:
    assert len(ALERTS) == sum(len(group.alerts) for group in GROUPS)
    assert {case.alert for case in CASES} == set(ALERTS)


@pytest.mark.parametrize("alert", ALERTS.values(), ids=ALERTS)
def test_an_alert_says_what_it_is_what_it_means_and_what_to_do(alert: Alert) -> None:
    for text in (alert.summary, alert.description, alert.runbook):
        assert "\n" not in text
        assert "  " not in text
        assert len(text) > 20
    assert len(re.sub(r"\{\{.*?\}\}", "", alert.summary)) < 100
    assert len(alert.runbook) > 60


@pytest.mark.parametrize(("load", "down", "pod"), [(2.0, 120, 300), (90.0, 270, 300), (400.0, 1200, 1200)])
def test_a_model_that_loads_for_long_is_given_time(load: float, down: int, pod: int) -> None:
    model, config = replace(facts(), load_seconds=load), DeployConfig(monitoring=True)
    group = alerts.group(alerts.watched(model, size_pod(model, config), config))
    seconds = {alert.name: alert.seconds for alert in group.alerts}
    assert (seconds["DeploykitDown"], seconds["DeploykitPodDown"]) == (down, pod)


def test_thresholds_follow_the_rows_and_the_queue_of_the_deployment() -> None:
    config = DeployConfig(monitoring=True, engine=replace(DeployConfig().engine, max_queue=100))
    model = replace(facts(), rows=6)
    group = alerts.group(alerts.watched(model, size_pod(model, config), config))
    exprs = {alert.name: alert.expr for alert in group.alerts}
    assert exprs["DeploykitQueueFull"].endswith("> 90")
    assert "> 6 * count" in exprs["DeploykitQueueLong"]
    assert exprs["DeploykitLoadUneven"].endswith("< 3")


def test_the_documentation_has_every_alert_with_its_severity_and_time() -> None:
    page = (Path(__file__).parents[2] / "docs/monitoring.md").read_text()
    rows = {
        found["name"]: (found["severity"], found["time"])
        for found in re.finditer(
            r"^\| `(?P<name>Deploykit\w+)` \| (?P<severity>\w+) \|.*\| (?P<time>[^|]+) \|$", page, re.MULTILINE
        )
    }
    assert rows.keys() == ALERTS.keys()
    for alert in ALERTS.values():
        severity, time = rows[alert.name]
        assert severity == alert.severity
        assert time.partition(",")[0] == (f"{alert.seconds // 60} min" if alert.seconds else "at once")
