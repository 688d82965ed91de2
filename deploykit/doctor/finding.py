"""What the doctor says: findings, each with its figures and its remedy."""

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any, Final, Literal

Level = Literal["ok", "note", "warning", "error"]
LEVELS: Final[tuple[Level, ...]] = ("ok", "note", "warning", "error")
"""From best to worst. `note`: worth knowing; `warning`: it runs, but not as it could; `error`: it won't run."""


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One thing that was looked at."""

    level: Level
    what: str
    """The thing, in a word or two: what a table's first column shows."""
    found: str
    """What it is, with figures."""
    remedy: str = ""
    """What to do; empty where there is nothing to do."""

    def to_json(self) -> dict[str, Any]:
        """Return the finding as plain JSON values."""
        return asdict(self)


def worst(findings: Iterable[Finding]) -> Level:
    """Return the worst level among findings; `ok` where there are none."""
    return max((finding.level for finding in findings), key=LEVELS.index, default="ok")


def ok(what: str, found: str) -> Finding:
    """Return a finding that needs no remedy."""
    return Finding(level="ok", what=what, found=found)
