"""What a search may vary, as a config file's section `sweep` says it."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from deploykit.errors import ConfigError
from deploykit.train.config import TrainConfig

if TYPE_CHECKING:
    import optuna

_TRIALS: Final = 20
_BOUNDS: Final = ("low", "high", "log", "step")


@dataclass(frozen=True, kw_only=True)
class Sweep:
    """How many trainings to try, and between which values of each option."""

    space: Mapping[str, Any]
    """By option: a list of values, or `low` and `high`, with `log` where factors count and `step` for a grid."""
    trials: int = _TRIALS

    @classmethod
    def from_json(cls, data: Mapping[str, Any], config: TrainConfig) -> "Sweep":
        """Read the section, and check each option's first and last value in `config`.

        Raises:
            ConfigError: a name or a value can't be.
        """
        if unknown := [name for name in data if name not in ("trials", "space")]:
            raise ConfigError(f"sweep: unknown {unknown[0]!r}; it holds trials and space")
        trials, space = data.get("trials", _TRIALS), data.get("space")
        if isinstance(trials, bool) or not isinstance(trials, int) or trials < 1:
            raise ConfigError(f"sweep: trials must be a whole number from 1 on, got {trials!r}")
        if not isinstance(space, Mapping) or not space:
            raise ConfigError(f"sweep: space must name options and their values, got {space!r}")
        for name, choice in space.items():
            _check(name, choice, config)
        return cls(space=space, trials=trials)

    def choose(self, trial: "optuna.Trial") -> dict[str, Any]:
        """Return a value for each option, as the search suggests."""
        return {name: _suggest(trial, name, choice) for name, choice in self.space.items()}


def _check(name: str, choice: Any, config: TrainConfig) -> None:
    if isinstance(choice, list) and choice:
        values = choice
    elif isinstance(choice, Mapping) and {"low", "high"} <= set(choice) <= set(_BOUNDS):
        values = [choice["low"], choice["high"]]
        if any(isinstance(value, bool) or not isinstance(value, int | float) for value in values):
            raise ConfigError(f"sweep: {name}'s low and high must be numbers, got {values[0]!r} and {values[1]!r}")
        if not values[0] < values[1] < math.inf or (choice.get("log") and values[0] <= 0):
            raise ConfigError(f"sweep: {name} from {values[0]} to {values[1]} is no range to search")
    else:
        raise ConfigError(f"sweep: {name} must be a list of values, or low and high with log or step; got {choice!r}")
    if isinstance(choice, Mapping):
        _check_steps(name, choice)
    for value in values:
        try:
            config.but({name: value})
        except TypeError:
            raise ConfigError(f"sweep: {name!r} is no option that can be varied") from None


def _check_steps(name: str, choice: Mapping[str, Any]) -> None:
    """Check how a range is gone through."""
    low, high, log, step = choice["low"], choice["high"], choice.get("log", False), choice.get("step")
    if not isinstance(log, bool):
        raise ConfigError(f"sweep: {name}'s log must be true or false, got {log!r}")
    if step is None:
        return
    whole = isinstance(low, int) and isinstance(high, int)
    if isinstance(step, bool) or not isinstance(step, int if whole else int | float) or not 0 < step <= high - low:
        raise ConfigError(
            f"sweep: {name}'s step must be a {'whole ' if whole else ''}number up to {high - low}, got {step!r}"
        )
    if log:
        raise ConfigError(f"sweep: {name} goes by factors (log) or in equal steps (step), not both; leave one out")


def _suggest(trial: "optuna.Trial", name: str, choice: Any) -> Any:
    if isinstance(choice, list):
        return trial.suggest_categorical(name, choice)
    low, high, step, log = choice["low"], choice["high"], choice.get("step"), bool(choice.get("log"))
    if isinstance(low, int) and isinstance(high, int):
        return trial.suggest_int(name, low, high, step=step or 1, log=log)
    return trial.suggest_float(name, low, high, step=step, log=log)
