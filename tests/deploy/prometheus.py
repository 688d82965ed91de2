"""A real Prometheus that reads real servers, and what Grafana would make of a dashboard's queries."""

import json
import re
import socket
import subprocess
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import yaml

from deploykit.deploy.grafana import Dashboard

_LABEL_VALUES: Final = re.compile(r"label_values\((?P<series>.+), (?P<label>\w+)\)")


@dataclass(frozen=True, kw_only=True)
class Prometheus:
    """A running one."""

    url: str

    def query(self, expr: str) -> list[tuple[dict[str, str], float]]:
        """Return the series that a query gives now: their labels and values."""
        found = self.get("query", query=expr)
        assert found["resultType"] == "vector", f"{expr}: {found['resultType']}"
        return [(each["metric"], float(each["value"][1])) for each in found["result"]]

    def value(self, expr: str) -> float:
        """Return the one value that a query gives."""
        ((_, value),) = self.query(expr)
        return value

    def label_values(self, definition: str) -> list[str]:
        """Return the values of a dashboard's variable."""
        found = _LABEL_VALUES.fullmatch(definition)
        assert found, definition
        values: list[str] = self.get(f"label/{found['label']}/values", **{"match[]": found["series"]})
        return values

    def until(self, expr: str, seconds: float = 15) -> None:
        """Return as soon as a query gives something; an error meanwhile is none."""
        end = time.monotonic() + seconds
        while not self._query_or_nothing(expr):
            assert time.monotonic() < end, expr
            time.sleep(0.1)

    def _query_or_nothing(self, expr: str) -> list[Any]:
        try:
            return self.query(expr)
        except (urllib.error.HTTPError, ConnectionError, urllib.error.URLError):
            return []

    def get(self, path: str, **parameters: str) -> Any:
        """Return the data of an answer of its interface."""
        address = f"{self.url}/api/v1/{path}?{urllib.parse.urlencode(parameters)}"
        with urllib.request.urlopen(address, timeout=10) as response:
            return json.load(response)["data"]


@contextmanager
def reading(folder: Path, jobs: Sequence[Mapping[str, Any]], *rules: Path) -> Iterator[Prometheus]:
    """Run Prometheus with jobs that read twice a second, and files of rules."""
    config = {
        "global": {"scrape_interval": "500ms", "scrape_timeout": "500ms", "evaluation_interval": "1s"},
        "rule_files": [str(file) for file in rules],
        "scrape_configs": list(jobs),
    }
    (folder / "prometheus.yml").write_text(yaml.safe_dump(config))
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"127.0.0.1:{server.getsockname()[1]}"
    command = ["prometheus", f"--config.file={folder}/prometheus.yml", f"--storage.tsdb.path={folder}/data"]
    with (folder / "log").open("w") as log:
        process = subprocess.Popen([*command, f"--web.listen-address={address}"], stdout=log, stderr=log)
        try:
            yield Prometheus(url=f"http://{address}")
        finally:
            process.terminate()
            process.wait(20)


def as_grafana_asks(board: Dashboard, prometheus: Prometheus, **chosen: str) -> Iterator[tuple[str, str]]:
    """Yield each panel's title and query, a query's legend behind it: of variables that aren't chosen, every value."""
    for variable in board.variables:
        values = prometheus.label_values(_filled(variable.query, chosen))
        assert values, f"{variable.name}: {variable.query}"
        chosen.setdefault(variable.name, "(" + "|".join(map(re.escape, values)) + ")")
    for row in board.rows:
        for panel in row.panels:
            for query in panel.queries:
                name = f"{panel.title}: {query.legend}" if query.legend else panel.title
                yield name, _filled(query.expr, chosen)


def _filled(text: str, values: Mapping[str, str]) -> str:
    # As in PromQL's strings, where a backslash stands for two.
    return re.sub(r"\$(\w+)", lambda found: values[found[1]].replace("\\", "\\\\"), text)
