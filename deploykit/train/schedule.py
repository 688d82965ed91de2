"""How far a training is, when it ends, and the learning rate that belongs to it."""

import math
from typing import Final

from deploykit.train.config import OptimConfig

FINAL_RATE: Final = 0.02
"""Learning rate at the end of the cosine, as a part of the peak."""
CHECKS: Final = 5
"""Times the validation loss is taken where epochs aren't counted."""
_FIRST: Final = 0.02
"""Least part of the peak in the warm-up: at 0 the first step would be wasted."""
_SHORTEST: Final = 0.01
"""Least warm-up of the inverse square root, which has no value at 0."""


def learning_rate(done: float, config: OptimConfig) -> float:
    """Return the learning rate once `done` (0 to 1) of the training is behind: linear warm-up, then the schedule."""
    peak = config.learning_rate or 0.0
    if done < config.warmup:
        return peak * max(done / config.warmup, _FIRST)
    if config.schedule == "constant":
        return peak
    if config.schedule == "inverse-sqrt":
        # Vaswani et al. 2017, section 5.3: the rate falls with the root of the step, from the end of the warm-up on.
        warm = max(config.warmup, _SHORTEST)
        return peak * math.sqrt(warm / max(done, warm))
    through = min((done - config.warmup) / max(1 - config.warmup, 1e-9), 1.0)
    return peak * (FINAL_RATE + (1 - FINAL_RATE) * (1 + math.cos(math.pi * through)) / 2)


class Plan:
    """When a training ends and when it looks at the validation data."""

    def __init__(self, config: OptimConfig, *, steps_an_epoch: int) -> None:
        self._config = config
        self._steps = min(
            (steps for steps in (config.max_steps, config.epochs and config.epochs * steps_an_epoch) if steps),
            default=None,
        )

    def done(self, step: int, seconds: float) -> float:
        """Return which part of the training is behind (0 to 1), by whichever of its ends is nearest."""
        parts = [0.0]
        if self._steps:
            parts.append(step / self._steps)
        if self._config.seconds:
            parts.append(seconds / self._config.seconds)
        return min(max(parts), 1.0)

    def ended(self, step: int, epoch: int, seconds: float) -> str | None:
        """Return the option whose end is reached, if one is; `epoch` counts the finished ones."""
        config = self._config
        if config.max_steps and step >= config.max_steps:
            return "max_steps"
        if config.seconds and seconds >= config.seconds:
            return "seconds"
        if config.epochs and epoch >= config.epochs:
            return "epochs"
        return None

    def validates(self, step: int, done: float, *, looks: int, epoch_over: bool) -> bool:
        """Return whether it is time for a validation, after `looks` of them."""
        if self._config.eval_steps:
            return step % self._config.eval_steps == 0
        if self._config.epochs:
            return epoch_over
        return looks + 1 < CHECKS and done >= (looks + 1) / CHECKS
