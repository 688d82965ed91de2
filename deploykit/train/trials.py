"""The trials of a search, and their table."""

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Literal

if TYPE_CHECKING:
    from optuna.trial import FrozenTrial

TRIALS: Final = "sweep.json"
TABLE: Final = "sweep.md"
_STATES: Final[Mapping[str, Literal["done", "cut short", "failed"]]] = {
    "COMPLETE": "done",
    "PRUNED": "cut short",
    "FAIL": "failed",
}


@dataclass(frozen=True, kw_only=True)
class Trial:
    """One training of a search."""

    number: int
    """From 1 on."""
    state: Literal["done", "cut short", "failed"]
    options: Mapping[str, Any]
    """What was varied."""
    score: float | None
    """Validation loss, or of a classifier the part it gets wrong; the last one known of a trial that was cut short."""
    figures: Mapping[str, Any]
    """As in training.json; only of a trial that is done."""
    reason: str
    """Why it failed."""

    @classmethod
    def of(cls, trial: "FrozenTrial") -> "Trial":
        """Return what optuna knows of a trial."""
        last = trial.intermediate_values.get(max(trial.intermediate_values, default=-1))
        return cls(
            number=trial.number + 1,
            state=_STATES.get(trial.state.name, "failed"),
            options=trial.params,
            score=last if trial.value is None else trial.value,
            figures=trial.user_attrs.get("figures", {}),
            reason=trial.user_attrs.get("reason", ""),
        )


def to_json(trials: Sequence[Trial]) -> list[dict[str, Any]]:
    """Return the trials as plain values, in the order they ran."""
    return [dataclasses.asdict(trial) for trial in trials]


def table(trials: Sequence[Trial]) -> str:
    """Return the trials as a table of Markdown, the best first, those that failed last."""
    order = {"done": 0, "cut short": 1, "failed": 2}
    ranked = sorted(trials, key=lambda trial: (order[trial.state], trial.score or 0.0, trial.number))
    options = list(dict.fromkeys(name for trial in trials for name in trial.options))
    rows = [["trial", "score", *options, "steps", "outcome"]]
    for trial in ranked:
        score = "" if trial.score is None else f"{trial.score:.4f}"
        values = [_short(trial.options.get(name, "")) for name in options]
        outcome = f"{trial.state}: {trial.reason}" if trial.reason else trial.state
        rows.append([str(trial.number), score, *values, str(trial.figures.get("steps", "")), outcome])
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]) - 1)] + [len("outcome")]
    lines = [
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) + " |" for row in rows
    ]
    return "\n".join([lines[0], "|" + "|".join("-" * (width + 2) for width in widths) + "|", *lines[1:]])


def _short(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)
