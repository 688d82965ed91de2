"""How far training is, and the learning rate that belongs to it."""

import math
import time
from typing import Final

from deploykit.config import TrainConfig

WARM_UP: Final = 0.03
"""Part of the training in which the learning rate rises."""
FINAL_RATE: Final = 0.02
"""Learning rate at the end, as a part of the peak."""


def learning_rate(done: float, peak: float) -> float:
    """Return the learning rate once `done` (0 to 1) of the training is behind: linear warm-up, then cosine."""
    if done < WARM_UP:
        # Never 0: the first step would be wasted.
        return peak * max(done / WARM_UP, 0.02)
    through = min((done - WARM_UP) / (1 - WARM_UP), 1.0)
    return peak * (FINAL_RATE + (1 - FINAL_RATE) * (1 + math.cos(math.pi * through)) / 2)


class Budget:
    """What a training may take: steps where the configuration limits them, else seconds from now on."""

    def __init__(self, config: TrainConfig) -> None:
        self._began = time.monotonic()
        self._steps = config.max_steps
        self.total = float(config.max_steps or config.seconds)

    def seconds(self) -> float:
        """Return the time since the start."""
        return time.monotonic() - self._began

    def used(self, steps: int) -> float:
        """Return what is used of `total` after `steps` steps, in its unit."""
        return min(float(steps) if self._steps else self.seconds(), self.total)
