"""Alerts tried by promtool: a table of series, and what must come of them."""

import re
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import yaml

from deploykit.deploy.prometheus import Group

INTERVAL: Final = 15
"""Seconds between two values of a series, and between two evaluations."""
MINUTE: Final = 60 // INTERVAL
OURS: Final[Mapping[str, str]] = {"namespace": "tiny-python", "job": "tiny-python"}


@dataclass(frozen=True, kw_only=True)
class Series:
    """A series and its values, in promtool's notation or one by one."""

    name: str
    values: str
    labels: Mapping[str, str]

    def to_dict(self) -> dict[str, str]:
        labels = ",".join(f'{key}="{value}"' for key, value in self.labels.items())
        return {"series": f"{self.name}{{{labels}}}", "values": self.values}


def told(metric: str, values: str | Sequence[float], pod: str = "a", **labels: str) -> Series:
    """A series as a pod's scrape gives it."""
    series = values if isinstance(values, str) else " ".join(f"{value:g}" for value in values)
    own = {} if metric == "up" else {"model": "tiny-python", "version": "1"}
    return Series(name=metric, values=series, labels={**OURS, "pod": pod, **own, **labels})


def cluster(metric: str, values: str, **labels: str) -> Series:
    """A series of kube-state-metrics."""
    return Series(
        name=metric, values=values, labels={"namespace": "tiny-python", "job": "kube-state-metrics", **labels}
    )


@dataclass(frozen=True, kw_only=True)
class Case:
    """What some series must make of an alert at a moment."""

    alert: str
    what: str
    """The situation, in words."""
    series: Sequence[Series]
    at: str
    """When it is looked at: `5m`."""
    fires: Sequence[Mapping[str, str]] = ()
    """The labels of what fires, but for those that all alerts have; nothing where it must be silent."""
    shown: str = ""
    """The figure as the texts show it."""


def promtool_file(cases: Sequence[Case], rules: Path, groups: Sequence[Group]) -> dict[str, Any]:
    """Return a file for `promtool test rules`."""
    written = {
        rule["alert"]: rule for each in groups for rule in each.to_dict()["rules"]
    }  # fmt: skip
    return {
        "rule_files": [str(rules)],
        "evaluation_interval": f"{INTERVAL}s",
        "tests": [
            {
                "name": f"{case.alert}: {case.what}",
                "interval": f"{INTERVAL}s",
                "input_series": [series.to_dict() for series in case.series],
                "alert_rule_test": [
                    {
                        "alertname": case.alert,
                        "eval_time": case.at,
                        "exp_alerts": [_expected(written[case.alert], case, labels) for labels in case.fires],
                    }
                ],
            }
            for case in cases
        ],
    }


def _expected(rule: Mapping[str, Any], case: Case, labels: Mapping[str, str]) -> dict[str, Any]:
    """Return an alert to the letter: its labels, and its texts with figures and names in them."""

    def rendered(text: str) -> str:
        text = re.sub(r"\{\{ \$labels\.(\w+) \}\}", lambda found: labels[found[1]], text)
        return re.sub(r"\{\{ \$value[^}]*\}\}", case.shown, text)

    annotations = {key: rendered(text) for key, text in rule["annotations"].items()}
    return {"exp_labels": {**labels, **rule["labels"]}, "exp_annotations": annotations}


def promtool(*arguments: str | Path) -> str:
    """Return what promtool says; an assertion fails where it says that something is wrong."""
    done = subprocess.run(["promtool", *map(str, arguments)], check=False, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    return done.stdout


def write_rules(path: Path, groups: Sequence[Group]) -> Path:
    """Write groups as Prometheus's own rule file."""
    path.write_text(yaml.safe_dump({"groups": [each.to_dict() for each in groups]}, sort_keys=False))
    return path
