"""A dashboard as Grafana reads it from a file.

https://grafana.com/docs/grafana/latest/dashboards/build-dashboards/view-dashboard-json-model/
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import count
from typing import Any, Final, Literal

SCHEMA: Final = 42
"""The newest version of the classic format (Grafana 12 and 13); older ones ignore what they don't know."""
WIDTH: Final = 24
"""Columns of the grid."""
SOURCE: Final[Mapping[str, str]] = {"type": "prometheus", "uid": "${datasource}"}


@dataclass(frozen=True, kw_only=True)
class Query:
    """A curve, or several."""

    expr: str
    legend: str = ""

    def to_dict(self, letter: str, *, instant: bool) -> dict[str, Any]:
        """Return the entry of a panel's `targets`."""
        return {
            "refId": letter,
            "datasource": dict(SOURCE),
            "expr": self.expr,
            "legendFormat": self.legend or "__auto",
            "instant": instant,
            "range": not instant,
        }


@dataclass(frozen=True, kw_only=True)
class Panel:
    """A graph, or a single figure."""

    title: str
    queries: Sequence[Query]
    unit: str = "short"
    """By Grafana's name: `s`, `percentunit`, `bytes`, `reqps`, …"""
    description: str = ""
    kind: Literal["timeseries", "stat"] = "timeseries"
    width: int = 8
    height: int = 8
    stacked: bool = False
    lowest: float | None = 0
    highest: float | None = None
    warn: float | None = None
    """From where on a single figure is red."""

    def to_dict(self, number: int, *, x: int, y: int) -> dict[str, Any]:
        """Return the entry of a dashboard's `panels`, at a place of its grid."""
        targets = [
            query.to_dict(letter, instant=self.kind == "stat")
            for letter, query in zip("ABCDEFGH", self.queries, strict=False)
        ]
        return {
            "id": number,
            "type": self.kind,
            "title": self.title,
            "description": self.description,
            "datasource": dict(SOURCE),
            "gridPos": {"h": self.height, "w": self.width, "x": x, "y": y},
            "targets": targets,
            "fieldConfig": {"defaults": self._defaults(), "overrides": []},
            "options": self._options(),
        }

    def _defaults(self) -> dict[str, Any]:
        bounds = {key: value for key, value in (("min", self.lowest), ("max", self.highest)) if value is not None}
        if self.kind == "stat":
            red = [] if self.warn is None else [{"color": "red", "value": self.warn}]
            return {
                "unit": self.unit,
                "color": {"mode": "thresholds"},
                "thresholds": {"mode": "absolute", "steps": [{"color": "green", "value": None}, *red]},
                **bounds,
            }
        stacking = {"group": "A", "mode": "normal" if self.stacked else "none"}
        custom = {"drawStyle": "line", "fillOpacity": 30 if self.stacked else 5, "showPoints": "never"}
        return {"unit": self.unit, "custom": {**custom, "stacking": stacking}, **bounds}

    def _options(self) -> dict[str, Any]:
        if self.kind == "stat":
            reduced = {"calcs": ["lastNotNull"], "fields": "", "values": False}
            return {"colorMode": "value", "graphMode": "none", "reduceOptions": reduced}
        legend = {"displayMode": "list", "placement": "bottom", "showLegend": True}
        return {"legend": legend, "tooltip": {"mode": "multi", "sort": "desc"}}


@dataclass(frozen=True, kw_only=True)
class Row:
    """Panels below one title."""

    title: str
    panels: Sequence[Panel]


@dataclass(frozen=True, kw_only=True)
class Variable:
    """What is chosen at the top: the values that a label has."""

    name: str
    title: str
    query: str
    chosen: str | None = None
    """The value at first; all where None."""

    def to_dict(self) -> dict[str, Any]:
        """Return the entry of a dashboard's variables."""
        value, text = (self.chosen, self.chosen) if self.chosen else ("$__all", "All")
        return {
            "name": self.name,
            "label": self.title,
            "type": "query",
            "datasource": dict(SOURCE),
            "definition": self.query,
            "query": {"query": self.query, "refId": f"variable-{self.name}"},
            "refresh": 2,
            "sort": 1,
            "includeAll": True,
            "multi": True,
            "current": {"text": [text], "value": [value]},
        }


@dataclass(frozen=True, kw_only=True)
class Dashboard:
    """A page of panels."""

    uid: str
    """At most 40 characters, part of its address."""
    title: str
    description: str
    variables: Sequence[Variable]
    rows: Sequence[Row]

    def to_dict(self) -> dict[str, Any]:
        """Return it as plain values."""
        source = {"name": "datasource", "label": "Data source", "type": "datasource", "query": "prometheus"}
        variables = [{**source, "current": {}}, *(variable.to_dict() for variable in self.variables)]
        return {
            "uid": self.uid,
            "title": self.title,
            "description": self.description,
            "tags": ["deploykit", "triton"],
            "schemaVersion": SCHEMA,
            "editable": True,
            "graphTooltip": 1,
            "refresh": "30s",
            "time": {"from": "now-1h", "to": "now"},
            "templating": {"list": variables},
            "panels": list(self._panels()),
        }

    def _panels(self) -> Iterator[dict[str, Any]]:
        """Yield rows and panels, each at the first free place from left to right."""
        numbers, y = count(1), 0
        for row in self.rows:
            place = {"h": 1, "w": WIDTH, "x": 0, "y": y}
            yield {
                "id": next(numbers), "type": "row", "title": row.title, "collapsed": False, "gridPos": place,
                "panels": [],
            }  # fmt: skip
            x, y, tallest = 0, y + 1, 0
            for panel in row.panels:
                if x + panel.width > WIDTH:
                    x, y, tallest = 0, y + tallest, 0
                yield panel.to_dict(next(numbers), x=x, y=y)
                x, tallest = x + panel.width, max(tallest, panel.height)
            y += tallest
